//! From scores to a report: every number of every classifier.

use serde_json::Map;
use shared::split::SplitFolder;

use crate::args::ReportArgs;
use crate::baseline::{Threshold, Thresholds};
use crate::bins;
use crate::figures::chart::Ink;
use crate::interval::{self, Draw, percentile, wilson};
use crate::numbers::Judged;
use crate::operating;
use crate::report::{Baseline, DataSection, Intervals, ModelSection, Other, Report};
use crate::rows::Rows;

/// Scores of another model on the same rows.
#[derive(Debug)]
pub struct OtherScores {
    /// In figures and tables
    pub name: String,
    /// `[rows]`
    pub score: Vec<f32>,
    /// Its threshold
    pub threshold: Threshold,
    /// What it is
    pub model: ModelSection,
}

/// What a report is made from.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// Digest of the inputs
    pub inputs: String,
    /// The clusters with the model's scores
    pub rows: &'a Rows,
    /// Thresholds of the model and the baseline
    pub thresholds: &'a Thresholds,
    /// The model
    pub model: ModelSection,
    /// More models
    pub others: &'a [OtherScores],
    /// What was set for the training
    pub configuration: Map<String, serde_json::Value>,
}

/// A classifier with its name and colour.
pub type Contender<'a> = (String, Ink, Judged<'a>);

/// All classifiers in the order of the report: the model, the others, the energy cut.
pub fn contenders<'a>(
    rows: &'a Rows,
    thresholds: &Thresholds,
    others: &'a [OtherScores],
) -> Vec<Contender<'a>> {
    let labels = &rows.label;
    let mut all =
        vec![("model".to_owned(), Ink::Model, Judged::model(&rows.score, labels, thresholds.score.value))];
    for (at, other) in others.iter().enumerate() {
        let judged = Judged::model(&other.score, labels, other.threshold.value);
        all.push((other.name.clone(), Ink::Other(at), judged));
    }
    if let Some(cut) = &thresholds.energy {
        let judged = Judged::energy_cut(&rows.cluster_energy, labels, cut.value);
        all.push(("energy cut".into(), Ink::Baseline, judged));
    }
    all
}

/// Put all numbers together.
pub fn report(
    evidence: Evidence,
    contenders: &[Contender],
    folder: &SplitFolder,
    args: &ReportArgs,
) -> Report {
    let rows = evidence.rows;
    let judged: Vec<&Judged> = contenders.iter().map(|contender| &contender.2).collect();
    let model = judged[0];
    let baseline = evidence.thresholds.energy.as_ref().zip(judged.last()).map(|(cut, judged)| Baseline {
        energy_cut_mev: cut.value,
        threshold_source: cut.source.clone(),
        numbers: judged.numbers(),
        balanced: judged.numbers_at(0.5),
    });
    let other = |(other, judged): (&OtherScores, &&Judged)| Other {
        threshold_source: other.threshold.source.clone(),
        numbers: judged.numbers(),
        balanced: judged.numbers_at(0.5),
        model: other.model.clone(),
    };
    let (events, count) = rows.events();
    let draws = interval::bootstrap(&judged, &events, count, interval::RESAMPLES);
    let reference = baseline.as_ref().and(draws.last());
    Report {
        schema_version: shared::SCHEMA_VERSION,
        inputs: evidence.inputs,
        n: rows.len() as u64,
        numbers: model.numbers(),
        threshold_source: evidence.thresholds.score.source.clone(),
        balanced: model.numbers_at(0.5),
        reweighted: args.prevalence.map(|share| model.numbers_at(share)),
        baseline,
        others: evidence.others.iter().zip(&judged[1..]).map(other).collect(),
        classifiers: contenders.iter().map(|contender| contender.0.clone()).collect(),
        intervals: judged.iter().zip(&draws).map(|(j, d)| intervals(j, d, reference)).collect(),
        intervals_by: format!(
            "95 %: percentiles of {} bootstrap resamples of {count} whole events; Wilson's for purity, efficiency and accuracy",
            interval::RESAMPLES
        ),
        bins: bins::tables(rows, &judged),
        operating_points: operating::points(rows, &judged),
        configuration: evidence.configuration,
        changes: None,
        model: evidence.model,
        data: data_section(rows, count, folder, args),
        files: Vec::new(),
    }
}

fn data_section(rows: &Rows, events: usize, folder: &SplitFolder, args: &ReportArgs) -> DataSection {
    let manifest = folder.manifest();
    DataSection {
        path: args.data.display().to_string(),
        digest: manifest.digest.clone(),
        rows_digest: rows.digest(),
        plane: manifest.plane.to_string(),
        shape: [manifest.height, manifest.width],
        rows: rows.len() as u64,
        main_tracks: rows.label.iter().filter(|&&label| label).count() as u64,
        events: events as u64,
        sources: rows.sources.len() as u64,
        seen_in_training: None,
    }
}

fn intervals(judged: &Judged, draws: &[Draw], reference: Option<&Vec<Draw>>) -> Intervals {
    let of = |value: fn(&Draw) -> f64| percentile(draws.iter().map(value));
    let c = judged.confusion();
    let above = |reference: &Vec<Draw>| {
        percentile(draws.iter().zip(reference).map(|(a, b)| a.f1.main_track - b.f1.main_track))
    };
    Intervals {
        f1_main_track: of(|draw| draw.f1.main_track),
        f1_macro: of(|draw| draw.f1.macro_avg),
        f1_weighted: of(|draw| draw.f1.weighted),
        balanced_f1_main_track: of(|draw| draw.balanced.main_track),
        roc_auc: of(|draw| draw.roc_auc),
        f1_above_baseline: reference.and_then(above),
        purity: wilson(c.true_positive, c.true_positive + c.false_positive),
        efficiency: wilson(c.true_positive, c.positives()),
        accuracy: wilson(c.true_positive + c.true_negative, c.total()),
    }
}
