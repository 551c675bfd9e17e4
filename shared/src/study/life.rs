//! The life of trials: asked for, claimed, reported on, told, given back, taken over from the dead.
//!
//! Every decision is made under the journal's lock, on all that the journal holds.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::StudyError;
use super::host::Process;
use super::journal::Durability;
use super::journal::line::{Template, Writer};
use super::journal::replay::StudyRecord;
use super::lease::{self, Lease, Outcome};
use super::record::{State, TrialRecord};
use super::sampler::{self, History, Point, Sampler};
use super::settings::StudyFile;
use super::trial_file::TrialFile;
use super::{Claim, FAIL_REASON, Next, RETRIES, Study, best_of};
use crate::files;

/// Failed trials that are always put up with, however small the budget is.
const FAILURES: u64 = 10;

/// Whether a new trial may be asked for.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    /// Yes
    Free,
    /// Not now
    Later,
    /// Never again; says why
    Closed(&'static str),
}

/// What `next` and `claim` decided under the lock.
enum Choice {
    Run(u64),
    Wait,
    Spent,
}

impl Study {
    /// Add up to `count` waiting trials, as many as the budget allows; returns their numbers.
    ///
    /// # Errors
    /// [`StudyError::Exhausted`] if there is nothing new to try; [`StudyError::TooManyFailures`].
    pub fn ask(&self, count: u64) -> Result<Vec<u64>, StudyError> {
        let file = self.current()?;
        let mut numbers = Vec::new();
        for _ in 0..count {
            let worker = &self.0.worker;
            let asked = self.journal().transact(Durability::Cached, |replay| -> Result<_, StudyError> {
                let study = self.record(replay)?;
                if !matches!(self.room(&file, study)?, Room::Free | Room::Later) {
                    return Ok((Vec::new(), None));
                }
                let point = self.draw(&file, study, study.trials.len() as u64)?;
                let line = self.creation(study, &point, &Writer { worker });
                Ok((vec![line], Some((study.trials.len() as u64, point))))
            });
            match asked {
                Ok(Some((number, point))) => {
                    self.write_trial_file(&file, number, sampler::params_of(self.space(), &point))?;
                    numbers.push(number);
                }
                Ok(None) => break,
                Err(StudyError::Exhausted) if !numbers.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(numbers)
    }

    /// Claim one trial.
    ///
    /// # Errors
    /// [`StudyError::NoTrial`]; [`StudyError::Journal`].
    pub fn claim(&self, number: u64) -> Result<Claim, StudyError> {
        let file = self.current()?;
        let token = lease::new_token();
        let missing = || StudyError::NoTrial { study: self.dir().to_owned(), number };
        let mut met = None;
        let choice = self.journal().transact(Durability::Cached, |replay| -> Result<_, StudyError> {
            let study = self.record(replay)?;
            let trial = study.trials.get(number as usize).ok_or_else(missing)?;
            if trial.state.is_finished() {
                met = Some(Claim::Finished(trial.state));
                return Ok((Vec::new(), Choice::Spent));
            }
            if trial.state == State::Running {
                if let Some(worker) = self.holder(&file, trial) {
                    met = Some(Claim::Busy { worker });
                    return Ok((Vec::new(), Choice::Wait));
                }
                let (lines, runs) = self.take_over(&file, study, trial, &token)?;
                if !runs {
                    met = Some(Claim::Finished(State::Fail));
                }
                return Ok((lines, if runs { Choice::Run(number) } else { Choice::Spent }));
            }
            Ok((self.start(&file, study, trial, &token)?, Choice::Run(number)))
        })?;
        match (choice, met) {
            (Choice::Run(number), _) => Ok(self.lease(&file, number, token)?.map_or_else(
                || Claim::Busy { worker: "another worker, which was faster".into() },
                Claim::Run,
            )),
            (_, Some(claim)) => Ok(claim),
            (_, None) => Err(missing()),
        }
    }

    /// The next trial for a worker: a dead worker's, a waiting one, or a new one while the limits allow it.
    ///
    /// # Errors
    /// [`StudyError::TooManyFailures`]; [`StudyError::Journal`].
    pub fn next(&self) -> Result<Next, StudyError> {
        let file = self.current()?;
        let token = lease::new_token();
        let choice = self.journal().transact(Durability::Cached, |replay| {
            let study = self.record(replay)?;
            self.choose(&file, study, replay.next_trial_id(), &token)
        })?;
        Ok(match choice {
            Choice::Run(number) => self.lease(&file, number, token)?.map_or(Next::Wait, Next::Run),
            Choice::Wait => Next::Wait,
            Choice::Spent => Next::Spent,
        })
    }

    fn choose(
        &self,
        file: &StudyFile,
        study: &StudyRecord,
        next_id: u64,
        token: &str,
    ) -> Result<(Vec<String>, Choice), StudyError> {
        let mut lines = Vec::new();
        let mut alive = 0;
        for trial in study.trials.iter().filter(|trial| trial.state == State::Running) {
            if self.holder(file, trial).is_some() {
                alive += u64::from(lease::is_ours(trial));
                continue;
            }
            let (more, runs) = self.take_over(file, study, trial, token)?;
            lines.extend(more);
            if runs {
                return Ok((lines, Choice::Run(trial.number)));
            }
        }
        if file.limits.max_in_flight.is_some_and(|most| alive >= most) {
            return Ok((lines, Choice::Wait));
        }
        if let Some(trial) = study.trials.iter().find(|trial| trial.state == State::Waiting) {
            lines.extend(self.start(file, study, trial, token)?);
            return Ok((lines, Choice::Run(trial.number)));
        }
        let idle = if alive > 0 { Choice::Wait } else { Choice::Spent };
        match self.room(file, study)? {
            Room::Later => Ok((lines, Choice::Wait)),
            Room::Closed(why) => {
                tracing::debug!("no new trial: {why}");
                Ok((lines, idle))
            }
            Room::Free => match self.draw(file, study, study.trials.len() as u64) {
                Err(StudyError::Exhausted) => Ok((lines, idle)),
                Err(error) => Err(error),
                Ok(point) => {
                    let number = study.trials.len() as u64;
                    let writer = Writer { worker: token };
                    lease::write(&self.folder_of(number), token)?;
                    lines.push(self.creation(study, &point, &writer));
                    lines.push(writer.state(next_id, State::Running, None, Timestamp::now()));
                    Ok((lines, Choice::Run(number)))
                }
            },
        }
    }

    /// Whether the limits allow a new trial.
    fn room(&self, file: &StudyFile, study: &StudyRecord) -> Result<Room, StudyError> {
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

    /// Who trains a running trial; none if its worker is dead.
    fn holder(&self, file: &StudyFile, trial: &TrialRecord) -> Option<String> {
        if !lease::is_ours(trial) {
            return Some("a worker of another program".into());
        }
        let probe = self.dir().join(".workers").join(format!("{}.probe", Process::this().text()));
        lease::living_holder(&self.folder_of(trial.number), file.limits.lease_seconds, &probe)
    }

    /// The lines that give a dead worker's trial to this one, or let it fail after too many deaths.
    fn take_over(
        &self,
        file: &StudyFile,
        study: &StudyRecord,
        trial: &TrialRecord,
        token: &str,
    ) -> Result<(Vec<String>, bool), StudyError> {
        let id = study.trial_ids[trial.number as usize];
        let writer = Writer { worker: token };
        let deaths = trial.retries() + 1;
        if deaths > file.limits.retry_limit {
            tracing::warn!("trial {}: {deaths} workers died on it; it fails", trial.number);
            let reason = json!(format!("{deaths} workers died while they trained it"));
            let lines = vec![
                writer.user_attr(id, FAIL_REASON, &reason),
                writer.state(id, State::Fail, None, Timestamp::now()),
            ];
            return Ok((lines, false));
        }
        tracing::warn!("trial {}: its worker died; going on from its checkpoint", trial.number);
        lease::write(&self.folder_of(trial.number), token)?;
        let now = Timestamp::now();
        let lines = vec![
            writer.user_attr(id, RETRIES, &json!(deaths)),
            writer.state(id, State::Waiting, None, now),
            writer.state(id, State::Running, None, now),
        ];
        Ok((lines, true))
    }

    /// The lines that start a waiting trial; one that Optuna queued gets the parameters that it lacks.
    fn start(
        &self,
        file: &StudyFile,
        study: &StudyRecord,
        trial: &TrialRecord,
        token: &str,
    ) -> Result<Vec<String>, StudyError> {
        let id = study.trial_ids[trial.number as usize];
        let writer = Writer { worker: token };
        let mut lines = Vec::new();
        if trial.params.is_empty() {
            let mut point = self.draw(file, study, trial.number)?;
            let fixed = trial.system_attrs.get("fixed_params");
            for (value, parameter) in point.iter_mut().zip(&self.space().parameters) {
                let wanted = fixed.and_then(|fixed| fixed.get(&parameter.name));
                *value = wanted.and_then(|wanted| parameter.distribution.internal(wanted)).or(*value);
            }
            for (parameter, value) in self.space().parameters.iter().zip(point) {
                if let Some(value) = value {
                    lines.push(writer.param(
                        id,
                        &parameter.name,
                        &parameter.distribution.to_journal(),
                        value,
                    ));
                }
            }
        }
        lease::write(&self.folder_of(trial.number), token)?;
        lines.push(writer.state(id, State::Running, None, Timestamp::now()));
        Ok(lines)
    }

    /// The lease of a trial that was just claimed; none if another program's claim was first.
    fn lease(&self, file: &StudyFile, number: u64, token: String) -> Result<Option<Lease>, StudyError> {
        let params = {
            let journal = self.journal();
            let trial = &self.record(journal.replay())?.trials[number as usize];
            if trial.owner.as_deref() != Some(token.as_str()) {
                return Ok(None);
            }
            trial.params()
        };
        let trial = self.write_trial_file(file, number, params)?;
        Lease::new(self.clone(), Box::new(trial), token).map(Some)
    }

    /// Write `trial.json` unless it is there.
    pub(super) fn write_trial_file(
        &self,
        file: &StudyFile,
        number: u64,
        params: Map<String, Value>,
    ) -> Result<TrialFile, StudyError> {
        let path = self.folder_of(number).join("trial.json");
        let trial = TrialFile::new(file, number, params);
        if files::read_json::<TrialFile>(&path).ok().as_ref() != Some(&trial) {
            super::write_unsynced(&path, &trial)?;
        }
        Ok(trial)
    }

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

    /// `study.json` as it is now: limits may have been raised.
    pub(super) fn current(&self) -> Result<StudyFile, StudyError> {
        Ok(files::read_json(&self.dir().join("study.json"))?)
    }

    /// Parameters for a trial that the sampler and the network both agree with.
    pub(super) fn draw(
        &self,
        file: &StudyFile,
        study: &StudyRecord,
        number: u64,
    ) -> Result<Point, StudyError> {
        let history = History { trials: &study.trials, maximise: study.maximise };
        self.draw_from(file, &history, number)
    }

    /// As [`Self::draw`], from any history.
    pub(super) fn draw_from(
        &self,
        file: &StudyFile,
        history: &History<'_>,
        number: u64,
    ) -> Result<Point, StudyError> {
        let check = |params: &Map<String, Value>| {
            TrialFile::new(file, number, params.clone()).check().map_err(|error| match error {
                StudyError::Network { source, .. } => source.to_string(),
                error => error.to_string(),
            })
        };
        Sampler { kind: file.sampler, seed: file.seed, space: self.space(), check: &check }
            .draw(number, history)
    }

    /// The line that makes a waiting trial.
    pub(super) fn creation(&self, study: &StudyRecord, point: &Point, writer: &Writer<'_>) -> String {
        let pairs = self.space().parameters.iter().zip(point);
        let template = Template {
            params: pairs
                .filter_map(|(p, value)| Some((p.name.as_str(), p.distribution.to_journal(), (*value)?)))
                .collect(),
            user_attrs: Map::new(),
            system_attrs: Map::new(),
            state: State::Waiting,
            value: None,
            intermediate_values: Vec::new(),
            times: (None, None),
        };
        writer.create_trial(study.id, &template)
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
