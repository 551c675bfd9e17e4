//! How trials get their workers: asked for, claimed, taken over from the dead.
//!
//! Every decision is made under the journal's lock, on all that the journal holds.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::StudyError;
use super::holder::Holder;
use super::host::Process;
use super::journal::Durability;
use super::journal::line::{Template, Writer};
use super::journal::replay::StudyRecord;
use super::lease::{self, Lease};
use super::limits::Room;
use super::litter;
use super::record::{State, TrialRecord};
use super::sampler::{self, History, Point, Sampler};
use super::settings::StudyFile;
use super::trial_file::TrialFile;
use super::{Claim, FAIL_REASON, Next, RETRIES, Study};
use crate::files;

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

    /// Claim one trial. If its lease looks abandoned, this watches for a while whether anybody still touches it.
    ///
    /// # Errors
    /// [`StudyError::NoTrial`]; [`StudyError::Journal`].
    pub fn claim(&self, number: u64) -> Result<Claim, StudyError> {
        let file = self.current()?;
        let pause = Duration::from_secs_f64((file.limits.lease_seconds / 6.0).min(1.0));
        loop {
            match self.try_claim(&file, number)? {
                (Claim::Busy { worker }, true) if !crate::signal::stop_requested() => {
                    tracing::info!("trial {number}: is {worker} still alive? Watching its lease");
                    std::thread::sleep(pause);
                }
                (claim, _) => return Ok(claim),
            }
        }
    }

    /// One attempt to claim a trial; also says whether its worker may be dead.
    fn try_claim(&self, file: &StudyFile, number: u64) -> Result<(Claim, bool), StudyError> {
        let token = lease::new_token();
        let missing = || StudyError::NoTrial { study: self.dir().to_owned(), number };
        let (mut met, mut doubtful) = (None, false);
        let choice = self.journal().transact(Durability::Cached, |replay| -> Result<_, StudyError> {
            let study = self.record(replay)?;
            let trial = study.trials.get(number as usize).ok_or_else(missing)?;
            if trial.state.is_finished() {
                met = Some(Claim::Finished(trial.state));
                return Ok((Vec::new(), Choice::Spent));
            }
            if trial.state == State::Running {
                if let Some(worker) = self.holder(file, trial, &mut doubtful) {
                    met = Some(Claim::Busy { worker });
                    return Ok((Vec::new(), Choice::Wait));
                }
                let (lines, runs) = self.take_over(file, study, trial, &token)?;
                if !runs {
                    met = Some(Claim::Finished(State::Fail));
                }
                return Ok((lines, if runs { Choice::Run(number) } else { Choice::Spent }));
            }
            Ok((self.start(file, study, trial, &token)?, Choice::Run(number)))
        })?;
        match (choice, met) {
            (Choice::Run(number), _) => {
                let lease = self.lease(file, number, token)?;
                let faster = || Claim::Busy { worker: "another worker, which was faster".into() };
                Ok((lease.map_or_else(faster, Claim::Run), false))
            }
            (_, Some(claim)) => Ok((claim, doubtful)),
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
            if self.holder(file, trial, &mut false).is_some() {
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
            Room::Closed(limit) => {
                tracing::debug!("no new trial: {limit}");
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

    /// Who trains a running trial, and perhaps no longer does; none if its worker is dead.
    fn holder(&self, file: &StudyFile, trial: &TrialRecord, doubtful: &mut bool) -> Option<String> {
        if !lease::is_ours(trial) {
            return Some("a worker of another program".into());
        }
        let probe = self.dir().join(".workers").join(format!("{}.probe", Process::this().text()));
        let limit = Duration::from_secs_f64(file.limits.lease_seconds);
        match self.0.sightings.holder(&self.folder_of(trial.number), limit, &probe) {
            Holder::Lives(worker) => Some(worker),
            Holder::Doubtful(worker) => {
                *doubtful = true;
                Some(worker)
            }
            Holder::Dead => None,
        }
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
        self.clean_up(number);
        Lease::new(self.clone(), Box::new(trial), token).map(Some)
    }

    /// Remove what killed workers left in the folder of a trial that was just claimed; the first time also in those
    /// of all trials on which one died.
    fn clean_up(&self, number: u64) {
        // The lease was just written, so it has the present by the clock of the file server.
        let now = fs::metadata(lease::path_in(&self.folder_of(number))).and_then(|meta| meta.modified());
        let Ok(now) = now else { return };
        litter::sweep(&self.folder_of(number), now);
        if !self.0.is_clean.swap(true, Ordering::Relaxed) {
            let journal = self.journal();
            let Ok(study) = self.record(journal.replay()) else { return };
            let hurt = study.trials.iter().filter(|trial| trial.retries() > 0 || trial.state == State::Fail);
            hurt.for_each(|trial| litter::sweep(&self.folder_of(trial.number), now));
        }
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
