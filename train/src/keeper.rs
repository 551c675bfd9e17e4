//! A trial's checkpoint and curves on disk, written beside the next epoch: a file that is safe on its disk takes a while.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::history;

/// Name of the checkpoint in a trial's folder.
const CHECKPOINT: &str = "checkpoint.safetensors";

/// Where the checkpoint of the trial in `folder` lies.
pub(crate) fn checkpoint_of(folder: &Path) -> PathBuf {
    folder.join(CHECKPOINT)
}

/// Writes one checkpoint at a time, so that no more than the epoch before the one at hand is ever not on disk yet.
pub(crate) struct Keeper {
    folder: PathBuf,
    writing: Option<JoinHandle<Result<(), Error>>>,
}

impl Keeper {
    /// A keeper for the trial in this folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), writing: None }
    }

    /// Begin to write a checkpoint and the curves up to it, after those before.
    ///
    /// # Errors
    /// Those of the files before.
    pub fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        self.wait()?;
        let (folder, checkpoint) = (self.folder.clone(), checkpoint.clone());
        self.writing = Some(std::thread::spawn(move || {
            checkpoint.write(&checkpoint_of(&folder))?;
            Ok(history::write(&folder, &checkpoint.progress.history)?)
        }));
        Ok(())
    }

    /// Wait until everything is on disk.
    ///
    /// # Errors
    /// Those of the files.
    pub fn wait(&mut self) -> Result<(), Error> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // On the way out with another error.
        if let Some(Ok(Err(error))) = self.writing.take().map(JoinHandle::join) {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checkpoint::{Identity, Progress};
    use crate::engine::Weights;

    #[test]
    fn a_checkpoint_that_cannot_be_written_is_an_error_before_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        let identity = Identity::new(json!({}), "digest");
        let last = Weights::start(vec![1.0; 3]);
        let checkpoint =
            Checkpoint { identity, best: last.params.clone(), last, progress: Progress::default() };

        let mut keeper = Keeper::new(&file);
        keeper.keep(&checkpoint).unwrap();
        assert!(keeper.keep(&checkpoint).is_err());
        keeper.wait().unwrap();

        let mut keeper = Keeper::new(folder.path());
        keeper.keep(&checkpoint).unwrap();
        keeper.wait().unwrap();
        let found = Checkpoint::read(&checkpoint_of(folder.path()), &checkpoint.identity).unwrap();
        assert_eq!(found.map(|found| found.last), Some(checkpoint.last));
    }
}
