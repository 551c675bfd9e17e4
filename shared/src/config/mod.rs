//! The users' own JSON configuration.

mod check;
mod keys;
#[cfg(test)]
mod tests;
mod training;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::files::{self, FileError};
use crate::plane::Plane;

pub use training::{Balanced, ClassWeight, FocalLoss, RateSchedule, ScheduleName, Training, Weights};

/// One experiment, as in the users' config files; every key has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `simple_cnn`; `hyperopt_simple_cnn` means the same
    pub model_name: String,
    /// Folder for results
    pub output_folder: PathBuf,
    /// Wire plane of the images
    pub plane: Plane,
    /// Folders with NPZ files; relative ones start at the config's folder
    pub data_directories: Vec<PathBuf>,
    /// What `prepare` does
    pub dataset_parameters: DatasetParameters,
    /// What `search` and `train` do
    pub model_parameters: ModelParameters,
    /// Keys that this program does not know, kept as they are
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How the clusters become splits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatasetParameters {
    /// Share of the events for training
    pub train_fraction: f64,
    /// Share of the events for validation
    pub val_fraction: f64,
    /// Share of the events for test
    pub test_fraction: f64,
    /// Kept for the users' sake: splits are drawn by a seeded hash and training shuffles always
    pub shuffle_data: bool,
    /// Whether to balance the classes
    pub balance_data: bool,
    /// How to balance them
    pub balance_method: Balance,
    /// Most clusters to use
    pub max_samples: Option<u64>,
    /// Seed of every choice
    pub random_seed: u64,
    /// File name pattern with `*` and `{plane}`
    pub batch_pattern: String,
    /// Keys that this program does not know, kept as they are
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How to make the classes equally frequent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balance {
    /// Leave them as they are
    None,
    /// Leave out rows of the larger class
    Undersample,
    /// Repeat rows of the smaller class
    Oversample,
}

/// What a study searches and how a trial trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelParameters {
    /// Height, width and, for the users' sake, the channel count 1
    pub input_shape: Vec<usize>,
    /// Budget of the study in trials
    pub hp_max_evals: u64,
    /// Most epochs of a trial
    pub epochs: u32,
    /// Rows of an optimiser step, unless the space has `batch_size`
    pub batch_size: usize,
    /// When to stop before the last epoch
    pub early_stopping: EarlyStopping,
    /// What the network sees of the ADC counts
    pub normalization: Normalization,
    /// What the study optimises
    pub objective: Objective,
    /// Rates, loss, decay and clipping
    #[serde(flatten)]
    pub training: Training,
    /// The search space: parameter name to choices or range
    pub space_options: Map<String, Value>,
    /// Keys that this program does not know, kept as they are
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Stop when the monitored value no longer improves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EarlyStopping {
    /// What is watched; it also decides which weights are the best
    pub monitor: Monitor,
    /// Epochs without improvement before training stops
    pub patience: u32,
    /// Least change that counts as an improvement
    pub min_delta: f64,
    /// Whether the exported model has the best epoch's weights, not the last one's
    pub restore_best_weights: bool,
    /// Keys that this program does not know, kept as they are
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A value of `history.csv` that early stopping can watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of `history.csv`")]
pub enum Monitor {
    ValLoss,
    ValAccuracy,
    ValF1,
}

/// What the study optimises: the value of the epoch whose weights are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// F1 of the main-track class at the threshold best on validation; maximised
    ValF1,
    /// Accuracy at threshold 0.5; maximised
    ValAccuracy,
    /// Mean binary cross-entropy in nats; minimised
    ValLoss,
}

/// What the network sees of the ADC counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalization {
    /// ADC / 1000
    Scale,
    /// ADC as it is
    Raw,
}

impl Normalization {
    /// The factor on ADC counts.
    pub const fn factor(self) -> f32 {
        match self {
            Self::Scale => 0.001,
            Self::Raw => 1.0,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_name: "simple_cnn".into(),
            output_folder: "out".into(),
            plane: Plane::X,
            data_directories: Vec::new(),
            dataset_parameters: DatasetParameters::default(),
            model_parameters: ModelParameters::default(),
            other: Map::new(),
        }
    }
}

