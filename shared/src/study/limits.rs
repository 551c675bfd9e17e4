//! When a study ends: budget, time, failures, progress, and how many trials may run at once.

use std::fmt;

use jiff::Timestamp;

use super::error::StudyError;
use super::journal::replay::StudyRecord;
use super::record::State;
use super::settings::StudyFile;
use super::{Study, best_of};

/// Failed trials that are always put up with, however small the budget is.
const FAILURES: u64 = 10;

/// Whether a new trial may be asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Yes
    Free,
    /// Not now
    Later,
    /// Never again, unless the limit is raised
    Closed(Limit),
}

/// Which limit of a study is reached; the text names the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// As many trials as the budget allows
    Budget,
    /// The first trial started too long ago
    Time,
    /// The last trials brought nothing better
    Progress,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, flag) = match self {
            Self::Budget => ("the budget is spent", "--budget"),
            Self::Time => ("the time budget is spent", "--time-budget"),
            Self::Progress => ("the last trials brought nothing better", "--stop-after"),
        };
        write!(f, "{what}; `search create` with a larger `{flag}` raises it")
    }
}

impl Study {
    /// Whether trials wait or run, or new ones may still come.
    ///
    /// # Errors
    /// [`StudyError::Journal`]
    pub fn goes_on(&self) -> Result<bool, StudyError> {
        let file = self.current()?;
        let mut journal = self.journal();
        let study = self.record(journal.sync()?)?;
        if study.trials.iter().any(|trial| !trial.state.is_finished()) {
            return Ok(true);
        }
        match self.room(&file, study) {
            Ok(Room::Closed(_)) | Err(StudyError::TooManyFailures { .. }) => return Ok(false),
            Ok(Room::Free | Room::Later) => {}
            Err(error) => return Err(error),
        }
        match self.draw(&file, study, study.trials.len() as u64) {
            Err(StudyError::Exhausted) => Ok(false),
            drawn => drawn.map(|_| true),
        }
    }

    /// The limit that keeps new trials from being asked for, if it is one.
    ///
    /// # Errors
    /// [`StudyError::TooManyFailures`]; [`StudyError::Journal`].
    pub fn reached_limit(&self) -> Result<Option<Limit>, StudyError> {
        let file = self.current()?;
        let mut journal = self.journal();
        let study = self.record(journal.sync()?)?;
        Ok(match self.room(&file, study)? {
            Room::Closed(limit) => Some(limit),
            Room::Free | Room::Later => None,
        })
    }

    /// Whether the limits allow a new trial.
    pub(super) fn room(&self, file: &StudyFile, study: &StudyRecord) -> Result<Room, StudyError> {
        let limits = &file.limits;
        let (mut failed, mut running, mut counted, mut first) = (0, 0, 0, None);
        for trial in study.trials.iter().filter(|trial| !trial.is_imported()) {
            failed += u64::from(trial.state == State::Fail);
            running += u64::from(trial.state == State::Running);
            counted += u64::from(trial.state != State::Fail);
            first = [first, trial.started].into_iter().flatten().min();
        }
        let limit = limits.budget.max(FAILURES);
        if failed > limit {
            return Err(StudyError::TooManyFailures { path: self.dir().to_owned(), failed, limit });
        }
        if counted >= limits.budget {
            return Ok(Room::Closed(Limit::Budget));
        }
        let elapsed = first.map_or(0.0, |first| Timestamp::now().duration_since(first).as_secs_f64());
        if limits.time_budget_s.is_some_and(|most| elapsed >= most) {
            return Ok(Room::Closed(Limit::Time));
        }
        if limits.stop_after.is_some_and(|most| since_best(study) >= most) {
            return Ok(Room::Closed(Limit::Progress));
        }
        if limits.max_in_flight.is_some_and(|most| running >= most) {
            return Ok(Room::Later);
        }
        Ok(Room::Free)
    }
}

/// Finished trials since the best one finished, in the order in which they finished.
fn since_best(study: &StudyRecord) -> u64 {
    let Some(best) = best_of(study) else { return 0 };
    let later = study.trials.iter().filter(|trial| {
        matches!(trial.state, State::Complete | State::Pruned)
            && !trial.is_imported()
            && trial.completed > best.completed
    });
    later.count() as u64
}
