//! The manifest of a split folder: written last, so a folder that has one is complete.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::plane::Plane;

/// Name of the manifest in its folder.
pub const MANIFEST: &str = "manifest.json";

/// One of the three splits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What weights are fitted on
    Train,
    /// What epochs, trials and thresholds are chosen on
    Validation,
    /// What only the report sees
    Test,
}

impl Split {
    /// All splits; where an image is in several, the earlier keeps it.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// Name of its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no split.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no split; give train, validation or test")]
pub struct NoSplitName(String);

impl FromStr for Split {
    type Err = NoSplitName;

    fn from_str(text: &str) -> Result<Self, NoSplitName> {
        Self::ALL.into_iter().find(|split| split.name() == text).ok_or_else(|| NoSplitName(text.to_owned()))
    }
}

/// What a split folder holds and how it came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the folder's format
    pub schema_version: u32,
    /// Wire plane of all images
    pub plane: Plane,
    /// Ticks of an image
    pub height: usize,
    /// Channels of an image
    pub width: usize,
    /// Digest of all rows of all splits: source, row, image and label; the data digest of a study
    pub digest: String,
    /// Seed of every choice
    pub seed: u64,
    /// The splits that are there
    pub splits: BTreeMap<Split, SplitSummary>,
    /// How `prepare` made them: settings, class mix before and after, duplicates, bad files
    #[serde(default)]
    pub preparation: Map<String, Value>,
}

/// The rows and files of one split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitSummary {
    /// Rows of all parts
    pub rows: u64,
    /// Rows that are main tracks
    pub main_tracks: u64,
    /// Files in the order of their rows
    pub parts: Vec<Part>,
}

/// One Parquet file of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Name in the split's folder
    pub name: String,
    /// Rows
    pub rows: u64,
}
