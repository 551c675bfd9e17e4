//! A study: trials as files, with Optuna's journal as the one source of truth.

pub mod distribution;
pub mod error;
mod holder;
pub mod host;
pub mod import;
pub mod importance;
pub mod journal;
pub mod lease;
mod life;
mod limits;
mod litter;
pub mod pruner;
pub mod record;
pub mod sampler;
pub mod settings;
pub mod space;
mod tell;
pub mod trial_file;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::json;

pub use self::error::StudyError;
pub use self::lease::{Lease, Outcome};
pub use self::limits::Limit;
pub use self::record::{State, TrialRecord};
pub use self::settings::{Options, StudyFile};
pub use self::trial_file::TrialFile;

use self::journal::line::Writer;
use self::journal::replay::{Replay, StudyRecord};
use self::journal::{Durability, Journal};
use self::space::Space;
use crate::config::Config;
use crate::files::{self, FileError};

/// Name of the note that counts how often a worker died on a trial.
pub(crate) const RETRIES: &str = "retries";
/// Name of the note that says where a finished trial was imported from.
pub(crate) const IMPORTED: &str = "imported_from";
/// Name of the note that says why a trial failed.
pub const FAIL_REASON: &str = "fail_reason";

/// A study folder; clones share what they read of the journal.
#[derive(Debug, Clone)]
pub struct Study(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    file: StudyFile,
    space: Space,
    journal: Mutex<Journal>,
    /// `worker_id` of lines that belong to no lease
    worker: String,
    /// When this process last saw a lease change
    sightings: holder::Sightings,
    /// Whether this process has removed what killed workers left behind
    is_clean: AtomicBool,
}

/// What `create` found.
#[derive(Debug)]
pub enum Created {
    /// Nothing: the study is new
    New(Study),
    /// The same study; says what of its limits changed
    Exists(Study, Vec<String>),
}

/// What became of a claim on one trial.
#[derive(Debug)]
pub enum Claim {
    /// Train it
    Run(Lease),
    /// Nothing is left to do
    Finished(State),
    /// Another worker trains it
    Busy {
        /// Host and process number
        worker: String,
    },
}

/// What a worker should do next.
#[derive(Debug)]
pub enum Next {
    /// Train this trial
    Run(Lease),
    /// Ask again in a while: others are still training, and one may die
    Wait,
    /// Nothing is left to do
    Spent,
}

impl Study {
    /// Make a study, or find that it exists with the same configuration.
    ///
    /// An existing study takes over a larger budget and other limits that `options` names.
    ///
    /// # Errors
    /// [`StudyError::Changed`] names what differs from the study that exists; [`StudyError::Impossible`] if no
    /// network of the space can exist.
    pub fn create(dir: &Path, config: &Config, options: &Options) -> Result<Created, StudyError> {
        let file = StudyFile::new(dir, config, options)?;
        if dir.join("study.json").exists() {
            return Self::meet(dir, &file, options);
        }
        let study = Self::with(dir, file.clone())?;
        study.draw_from(&file, &sampler::History { trials: &[], maximise: file.maximise() }, 0)?;
        let trial_folders = dir.join("trials");
        fs::create_dir_all(&trial_folders)
            .map_err(|source| files::FileError::Write { path: trial_folders, source })?;
        // Whoever has the lock first makes the study; the file comes last and says that it is there.
        let made = study.journal().transact(Durability::Synced, |replay| -> Result<_, StudyError> {
            if dir.join("study.json").exists() {
                return Ok((Vec::new(), false));
            }
            let lines = if replay.study(&file.study_name).is_some() {
                Vec::new()
            } else {
                first_lines(&file, &study.0.worker, replay)
            };
            Ok((lines, true))
        })?;
        if !made {
            return Self::meet(dir, &file, options);
        }
        files::write_json(&dir.join("study.json"), &file)?;
        Ok(Created::New(study))
    }

    fn meet(dir: &Path, file: &StudyFile, options: &Options) -> Result<Created, StudyError> {
        let study = Self::open(dir)?;
        let differences = study.settings().differences(file, options);
        if !differences.is_empty() {
            return Err(StudyError::Changed { path: dir.to_owned(), differences });
        }
        let notes = study.update_limits(&file.limits, options)?;
        Ok(Created::Exists(Self::open(dir)?, notes))
    }

    /// Open a study that exists.
    ///
    /// # Errors
    /// [`StudyError::NoStudy`]; [`StudyError::Journal`].
    pub fn open(dir: &Path) -> Result<Self, StudyError> {
        let path = dir.join("study.json");
        if !path.exists() {
            return Err(StudyError::NoStudy { path: dir.to_owned() });
        }
        let study = Self::with(dir, files::read_json(&path)?)?;
        study.record(study.journal().sync()?)?;
        Ok(study)
    }

