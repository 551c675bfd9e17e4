//! What a killed training needs to go on bit by bit: tensors and counters in one safetensors file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::files::{self, FileError};
use shared::runtime;
use shared::study::settings::compare;

use crate::engine::Weights;
use crate::history::Epoch;
use crate::scale;

/// Version of the file's layout.
const FORMAT: u32 = 2;

/// A training between two epochs, or between two steps of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What it belongs to
    pub identity: Identity,
    /// Weights and moments now
    pub last: Weights,
    /// Parameters of the best epoch so far
    pub best: Vec<f32>,
    /// Everything that is no tensor
    pub progress: Progress,
}

/// What decides the bits of a training: a checkpoint whose identity differs is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Layout of the file
    format: u32,
    /// Of this program and of ONNX Runtime
    versions: BTreeMap<String, String>,
    /// Digest of the split folder
    data_digest: String,
    /// The trial's file
    trial: Value,
}

impl Identity {
    /// A training by this program.
    ///
    /// - `trial`: `trial.json`
    /// - `data_digest`: of the split folder
    pub fn new(trial: Value, data_digest: &str) -> Self {
        let versions = BTreeMap::from([
            ("mt-identifier".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("onnxruntime".to_owned(), runtime::VERSION.to_owned()),
        ]);
        Self { format: FORMAT, versions, data_digest: data_digest.to_owned(), trial }
    }
}

/// Counters and history of a training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Best epoch so far, from 1; 0 before the first
    pub best_epoch: u32,
    /// Epochs since the last improvement
    pub waited: u32,
    /// Whether training has ended: only the export is left
    pub ended: bool,
    /// Seconds of finished epochs so far, over all starts
    pub seconds: f64,
    /// Where in an epoch a signal came; none between two epochs
    pub partial: Option<Partial>,
    /// One entry an epoch
    pub history: Vec<Epoch>,
}

/// The part of an epoch that is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    /// Steps taken in it
    pub steps: usize,
    /// Loss in nats, summed over its rows
    pub loss: f64,
    /// Rows on the right side of 0.5
    pub correct: f64,
    /// Seconds that it took
    pub seconds: f64,
}

/// A checkpoint that can't be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum CheckpointError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("checkpoint `{path}` is damaged: {what}; delete it to start this trial again")]
    Damaged { path: String, what: String },
    #[error(
        "checkpoint `{path}` belongs to another training (there → here):\n{differences}\ndelete it to start this trial again"
    )]
    Other { path: String, differences: String },
}

const IDENTITY: &str = "identity";
const PROGRESS: &str = "progress";
const STEP: &str = "step";
/// The loss scale; files of versions that had none are as good without it.
const SCALE: &str = "scale";