impl Default for DatasetParameters {
    fn default() -> Self {
        Self {
            train_fraction: 0.7,
            val_fraction: 0.15,
            test_fraction: 0.15,
            shuffle_data: true,
            balance_data: false,
            balance_method: Balance::Undersample,
            max_samples: None,
            random_seed: 42,
            batch_pattern: "*_plane{plane}.npz".into(),
            other: Map::new(),
        }
    }
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self {
            monitor: Monitor::ValLoss,
            patience: 10,
            min_delta: 0.0,
            restore_best_weights: true,
            other: Map::new(),
        }
    }
}

impl Default for ModelParameters {
    fn default() -> Self {
        Self {
            input_shape: vec![128, 16, 1],
            hp_max_evals: 25,
            epochs: 80,
            batch_size: 128,
            early_stopping: EarlyStopping::default(),
            normalization: Normalization::Scale,
            objective: Objective::ValF1,
            training: Training::default(),
            space_options: v4_space(),
            other: Map::new(),
        }
    }
}

fn v4_space() -> Map<String, Value> {
    let pairs = [
        ("n_conv_layers", json!([2, 3, 4])),
        ("n_dense_layers", json!([2, 3])),
        ("n_filters", json!([32, 64, 128, 256])),
        ("kernel_size", json!([3, 5])),
        ("n_dense_units", json!([64, 128, 256])),
        ("dropout_rate", json!([0.1, 0.2, 0.3, 0.4])),
        ("learning_rate", json!([0.0001, 0.005])),
        ("decay_rate", json!([0.95, 0.98])),
    ];
    pairs.into_iter().map(|(name, options)| (name.to_owned(), options)).collect()
}

impl ModelParameters {
    /// Height in ticks and width in channels of the images.
    ///
    /// ```
    /// let parameters = shared::config::ModelParameters::default();
    /// assert_eq!(parameters.image_size(), [128, 16]);
    /// ```
    pub fn image_size(&self) -> [usize; 2] {
        let side = |axis: usize| self.input_shape.get(axis).copied().unwrap_or(0);
        [side(0), side(1)]
    }
}

impl Objective {
    /// Whether the study looks for the greatest value.
    pub const fn is_maximised(self) -> bool {
        !matches!(self, Self::ValLoss)
    }

    /// The name in configs and in `history.csv`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ValF1 => "val_f1",
            Self::ValAccuracy => "val_accuracy",
            Self::ValLoss => "val_loss",
        }
    }
}

/// A config that can't be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("config `{}` can't be used", path.display())]
    Refused {
        path: PathBuf,
        #[source]
        source: Refusal,
    },
}

/// What is wrong with a config; `key` is a path such as `dataset_parameters.train_fraction`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Refusal {
    #[error("key `{key}` is unknown; did you mean `{meant}`?")]
    Typo { key: String, meant: String },
    #[error("key `{key}`: {reason}")]
    Value { key: String, reason: String },
}

impl Config {
    /// Read a config file and check every value that this program knows.
    ///
    /// Relative `data_directories` and `output_folder` then start at the config's folder. Unknown keys are
    /// warned about and kept in `other`.
    ///
    /// # Errors
    /// [`ConfigError::File`] for a file that is not JSON; [`ConfigError::Refused`] names the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let value: Value = files::read_json(path)?;
        let refused = |source| ConfigError::Refused { path: path.to_owned(), source };
        let mut config = Self::from_value(&value).map_err(refused)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.output_folder = folder.join(&config.output_folder);
        for directory in &mut config.data_directories {
            *directory = folder.join(&directory);
        }
        Ok(config)
    }

    /// Check a config that is not in a file.
    ///
    /// # Errors
    /// [`Refusal`] names the key.
    pub fn from_value(value: &Value) -> Result<Self, Refusal> {
        keys::check(value)?;
        let config: Self = keys::parse(value)?;
        check::check(&config)?;
        Ok(config)
    }
}
