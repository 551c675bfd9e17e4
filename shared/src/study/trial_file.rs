//! `trial.json`: everything that a training needs to know, so that a trial folder stands alone.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::StudyError;
use super::settings::StudyFile;
use super::space::KNOWN;
use crate::config::{EarlyStopping, Normalization, Objective, ScheduleName, Training};
use crate::files;
use crate::network::SimpleCnn;
use crate::plane::Plane;

/// `STUDY/trials/NNNN/trial.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialFile {
    /// Version of the format
    pub schema_version: u32,
    /// Position in the study, from 0
    pub number: u64,
    /// Seed of the study; weights and shuffles come from streams of (this, `number`)
    pub study_seed: u64,
    /// Parameters, by their names in the journal
    pub params: Map<String, Value>,
    /// Wire plane of the images
    pub plane: Plane,
    /// Height in ticks, width in channels
    pub input_shape: [usize; 2],
    /// Most epochs
    pub epochs: u32,
    /// Rows of an optimiser step, unless `params` has `batch_size`
    pub batch_size: usize,
    /// When to stop before the last epoch
    pub early_stopping: EarlyStopping,
    /// What the network sees of the ADC counts
    pub normalization: Normalization,
    /// What the study optimises
    pub objective: Objective,
    /// Rates, loss, decay and clipping, unless `params` has them
    #[serde(flatten)]
    pub training: Training,
    /// Digest of what all trials of the study have in common, and of its space
    pub config_digest: String,
}

impl TrialFile {
    /// A trial of a study.
    pub fn new(study: &StudyFile, number: u64, params: Map<String, Value>) -> Self {
        let common = &study.experiment;
        Self {
            schema_version: crate::SCHEMA_VERSION,
            number,
            study_seed: study.seed,
            params,
            plane: common.plane,
            input_shape: common.input_shape,
            epochs: common.epochs,
            batch_size: common.batch_size,
            early_stopping: common.early_stopping.clone(),
            normalization: common.normalization,
            objective: common.objective,
            training: common.training.clone(),
            config_digest: study.config_digest.clone(),
        }
    }

    /// Read a trial folder's file.
    ///
    /// # Errors
    /// [`StudyError::File`]
    pub fn read(folder: &Path) -> Result<Self, StudyError> {
        Ok(files::read_json(&folder.join("trial.json"))?)
    }

    /// The network of this trial.
    ///
    /// # Errors
    /// [`StudyError::Param`] names a parameter that is missing or makes no sense; [`StudyError::Network`] a layer that
    /// has no room.
    pub fn network(&self) -> Result<SimpleCnn, StudyError> {
        let dense_layers = self.whole("n_dense_layers")?;
        let network = SimpleCnn {
            height: self.input_shape[0],
            width: self.input_shape[1],
            filters: self.whole("n_filters")?,
            kernel: self.whole("kernel_size")?,
            conv_layers: self.whole("n_conv_layers")?,
            dense_layers,
            units: if dense_layers == 0 { 0 } else { self.whole("n_dense_units")? },
            dropout: self.dropout()?,
        };
        network.layers().map_err(|source| StudyError::Network { number: self.number, source })?;
        Ok(network)
    }

    /// Adam's rate at step 0.
    ///
    /// # Errors
    /// [`StudyError::Param`]
    pub fn learning_rate(&self) -> Result<f64, StudyError> {
        self.number("learning_rate")
    }

    /// Factor on the rate every 10000 steps; 1 where no exponential schedule needs one.
    ///
    /// # Errors
    /// [`StudyError::Param`]
    pub fn decay_rate(&self) -> Result<f64, StudyError> {
        let exponential = self.training.learning_rate_schedule.name == ScheduleName::Exponential;
        if exponential || self.params.contains_key("decay_rate") {
            self.number("decay_rate")
        } else {
            Ok(1.0)
        }
    }

    /// Rates, loss, decay and clipping, with what the space decides.
    ///
    /// # Errors
    /// [`StudyError::Param`]
    pub fn training(&self) -> Result<Training, StudyError> {
        let mut training = self.training.clone();
        let drawn = |key| self.params.contains_key(key).then(|| self.number(key)).transpose();
        if let Some(share) = drawn("label_smoothing")? {
            training.label_smoothing = share;
        }
        if let Some(gamma) = drawn("focal_gamma")? {
            training.focal_loss.get_or_insert_default().gamma = gamma;
        }
        if let Some(decay) = drawn("weight_decay")? {
            training.weight_decay = Some(decay);
        }
        if let Some(norm) = drawn("global_clipnorm")? {
            training.global_clipnorm = Some(norm);
        }
        if let Some(epochs) = drawn("warmup_epochs")? {
            training.learning_rate_schedule.warmup_epochs = Some(epochs);
        }
        let fail = |(key, reason): (&str, String)| StudyError::Param { key: key.to_owned(), reason };
        training.check().map_err(fail)?;
        Ok(training)
    }

    /// Share of dense activations dropped while training; 0 where the space has none, as in v1 to v3.
    ///
    /// # Errors
    /// [`StudyError::Param`]
    pub fn dropout(&self) -> Result<f64, StudyError> {
        if self.params.contains_key("dropout_rate") { self.number("dropout_rate") } else { Ok(0.0) }
    }

    /// Rows of an optimiser step.
    ///
    /// # Errors
    /// [`StudyError::Param`]
    pub fn batch_size(&self) -> Result<usize, StudyError> {
        if self.params.contains_key("batch_size") { self.whole("batch_size") } else { Ok(self.batch_size) }
    }

    fn whole(&self, key: &str) -> Result<usize, StudyError> {
        self.number(key).map(|value| value as usize)
    }

    fn number(&self, key: &str) -> Result<f64, StudyError> {
        let fail = |reason| StudyError::Param { key: key.to_owned(), reason };
        let value = self.params.get(key).ok_or_else(|| fail("missing; add it to `space_options`".into()))?;
        let known = KNOWN.iter().find(|known| known.name == key);
        let known = known.ok_or_else(|| fail("unknown".into()))?;
        known.domain.check(value).map_err(fail)
    }

    /// Whether a training with these parameters can exist.
    ///
    /// # Errors
    /// As [`Self::network`] and the other accessors.
    pub fn check(&self) -> Result<(), StudyError> {
        self.network()?;
        self.learning_rate()?;
        self.decay_rate()?;
        self.batch_size()?;
        self.training()?;
        Ok(())
    }
}
