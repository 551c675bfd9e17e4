//! A worker's claim on a trial: a file that it touches while it lives.
//!
//! A journal has no heartbeat, so `trials/NNNN/lease` has one: its holder writes to it six times within
//! `lease_seconds`; [`super::holder`] judges by that who lives. Whoever takes a trial over from a dead worker puts a new lease in
//! its place; the journal line that made the trial run carries the lease's token as `worker_id`, and under the
//! journal's lock nothing is added for a trial whose token is another one. So a worker that only slept can't
//! disturb: it is told that the trial is lost.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::StudyError;
use super::host::{self, Process};
use super::record::TrialRecord;
use super::trial_file::TrialFile;
use super::{Study, journal};
use crate::files::FileError;

/// What the `worker_id` of our journal lines starts with.
const PREFIX: &str = "mtid-";

/// What a training came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has a value
    Complete {
        /// The objective
        value: f64,
    },
    /// The pruner stopped it
    Pruned,
    /// It has no value
    Fail {
        /// Why, for people
        reason: String,
    },
}

/// `trials/NNNN/lease`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LeaseFile {
    /// Of the journal line that made the trial run
    pub token: String,
    /// Host and process number, for people
    pub worker: String,
    /// What [`Process::parse`] reads
    pub process: String,
}

/// The right to train one trial; a thread keeps it alive until it is dropped.
#[derive(Debug)]
pub struct Lease {
    pub(super) study: Study,
    pub(super) number: u64,
    pub(super) token: String,
    folder: PathBuf,
    trial: Box<TrialFile>,
    pulse: Pulse,
}

/// A token that no other lease has.
pub(super) fn new_token() -> String {
    format!("{PREFIX}{}", journal::unique())
}

/// Whether a trial is run by a worker of this program.
pub(super) fn is_ours(trial: &TrialRecord) -> bool {
    trial.owner.as_deref().is_some_and(|owner| owner.starts_with(PREFIX))
}

/// Write the lease file of a claim that is about to be made.
pub(super) fn write(folder: &Path, token: &str) -> Result<(), FileError> {
    let worker = format!("{}:{}", host::name(), std::process::id());
    let lease = LeaseFile { token: token.to_owned(), worker, process: Process::this().text() };
    super::write_unsynced(&path_in(folder), &lease)
}

/// The lease file of a trial folder.
pub(super) fn path_in(folder: &Path) -> PathBuf {
    folder.join("lease")
}

impl Lease {
    pub(super) fn new(study: Study, trial: Box<TrialFile>, token: String) -> Result<Self, StudyError> {
        let number = trial.number;
        let folder = study.folder_of(number);
        let every = Duration::from_secs_f64(study.settings().limits.lease_seconds / 6.0);
        let pulse = Pulse::start(&path_in(&folder), token.clone(), every)?;
        Ok(Self { study, number, token, folder, trial, pulse })
    }

    /// Number of the trial.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Folder of the trial.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What to train.
    pub fn trial(&self) -> &TrialFile {
        &self.trial
    }

    /// Whether another worker has the trial by now: then write nothing more to its folder.
    pub fn is_lost(&self) -> bool {
        self.pulse.lost.load(Ordering::Relaxed)
    }

    /// Report the objective after an epoch; before its checkpoint, so that a report which dies with its worker is
    /// made again.
    ///
    /// - `step`: epochs done, from 1
    /// - returns whether the pruner wants the trial stopped
    ///
    /// # Errors
    /// [`StudyError::Lost`] if another worker has the trial by now.
    pub fn report(&self, step: u64, value: f64) -> Result<bool, StudyError> {
        self.study.report(self.number, &self.token, step, value)
    }

    /// Say what the training came to. A best trial's `model.onnx` becomes the study's `best.onnx`.
    ///
    /// # Errors
    /// [`StudyError::Lost`] if another worker has the trial by now.
    pub fn tell(self, outcome: Outcome) -> Result<(), StudyError> {
        self.study.tell(self.number, &self.token, outcome)?;
        self.remove_file();
        self.study.update_best_model()
    }

    /// Stopped by a signal: let any worker go on from the checkpoint.
    ///
    /// # Errors
    /// [`StudyError::Lost`] if another worker has the trial by now.
    pub fn give_back(self) -> Result<(), StudyError> {
        self.study.give_back(self.number, &self.token)?;
        self.remove_file();
        Ok(())
    }

    fn remove_file(&self) {
        if holds(&path_in(&self.folder), &self.token) {
            let _ = fs::remove_file(path_in(&self.folder));
        }
    }
}

/// Whether the lease file has this token; a file that can't be read now says nothing, so it has.
fn holds(path: &Path, token: &str) -> bool {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice::<LeaseFile>(&bytes).is_ok_and(|lease| lease.token == token),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// The thread that touches the lease.
#[derive(Debug)]
struct Pulse {
    stop: Arc<(Mutex<bool>, Condvar)>,
    lost: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    fn start(path: &Path, token: String, every: Duration) -> Result<Self, StudyError> {
        let write_error = |source| FileError::Write { path: path.to_owned(), source };
        // Kept open: once the lease is another's, the old file is out of reach.
        let file = fs::OpenOptions::new().write(true).open(path).map_err(write_error)?;
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let lost = Arc::new(AtomicBool::new(false));
        let (its_stop, its_lost, its_path) = (Arc::clone(&stop), Arc::clone(&lost), path.to_owned());
        let beat = move || {
            let (flag, wake) = &*its_stop;
            let mut stopped = flag.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped {
                stopped = wake.wait_timeout(stopped, every).unwrap_or_else(PoisonError::into_inner).0;
                if *stopped {
                    break;
                }
                // The same first byte again: what counts is the time of the change.
                let touched = file.write_all_at(b"{", 0).and_then(|()| file.sync_data());
                if let Err(error) = touched {
                    tracing::warn!("can't touch `{}`: {error}", its_path.display());
                }
                if !holds(&its_path, &token) {
                    its_lost.store(true, Ordering::Relaxed);
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("lease".into()).spawn(beat).map_err(write_error)?;
        Ok(Self { stop, lost, thread: Some(thread) })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
