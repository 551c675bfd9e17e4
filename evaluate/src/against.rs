//! What changed since the version before: another report, or another study or trial.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::files;
use shared::model::ModelCard;

use crate::compare::{Pair, Side, changed_settings, pair};
use crate::error::Error;
use crate::interval;
use crate::numbers::Judged;
use crate::predictions::{self, Predictions};
use crate::report::{REPORT, Report};
use crate::rows::Rows;
use crate::study::{self, STUDY};

/// What changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// The version before
    pub since: String,
    /// Settings that differ: key, before, now
    pub settings: Vec<(String, String, String)>,
    /// The numbers against that report's; null if it is no report, or one on other clusters
    pub pair: Option<Pair>,
    /// Why there is no pair; empty with one
    pub no_pair: String,
}

/// The version before, read.
#[derive(Debug)]
pub struct Before {
    path: PathBuf,
    configuration: Map<String, Value>,
    report: Option<(Report, Predictions)>,
    /// Digest of what was read
    pub digest: String,
}

/// Read the version before.
///
/// - `path`: folder of a report, of a study (its best trial is meant), or of a trial
///
/// # Errors
/// [`Error::NoVersion`] if it is none of these, [`Error::File`]
pub fn read(path: &Path) -> Result<Before, Error> {
    let file = path.join(REPORT);
    if file.is_file() {
        let report: Report = files::read_json(&file)?;
        let predictions = predictions::read(&path.join("predictions.parquet"))?;
        let (configuration, digest) = (report.configuration.clone(), report.inputs.clone());
        return Ok(Before {
            path: path.to_owned(),
            configuration,
            report: Some((report, predictions)),
            digest,
        });
    }
    let no_version = || Error::NoVersion { path: path.to_owned() };
    let trial = if path.join(STUDY).is_file() {
        let bytes = files::read_bytes(&path.join("best.onnx"))?;
        let card = |source| Error::Card { path: path.join("best.onnx"), source };
        let trial = ModelCard::from_onnx(&bytes).map_err(card)?.trial.ok_or_else(no_version)?;
        path.join("trials").join(trial)
    } else {
        // So that `.` has parents.
        path.canonicalize().map_err(|_| no_version())?
    };
    let configuration = study::of_trial(&trial).ok_or_else(no_version)?.configuration;
    let digest = files::digest(Value::Object(configuration.clone()).to_string().as_bytes());
    Ok(Before { path: path.to_owned(), configuration, report: None, digest })
}

/// What changed from there to this report, whose model is `judged` on `rows`.
pub fn changes(before: &Before, report: &Report, rows: &Rows, judged: &Judged) -> Changes {
    let (pair, no_pair) = match &before.report {
        None => (None, "it is no report, so there are no scores to compare"),
        Some((old, _)) if old.data.rows_digest != report.data.rows_digest => {
            (None, "it is about other clusters, so the numbers can't be compared")
        }
        Some((old, predictions)) => (Some(paired(old, predictions, report, rows, judged)), ""),
    };
    Changes {
        since: before.path.display().to_string(),
        settings: changed_settings(&before.configuration, &report.configuration),
        pair,
        no_pair: no_pair.into(),
    }
}

fn paired(old: &Report, predictions: &Predictions, report: &Report, rows: &Rows, now: &Judged) -> Pair {
    let then = Judged::model(&predictions.score, &predictions.label, old.numbers.threshold);
    let (events, count) = rows.events();
    let draws = interval::bootstrap(&[&then, now], &events, count, interval::RESAMPLES);
    let before = Side { name: "before", report: old, judged: &then, draws: &draws[0] };
    pair(&before, &Side { name: "now", report, judged: now, draws: &draws[1] })
}
