//! report.json: what one report says, and what it was made from.

use serde::{Deserialize, Serialize};
use shared::model::ModelCard;

use crate::against::Changes;
use crate::bins::BinTable;
use crate::interval::Interval;
use crate::numbers::Numbers;
use crate::operating::OperatingPoint;

/// Name of the file; it is written last, so a report that has it is complete.
pub const REPORT: &str = "report.json";

/// One report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format
    pub schema_version: u32,
    /// Digest of everything that decides the content: model, data, thresholds, program
    pub inputs: String,
    /// Clusters of the test split
    pub n: u64,
    /// The model at the split's own mix of classes
    #[serde(flatten)]
    pub numbers: Numbers,
    /// How the threshold was chosen, in words
    pub threshold_source: String,
    /// The model re-weighted to as many main tracks as background
    pub balanced: Numbers,
    /// The model re-weighted to the share of main tracks that was asked for; null if none was
    pub reweighted: Option<Numbers>,
    /// The cut on the cluster energy; null without validation data to tune it on
    pub baseline: Option<Baseline>,
    /// Other models on the same clusters
    pub others: Vec<Other>,
    /// Names of all classifiers: the model, the others, the energy cut; the order of every list below
    pub classifiers: Vec<String>,
    /// 95 % intervals, a row for each classifier
    pub intervals: Vec<Intervals>,
    /// How the intervals were made, in words
    pub intervals_by: String,
    /// Rates in bins of what is known of a cluster
    pub bins: Vec<BinTable>,
    /// Efficiency at fixed background rates
    pub operating_points: Vec<OperatingPoint>,
    /// What was set for the training of the model, by name; empty if its study is not beside it
    pub configuration: serde_json::Map<String, serde_json::Value>,
    /// What changed since the version that `--against` names; null without one
    #[serde(default)]
    pub changes: Option<Changes>,
    /// The model that was judged
    pub model: ModelSection,
    /// The data that it was judged on
    pub data: DataSection,
    /// Files of the report besides this one, paths from its folder
    pub files: Vec<String>,
}

/// The energy cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The cut in MeV
    pub energy_cut_mev: f32,
    /// How the cut was chosen, in words
    pub threshold_source: String,
    /// At the split's own mix of classes
    #[serde(flatten)]
    pub numbers: Numbers,
    /// Re-weighted to as many main tracks as background
    pub balanced: Numbers,
}

/// 95 % intervals of one classifier; null where undefined.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the interval of the number of that name")]
pub struct Intervals {
    pub f1_main_track: Option<Interval>,
    pub f1_macro: Option<Interval>,
    pub f1_weighted: Option<Interval>,
    pub balanced_f1_main_track: Option<Interval>,
    pub roc_auc: Option<Interval>,
    /// F1 of the main-track class minus the energy cut's on the same resamples
    pub f1_above_baseline: Option<Interval>,
    /// Wilson
    pub purity: Option<Interval>,
    /// Wilson
    pub efficiency: Option<Interval>,
    /// Wilson
    pub accuracy: Option<Interval>,
}

/// Another model on the same clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// How the threshold was chosen, in words
    pub threshold_source: String,
    /// At the split's own mix of classes
    #[serde(flatten)]
    pub numbers: Numbers,
    /// Re-weighted to as many main tracks as background
    pub balanced: Numbers,
    /// The model
    pub model: ModelSection,
}

/// The model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSection {
    /// Where it was
    pub path: String,
    /// Digest of the file
    pub digest: String,
    /// Device that ran it
    pub device: String,
    /// What its output was taken for
    pub output: String,
    /// What it says about itself; null for a model of another program
    pub card: Option<ModelCard>,
}

/// The test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSection {
    /// Where it was
    pub path: String,
    /// Digest of the split folder, from its manifest
    pub digest: String,
    /// Digest of the rows in order: source, row and label; reports with the same one can be compared
    pub rows_digest: String,
    /// Wire plane
    pub plane: String,
    /// Height and width of the images
    pub shape: [usize; 2],
    /// Clusters
    pub rows: u64,
    /// Main tracks among them
    pub main_tracks: u64,
    /// Events that they belong to
    pub events: u64,
    /// Sources that they come from
    pub sources: u64,
    /// Clusters whose image is in the training split too; null if no training split was given
    pub seen_in_training: Option<u64>,
}