impl Checkpoint {
    /// Write the checkpoint, whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let Weights { params, m, v, scale, .. } = &self.last;
        let tensors: [(&str, &[f32]); 5] =
            [("params", params), ("m", m), ("v", v), ("best", &self.best), (SCALE, scale)];
        let tensors = tensors.map(|(name, values)| (name, values.len(), bytes_of(values)));
        let damaged = |what: String| CheckpointError::Damaged { path: path.display().to_string(), what };
        let views = tensors
            .iter()
            .map(|(name, length, bytes)| Ok((*name, TensorView::new(Dtype::F32, vec![*length], bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| damaged(error.to_string()))?;
        let text = |value: serde_json::Result<String>| value.map_err(|error| damaged(error.to_string()));
        let metadata = HashMap::from([
            (IDENTITY.to_owned(), text(serde_json::to_string(&self.identity))?),
            (PROGRESS.to_owned(), text(serde_json::to_string(&self.progress))?),
            (STEP.to_owned(), self.last.step.to_string()),
        ]);
        let bytes =
            safetensors::serialize(views, Some(metadata)).map_err(|error| damaged(error.to_string()))?;
        Ok(files::write_bytes(path, &bytes)?)
    }

    /// Read the checkpoint of the training `identity`; `None` if there is no file.
    ///
    /// # Errors
    /// [`CheckpointError::Other`] says in what a checkpoint of another training differs.
    pub fn read(path: &Path, identity: &Identity) -> Result<Option<Self>, CheckpointError> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read_bytes(path)?;
        let damaged = |what| CheckpointError::Damaged { path: path.display().to_string(), what };
        let metadata = metadata(&bytes).map_err(damaged)?;
        let found = metadata.get(IDENTITY).map_or(Ok(json!({ "format": 1 })), |text| {
            serde_json::from_str(text).map_err(|error| damaged(error.to_string()))
        })?;
        let mut differences = Vec::new();
        compare("", &found, &json!(identity), &mut differences);
        if !differences.is_empty() {
            let differences = differences.join("\n");
            return Err(CheckpointError::Other { path: path.display().to_string(), differences });
        }
        Self::parse(&bytes, &metadata, identity).map(Some).map_err(damaged)
    }

    fn parse(bytes: &[u8], metadata: &HashMap<String, String>, identity: &Identity) -> Result<Self, String> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let entry = |key: &str| metadata.get(key).ok_or_else(|| format!("it has no `{key}`"));
        let values = |name: &str| -> Result<Vec<f32>, String> {
            let view = tensors.tensor(name).map_err(|error| format!("tensor `{name}`: {error}"))?;
            Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let scale = if tensors.tensor(SCALE).is_ok() {
            let found = values(SCALE)?;
            <[f32; 3]>::try_from(found.as_slice())
                .map_err(|_| format!("tensor `{SCALE}` has {} numbers, not 3", found.len()))?
        } else {
            scale::START
        };
        Ok(Self {
            identity: identity.clone(),
            last: Weights {
                params: values("params")?,
                m: values("m")?,
                v: values("v")?,
                step: entry(STEP)?.parse().map_err(|_| "its `step` is no number".to_owned())?,
                scale,
            },
            best: values("best")?,
            progress: serde_json::from_str(entry(PROGRESS)?).map_err(|error| error.to_string())?,
        })
    }
}

/// The words in a safetensors file.
fn metadata(bytes: &[u8]) -> Result<HashMap<String, String>, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    header.metadata().clone().ok_or_else(|| "it has no metadata".to_owned())
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::new(json!({ "number": 3, "epochs": 30 }), "abc")
    }

    fn checkpoint() -> Checkpoint {
        let last = Weights {
            params: vec![1.5, -0.0, f32::MIN_POSITIVE],
            m: vec![2.0; 3],
            v: vec![0.1; 3],
            step: 77,
            scale: [1024.0, 3.0, 0.0],
        };
        let loss = f64::from(0.1_f32 + 1e-7);
        let partial = Some(Partial { steps: 4, loss, correct: 61.0, seconds: 0.25 });
        let progress = Progress { best_epoch: 3, waited: 2, partial, ..Progress::default() };
        Checkpoint { identity: identity(), last, best: vec![9.0; 3], progress }
    }

    #[test]
    fn what_was_written_is_read_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        checkpoint().write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path, &identity()).unwrap(), Some(checkpoint()));
    }

    #[test]
    fn a_checkpoint_without_a_loss_scale_starts_with_the_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        checkpoint().write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let others = tensors.tensors().into_iter().filter(|(name, _)| name != SCALE);
        let older = safetensors::serialize(others, Some(metadata(&bytes).unwrap())).unwrap();
        std::fs::write(&path, older).unwrap();
        let mut expected = checkpoint();
        expected.last.scale = scale::START;
        assert_eq!(Checkpoint::read(&path, &identity()).unwrap(), Some(expected));
    }

    #[test]
    fn a_cut_file_is_named_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        std::fs::write(&path, b"\x10\0\0\0\0\0\0\0{").unwrap();
        let message = Checkpoint::read(&path, &identity()).unwrap_err().to_string();
        assert!(message.ends_with("delete it to start this trial again"), "{message}");
    }

    #[test]
    fn another_trainings_checkpoint_is_refused_with_every_difference() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut other = checkpoint();
        other.identity = Identity::new(json!({ "number": 3, "epochs": 80, "weight_decay": 0.1 }), "def");
        other.identity.versions.insert("onnxruntime".into(), "1.2.3".into());
        other.write(&path).unwrap();
        let message = Checkpoint::read(&path, &identity()).unwrap_err().to_string();
        let expected = format!(
            "checkpoint `{}` belongs to another training (there → here):\n  versions.onnxruntime: \"1.2.3\" → \"{}\"\n  \
             data_digest: \"def\" → \"abc\"\n  trial.epochs: 80 → 30\n  trial.weight_decay: 0.1 → null\n\
             delete it to start this trial again",
            path.display(),
            runtime::VERSION
        );
        assert_eq!(message, expected);
    }

    #[test]
    fn a_checkpoint_without_an_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let words = HashMap::from([(PROGRESS.to_owned(), "{}".to_owned())]);
        let views: Vec<(&str, TensorView)> = Vec::new();
        std::fs::write(&path, safetensors::serialize(views, Some(words)).unwrap()).unwrap();
        let message = Checkpoint::read(&path, &identity()).unwrap_err().to_string();
        assert!(
            message.contains("belongs to another training (there → here):\n  format: 1 → 2\n"),
            "{message}"
        );
    }
}
