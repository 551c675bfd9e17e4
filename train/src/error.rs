//! What can go wrong in a training.

use std::path::PathBuf;

use shared::cli::StageError;
use shared::split::Split;

use crate::checkpoint::CheckpointError;
use crate::engine::EngineError;
use crate::graph::GraphError;
use crate::store::StoreError;

/// A training that did not come to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Error {
    #[error(transparent)]
    Split(#[from] shared::split::SplitError),
    #[error(transparent)]
    Study(#[from] shared::study::StudyError),
    #[error(transparent)]
    File(#[from] shared::files::FileError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Network(#[from] shared::network::NetworkError),
    #[error(transparent)]
    Runtime(#[from] shared::runtime::RuntimeError),
    #[error("can't build the exported model")]
    Graph(#[from] GraphError),
    #[error("the {split} split of `{}` has no rows; prepare more data or other fractions", folder.display())]
    EmptySplit { folder: PathBuf, split: Split },
    #[error(
        "`{}` has images of {} x {}, the trial is for {} x {}; set `model_parameters.input_shape` to the data's",
        folder.display(), found.0, found.1, wanted.0, wanted.1
    )]
    ImageSize { folder: PathBuf, found: (usize, usize), wanted: (usize, usize) },
    #[error(
        "trial {trial}: the loss is not a finite number at epoch {epoch}, step {step}; the largest gradient until then was {gradient:.3e}, of `{layer}`; use a smaller learning rate or `global_clipnorm`"
    )]
    Diverged { trial: u64, epoch: u32, step: usize, layer: String, gradient: f64 },
    #[error(
        "trial {trial}: stopped by a signal in epoch {epoch} after {step} steps; the same command goes on from there"
    )]
    Stopped { trial: u64, epoch: u32, step: usize },
    #[error("`class_weight` is `balanced`, but the training split of `{}` has rows of one class only", folder.display())]
    OneClass { folder: PathBuf },
    #[error("stopped by a signal; the same command goes on")]
    StudyStopped,
    #[error("trial {trial} is being trained by {worker}")]
    Busy { trial: u64, worker: String },
    #[error("precision {precision} needs a GPU, the device is {device}; use `--precision f32`")]
    Precision { precision: &'static str, device: shared::runtime::Device },
    #[error(
        "the exported model gives {exported} for row {row} of the validation split where the training has {trained}; please report this"
    )]
    Differs { row: usize, exported: f32, trained: f32 },
    #[error("ONNX Runtime failed to run the exported model")]
    Exported(#[source] ort::Error),
    #[error("{failed} of this worker's trials failed; the first: {first}")]
    TrialsFailed { failed: u64, first: String },
}

impl StageError for Error {
    fn is_resumable(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::StudyStopped)
    }
}
