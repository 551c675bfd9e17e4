//! report.json: what one report says, and what it was made from.

use serde::{Deserialize, Serialize};
use shared::model::ModelCard;

use crate::numbers::Numbers;

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
    /// The cut on the cluster energy; null without validation data to tune it on
    pub baseline: Option<Baseline>,
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

/// The model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSection {
    /// Where it was
    pub path: String,
    /// Digest of the file
    pub digest: String,
    /// Device that ran it
    pub device: String,
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
}
