//! What the holder of a lease says: reports, the outcome, and that it gives the trial back.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::error::StudyError;
use super::journal::Durability;
use super::journal::line::Writer;
use super::lease::Outcome;
use super::record::{State, TrialRecord};
use super::{FAIL_REASON, Study};
use crate::files;

impl Study {
    pub(super) fn report(&self, number: u64, token: &str, step: u64, value: f64) -> Result<bool, StudyError> {
        self.with_lease(number, token, Durability::Cached, |writer, id, _| {
            vec![writer.report(id, step, value)]
        })?;
        let journal = self.journal();
        let study = self.record(journal.replay())?;
        let trial = study.trials.get(number as usize);
        Ok(trial.is_some_and(|trial| self.settings().pruner.wants_stop(study, trial)))
    }

    pub(super) fn tell(&self, number: u64, token: &str, outcome: Outcome) -> Result<(), StudyError> {
        self.with_lease(number, token, Durability::Cached, |writer, id, trial| {
            let now = Timestamp::now();
            let fail = |reason: String| {
                vec![
                    writer.user_attr(id, FAIL_REASON, &json!(reason)),
                    writer.state(id, State::Fail, None, now),
                ]
            };
            match outcome {
                Outcome::Complete { value } if value.is_finite() => {
                    vec![writer.state(id, State::Complete, Some(value), now)]
                }
                Outcome::Complete { value } => fail(format!("the objective is {value}")),
                Outcome::Pruned => {
                    let last = trial.intermediate_values.last().map(|(_, value)| *value);
                    vec![writer.state(id, State::Pruned, last.filter(|value| value.is_finite()), now)]
                }
                Outcome::Fail { reason } => fail(reason),
            }
        })
    }

    pub(super) fn give_back(&self, number: u64, token: &str) -> Result<(), StudyError> {
        self.with_lease(number, token, Durability::Cached, |writer, id, _| {
            vec![writer.state(id, State::Waiting, None, Timestamp::now())]
        })
    }

    /// Add lines for a trial whose lease is still held.
    fn with_lease(
        &self,
        number: u64,
        token: &str,
        durability: Durability,
        lines: impl FnOnce(&Writer<'_>, u64, &TrialRecord) -> Vec<String>,
    ) -> Result<(), StudyError> {
        self.journal().transact(durability, |replay| {
            let study = self.record(replay)?;
            let trial = study.trials.get(number as usize);
            let trial = trial.filter(|trial| trial.owner.as_deref() == Some(token));
            let trial = trial.ok_or(StudyError::Lost { number })?;
            Ok((lines(&Writer { worker: token }, study.trial_ids[number as usize], trial), ()))
        })
    }

    /// Copy the best trial's model to `best.onnx`, again if another trial became the best meanwhile.
    pub(super) fn update_best_model(&self) -> Result<(), StudyError> {
        let mut copied = None;
        while let Some(best) = self.best()? {
            let source = self.folder_of(best.number).join("model.onnx");
            if copied == Some(best.number) || self.has_best_model(&source) {
                break;
            }
            if !source.exists() {
                tracing::warn!("the best trial has no `{}`; `best.onnx` stays as it was", source.display());
                break;
            }
            files::write_bytes(&self.best_model(), &files::read_bytes(&source)?)?;
            copied = Some(best.number);
        }
        Ok(())
    }

    /// Where the best model so far is kept.
    pub fn best_model(&self) -> PathBuf {
        self.dir().join("best.onnx")
    }

    fn has_best_model(&self, source: &Path) -> bool {
        let digest = |path: &Path| files::digest_file(path).ok();
        digest(source).is_some_and(|wanted| digest(&self.best_model()) == Some(wanted))
    }
}