    fn with(dir: &Path, file: StudyFile) -> Result<Self, StudyError> {
        let space = Space::from_options(&file.space)?;
        let journal = Mutex::new(Journal::new(journal::path_in(dir)));
        let worker = format!("mtid-search-{}", journal::unique());
        let sightings = holder::Sightings::default();
        let is_clean = AtomicBool::new(false);
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), file, space, journal, worker, sightings, is_clean })))
    }

    /// The study of a trial folder, and the trial's number.
    ///
    /// # Errors
    /// [`StudyError::NoTrialFolder`]; those of [`Self::open`].
    pub fn of_trial(trial_folder: &Path) -> Result<(Self, u64), StudyError> {
        let wrong = || StudyError::NoTrialFolder { path: trial_folder.to_owned() };
        let whole = std::path::absolute(trial_folder).map_err(|_| wrong())?;
        let number = whole.file_name().and_then(|name| name.to_str()?.parse().ok()).ok_or_else(wrong)?;
        let trials = whole.parent().filter(|p| p.file_name().is_some_and(|n| n == "trials"));
        let dir = trials.and_then(Path::parent).ok_or_else(wrong)?;
        Ok((Self::open(dir)?, number))
    }

    /// The study folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// `study.json` as it was when the study was opened.
    pub fn settings(&self) -> &StudyFile {
        &self.0.file
    }

    /// The search space.
    pub fn space(&self) -> &Space {
        &self.0.space
    }

    /// The folder of a trial, whether it is there or not.
    pub fn folder_of(&self, number: u64) -> PathBuf {
        self.0.dir.join("trials").join(format!("{number:04}"))
    }

    /// All trials by number, as the journal has them now.
    ///
    /// # Errors
    /// [`StudyError::Journal`]
    pub fn trials(&self) -> Result<Vec<TrialRecord>, StudyError> {
        Ok(self.record(self.journal().sync()?)?.trials.clone())
    }

    /// The complete trial with the best value; of equal ones the first.
    ///
    /// # Errors
    /// [`StudyError::Journal`]
    pub fn best(&self) -> Result<Option<TrialRecord>, StudyError> {
        Ok(best_of(self.record(self.journal().sync()?)?).cloned())
    }

    /// Compare the digest of a split folder with the one that the first training recorded; record it if it is the
    /// first.
    ///
    /// # Errors
    /// [`StudyError::OtherData`]
    pub fn check_data(&self, digest: &str) -> Result<(), StudyError> {
        let path = self.0.dir.join("study.json");
        let recorded: StudyFile = files::read_json(&path)?;
        let agree = |file: &StudyFile| match &file.data_digest {
            Some(recorded) if recorded != digest => Err(StudyError::OtherData {
                path: self.0.dir.clone(),
                recorded: recorded.clone(),
                given: digest.to_owned(),
            }),
            recorded => Ok(recorded.is_some()),
        };
        if agree(&recorded)? {
            return Ok(());
        }
        self.journal().transact(Durability::Cached, |_| {
            let mut file: StudyFile = files::read_json(&path)?;
            if !agree(&file)? {
                file.data_digest = Some(digest.to_owned());
                files::write_json(&path, &file)?;
            }
            Ok((Vec::new(), ()))
        })
    }

    /// Take over limits that were given and differ; says which.
    fn update_limits(&self, given: &settings::Limits, options: &Options) -> Result<Vec<String>, StudyError> {
        let path = self.0.dir.join("study.json");
        let mut notes = Vec::new();
        let mut file: StudyFile = files::read_json(&path)?;
        let mut limits = file.limits.clone();
        if given.budget > limits.budget || options.budget.is_some() {
            limits.budget = given.budget;
        }
        limits.time_budget_s = given.time_budget_s.or(limits.time_budget_s);
        limits.stop_after = given.stop_after.or(limits.stop_after);
        limits.max_in_flight = given.max_in_flight.or(limits.max_in_flight);
        limits.lease_seconds = options.lease_seconds.unwrap_or(limits.lease_seconds);
        limits.retry_limit = options.retry_limit.unwrap_or(limits.retry_limit);
        settings::compare("", &json!(file.limits), &json!(limits), &mut notes);
        if notes.is_empty() {
            return Ok(notes);
        }
        self.journal().transact(Durability::Cached, |_| -> Result<_, StudyError> {
            file = files::read_json(&path)?;
            file.limits = limits;
            files::write_json(&path, &file)?;
            Ok((Vec::new(), ()))
        })?;
        Ok(notes.into_iter().map(|note| note.trim().to_owned()).collect())
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This study in a journal.
    fn record<'a>(&self, replay: &'a Replay) -> Result<&'a StudyRecord, StudyError> {
        let name = &self.0.file.study_name;
        replay
            .study(name)
            .ok_or_else(|| StudyError::OtherJournal { path: self.0.dir.clone(), name: name.clone() })
    }
}

/// Write a small JSON file whole or not at all, but without waiting for the disk: what a power cut takes with it can
/// be made again.
pub(crate) fn write_unsynced<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let write_error = |source| FileError::Write { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    let attempt = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let temporary = litter::temporary(path);
        let outcome = fs::write(&temporary, serde_json::to_vec_pretty(value)?);
        let outcome = outcome.and_then(|()| fs::rename(&temporary, path));
        if outcome.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        outcome
    };
    journal::patiently(attempt).map_err(write_error)
}

/// The lines that make a study.
fn first_lines(file: &StudyFile, worker: &str, replay: &Replay) -> Vec<String> {
    let writer = Writer { worker };
    let id = replay.next_study_id();
    vec![
        writer.create_study(&file.study_name, file.maximise()),
        writer.study_user_attr(id, "config_digest", &json!(file.config_digest)),
        writer.study_system_attr(id, "study:metric_names", &json!([file.experiment.objective.name()])),
    ]
}

/// The complete trial with the best value; of equal ones the first.
pub fn best_of(study: &StudyRecord) -> Option<&TrialRecord> {
    let sign = if study.maximise { -1.0 } else { 1.0 };
    let complete = study.trials.iter().filter(|trial| trial.state == State::Complete && !trial.is_imported());
    complete
        .filter_map(|trial| Some((sign * trial.value.filter(|value| !value.is_nan())?, trial)))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, trial)| trial)
}
