//! `study.json`: what a study searches, how, and for how long.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::StudyError;
use super::pruner::Pruner;
use super::sampler::SamplerKind;
use super::space::Space;
use crate::config::{Config, EarlyStopping, Normalization, Objective, Training};
use crate::files;
use crate::plane::Plane;

/// `STUDY/study.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyFile {
    /// Version of the format
    pub schema_version: u32,
    /// Name in the journal
    pub study_name: String,
    /// When it was made
    pub created: String,
    /// Digest of `experiment`
    pub config_digest: String,
    /// Digest of the split folder; the first training sets it
    pub data_digest: Option<String>,
    /// What every trial has in common
    pub experiment: Experiment,
    /// Parameter name to choices or range, as in the config
    pub space: Map<String, Value>,
    /// Seed of parameters, weights and shuffles
    pub seed: u64,
    /// How trials are chosen
    pub sampler: SamplerKind,
    /// Which trials are stopped early
    #[serde(default)]
    pub pruner: Pruner,
    /// When the study ends
    #[serde(flatten)]
    pub limits: Limits,
}

/// When a study ends, and how long it waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Most trials that do not fail
    pub budget: u64,
    /// No new trial once the first one started so many seconds ago
    #[serde(default)]
    pub time_budget_s: Option<f64>,
    /// No new trial after so many finished ones without a new best
    #[serde(default)]
    pub stop_after: Option<u64>,
    /// Most trials that run at the same time
    #[serde(default)]
    pub max_in_flight: Option<u64>,
    /// Seconds of silence after which a worker counts as dead
    pub lease_seconds: f64,
    /// How often a trial whose worker died is started again
    pub retry_limit: u64,
}

/// What every trial of a study has in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Wire plane of the images
    pub plane: Plane,
    /// Height in ticks, width in channels
    pub input_shape: [usize; 2],
    /// Most epochs
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
}

/// What `search create` may say beside the config; what it does not say has a default.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Name in the journal; else the folder's
    pub name: Option<String>,
    /// Seed; else the config's `random_seed`
    pub seed: Option<u64>,
    /// How trials are chosen; else TPE
    pub sampler: Option<SamplerKind>,
    /// Which trials are stopped early; else none
    pub pruner: Option<Pruner>,
    /// Most trials; else the config's `hp_max_evals`
    pub budget: Option<u64>,
    /// See [`Limits`]
    pub time_budget_s: Option<f64>,
    /// See [`Limits`]
    pub stop_after: Option<u64>,
    /// See [`Limits`]
    pub max_in_flight: Option<u64>,
    /// See [`Limits`]; else 60
    pub lease_seconds: Option<f64>,
    /// See [`Limits`]; else 3
    pub retry_limit: Option<u64>,
}

impl Experiment {
    /// The common part of a config.
    pub fn of(config: &Config) -> Self {
        let model = &config.model_parameters;
        Self {
            plane: config.plane,
            input_shape: model.image_size(),
            epochs: model.epochs,
            batch_size: model.batch_size,
            early_stopping: model.early_stopping.clone(),
            normalization: model.normalization,
            objective: model.objective,
            training: model.training.clone(),
        }
    }
}

impl StudyFile {
    /// A study's settings from a config.
    ///
    /// # Errors
    /// [`StudyError::Space`]; [`StudyError::Setting`].
    pub fn new(dir: &Path, config: &Config, options: &Options) -> Result<Self, StudyError> {
        let experiment = Experiment::of(config);
        let space = config.model_parameters.space_options.clone();
        Space::from_options(&space)?;
        let limits = Limits::new(config, options)?;
        Ok(Self {
            schema_version: crate::SCHEMA_VERSION,
            study_name: options.name.clone().unwrap_or_else(|| name_of(dir)),
            created: super::journal::line::time(jiff::Timestamp::now()),
            config_digest: digest(&experiment, &space),
            data_digest: None,
            experiment,
            space,
            seed: options.seed.unwrap_or(config.dataset_parameters.random_seed),
            sampler: options.sampler.unwrap_or_default(),
            pruner: options.pruner.clone().unwrap_or_default(),
            limits,
        })
    }

    /// What another file has that can't change in a study: `key: here → there`.
    pub fn differences(&self, other: &Self, options: &Options) -> Vec<String> {
        let view = |file: &Self| {
            let mut view = json!({ "model_parameters": file.experiment, "space_options": file.space });
            if options.seed.is_some() {
                view["seed"] = json!(file.seed);
            }
            if options.sampler.is_some() {
                view["sampler"] = json!(file.sampler);
            }
            if options.pruner.is_some() {
                view["pruner"] = json!(file.pruner);
            }
            view
        };
        let mut found = Vec::new();
        compare("", &view(self), &view(other), &mut found);
        found
    }

    /// Whether the study looks for the greatest value.
    pub const fn maximise(&self) -> bool {
        self.experiment.objective.is_maximised()
    }
}

impl Limits {
    fn new(config: &Config, options: &Options) -> Result<Self, StudyError> {
        let positive = |key: &'static str, value: Option<f64>| match value {
            Some(value) if !(value > 0.0 && value.is_finite()) => {
                Err(StudyError::Setting { key, reason: format!("{value} is not above 0") })
            }
            value => Ok(value),
        };
        Ok(Self {
            budget: options.budget.unwrap_or(config.model_parameters.hp_max_evals),
            time_budget_s: positive("time_budget_s", options.time_budget_s)?,
            stop_after: options.stop_after,
            max_in_flight: options.max_in_flight,
            lease_seconds: positive("lease_seconds", options.lease_seconds)?.unwrap_or(60.0),
            retry_limit: options.retry_limit.unwrap_or(3),
        })
    }
}

fn name_of(dir: &Path) -> String {
    let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    whole.file_name().map_or_else(|| "study".into(), |name| name.to_string_lossy().into_owned())
}

fn digest(experiment: &Experiment, space: &Map<String, Value>) -> String {
    files::digest(json!({ "experiment": experiment, "space": space }).to_string().as_bytes())
}

/// Collect `path: a → b` for every leaf that differs; a list is a leaf.
pub fn compare(path: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            let added = right.keys().filter(|key| !left.contains_key(*key));
            for key in left.keys().chain(added) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(
                    &path,
                    left.get(key).unwrap_or(&Value::Null),
                    right.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        _ if a == b => {}
        _ => found.push(format!("  {path}: {a} → {b}")),
    }
}
