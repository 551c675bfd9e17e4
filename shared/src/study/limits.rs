//! When a study ends: budget, time, failures, progress, and how many trials may run at once.

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
    /// Never again; says why
    Closed(&'static str),
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
            return Ok(Room::Closed("the budget is spent"));
        }
        let elapsed = first.map_or(0.0, |first| Timestamp::now().duration_since(first).as_secs_f64());
        if limits.time_budget_s.is_some_and(|most| elapsed >= most) {
            return Ok(Room::Closed("the time budget is spent"));
        }
        if limits.stop_after.is_some_and(|most| since_best(study) >= most) {
            return Ok(Room::Closed("the last trials brought nothing better"));
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
