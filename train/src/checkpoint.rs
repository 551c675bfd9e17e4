//! What a killed training needs to go on bit by bit: tensors and counters in one safetensors file.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use shared::files::{self, FileError};

use crate::engine::Weights;
use crate::history::Epoch;

/// A training between two epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Weights and moments after the last epoch
    pub last: Weights,
    /// Parameters of the best epoch so far
    pub best: Vec<f32>,
    /// Everything that is no tensor
    pub progress: Progress,
}

/// Counters and history of a training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What the checkpoint belongs to: digests of trial and data
    pub identity: String,
    /// Best epoch so far, from 1; 0 before the first
    pub best_epoch: u32,
    /// Epochs since the last improvement
    pub waited: u32,
    /// Whether training has ended: only the export is left
    pub ended: bool,
    /// Seconds of training so far, over all starts
    pub seconds: f64,
    /// One entry an epoch
    pub history: Vec<Epoch>,
}

/// A checkpoint that can't be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum CheckpointError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("checkpoint `{path}` is damaged: {what}; delete it to start this trial again")]
    Damaged { path: String, what: String },
}

const PROGRESS: &str = "progress";
const STEP: &str = "step";

impl Checkpoint {
    /// Write the checkpoint, whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let tensors =
            [("params", &self.last.params), ("m", &self.last.m), ("v", &self.last.v), ("best", &self.best)]
                .map(|(name, values)| (name, values.len(), bytes_of(values)));
        let damaged = |what: String| CheckpointError::Damaged { path: path.display().to_string(), what };
        let views = tensors
            .iter()
            .map(|(name, length, bytes)| Ok((*name, TensorView::new(Dtype::F32, vec![*length], bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| damaged(error.to_string()))?;
        let progress = serde_json::to_string(&self.progress).map_err(|error| damaged(error.to_string()))?;
        let metadata =
            HashMap::from([(PROGRESS.to_owned(), progress), (STEP.to_owned(), self.last.step.to_string())]);
        let bytes =
            safetensors::serialize(views, Some(metadata)).map_err(|error| damaged(error.to_string()))?;
        Ok(files::write_bytes(path, &bytes)?)
    }

    /// Read a checkpoint; `None` if there is none.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn read(path: &Path) -> Result<Option<Self>, CheckpointError> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read_bytes(path)?;
        Self::parse(&bytes)
            .map(Some)
            .map_err(|what| CheckpointError::Damaged { path: path.display().to_string(), what })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let metadata = header.metadata().as_ref().ok_or("it has no metadata")?;
        let entry = |key: &str| metadata.get(key).ok_or_else(|| format!("it has no `{key}`"));
        let values = |name: &str| -> Result<Vec<f32>, String> {
            let view = tensors.tensor(name).map_err(|error| format!("tensor `{name}`: {error}"))?;
            Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        Ok(Self {
            last: Weights {
                params: values("params")?,
                m: values("m")?,
                v: values("v")?,
                step: entry(STEP)?.parse().map_err(|_| "its `step` is no number".to_owned())?,
            },
            best: values("best")?,
            progress: serde_json::from_str(entry(PROGRESS)?).map_err(|error| error.to_string())?,
        })
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let last = Weights {
            params: vec![1.5, -0.0, f32::MIN_POSITIVE],
            m: vec![2.0; 3],
            v: vec![0.1; 3],
            step: 77,
        };
        let progress = Progress { identity: "a b".into(), best_epoch: 3, waited: 2, ..Progress::default() };
        let written = Checkpoint { last, best: vec![9.0; 3], progress };
        written.write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), Some(written));
    }

    #[test]
    fn a_cut_file_is_named_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        std::fs::write(&path, b"\x10\0\0\0\0\0\0\0{").unwrap();
        let message = Checkpoint::read(&path).unwrap_err().to_string();
        assert!(message.ends_with("delete it to start this trial again"), "{message}");
    }
}
