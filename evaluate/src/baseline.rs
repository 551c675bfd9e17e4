//! Thresholds for the model and for the baseline, a plain cut on the cluster energy; never chosen on the test split.

use std::path::PathBuf;

use shared::metrics::Ranking;
use shared::split::{Split, SplitFolder};

use crate::args::{ReportArgs, ThresholdRule};
use crate::error::Error;
use crate::model::{Model, Scorers};
use crate::rows::Rows;
use crate::score;

/// Said where a report has no baseline.
pub const HOW_TO_GET_ONE: &str = "the model has no `energy_cut_mev` in its metadata and there is no validation split beside the test split; give `--validation DIR`";

/// A threshold and where it comes from, in words.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// At or above is called main track
    pub value: f32,
    /// For the report
    pub source: String,
}

/// The two thresholds of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// On the model's score
    pub score: Threshold,
    /// On the cluster energy in MeV; `None` without validation data
    pub energy: Option<Threshold>,
}

/// Choose both thresholds by the rule that the user gave.
///
/// # Errors
/// [`Error::NoThreshold`], [`Error::NoValidation`], [`Error::Unreachable`], [`Error::NoMainTracks`] and those of
/// scoring the validation split
pub fn choose(args: &ReportArgs, model: &Model, scorers: &mut Scorers) -> Result<Thresholds, Error> {
    let mut validation = Validation { folder: folder(args)?, path: path(args), rows: None };
    let stored = model.card.as_ref();
    let in_model = |value| Threshold { value, source: "best F1 on validation, stored in the model".into() };
    let rule = args.threshold;
    let score = match (rule, stored.and_then(|card| card.threshold)) {
        (ThresholdRule::Fixed(value), _) => Threshold { value, source: "given".into() },
        (ThresholdRule::Validation, Some(value)) => in_model(value),
        (ThresholdRule::Validation, None) if validation.folder.is_none() => {
            return Err(Error::NoThreshold { path: model.path().to_owned() });
        }
        _ => {
            let rows = validation.rows(rule, scorers)?;
            let ranking = Ranking::new(&rows.score, &rows.label);
            validation.threshold(rule, ranking)?
        }
    };
    let energy = match (rule, stored.and_then(|card| card.energy_cut_mev)) {
        (ThresholdRule::Validation | ThresholdRule::Fixed(_), Some(value)) => Some(in_model(value)),
        _ if validation.folder.is_none() => {
            tracing::warn!("no energy-cut baseline in this report: {HOW_TO_GET_ONE}");
            None
        }
        _ => {
            let rule = if let ThresholdRule::Fixed(_) = rule { ThresholdRule::Validation } else { rule };
            let ranking = validation.energies()?;
            Some(validation.threshold(rule, ranking)?)
        }
    };
    Ok(Thresholds { score, energy })
}

/// The validation split: given, or beside the test split.
fn path(args: &ReportArgs) -> PathBuf {
    args.validation.clone().unwrap_or_else(|| args.data.with_file_name(Split::Validation.name()))
}

/// The validation split, if it is there; a given one must be.
fn folder(args: &ReportArgs) -> Result<Option<(SplitFolder, Split)>, Error> {
    match (SplitFolder::open_split(&path(args)), &args.validation) {
        (Ok(found), _) => Ok(Some(found)),
        (Err(error), Some(_)) => Err(error.into()),
        (Err(_), None) => Ok(None),
    }
}

/// The validation split, scored when it is first needed.
struct Validation {
    folder: Option<(SplitFolder, Split)>,
    path: PathBuf,
    rows: Option<Rows>,
}

impl Validation {
    fn rows(&mut self, rule: ThresholdRule, scorers: &mut Scorers) -> Result<&Rows, Error> {
        let Some((folder, split)) = &self.folder else {
            return Err(Error::NoValidation { rule: rule.to_string(), validation: self.path.clone() });
        };
        let rows = score::score_split(folder, *split, scorers)?.rows;
        Ok(self.rows.insert(rows))
    }

    fn energies(&self) -> Result<Option<Ranking>, Error> {
        if let Some(rows) = &self.rows {
            return Ok(Ranking::new(&rows.cluster_energy, &rows.label));
        }
        let Some((folder, split)) = &self.folder else { return Ok(None) };
        let (energies, labels) = score::energies(folder, *split)?;
        Ok(Ranking::new(&energies, &labels))
    }

    fn threshold(&self, rule: ThresholdRule, ranking: Option<Ranking>) -> Result<Threshold, Error> {
        let no_main_tracks = || Error::NoMainTracks { validation: self.path.clone() };
        let ranking = ranking.filter(|r| r.class_counts().1 > 0).ok_or_else(no_main_tracks)?;
        let value = match rule {
            ThresholdRule::Purity(share) => ranking.threshold_for_precision(share),
            ThresholdRule::Efficiency(share) => ranking.threshold_for_recall(share),
            ThresholdRule::Validation | ThresholdRule::Fixed(_) => {
                ranking.best_f1().map(|best| best.threshold)
            }
        };
        let purities = || ranking.points().map(|point| point.confusion.main_track().precision);
        let value = value.ok_or_else(|| Error::Unreachable {
            rule: rule.to_string(),
            validation: self.path.clone(),
            best: purities().fold(0.0, f64::max),
        })?;
        let what = if rule == ThresholdRule::Validation { "best F1".to_owned() } else { rule.to_string() };
        Ok(Threshold { value, source: format!("{what} on {}", self.path.display()) })
    }
}
