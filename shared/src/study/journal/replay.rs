//! What the lines of a journal add up to: the same rules as in Optuna's replay.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::line::{Line, quote_bare_words};
use crate::study::distribution::{Distribution, same};
use crate::study::record::{Param, State, TrialRecord};

/// Studies and trials so far.
#[derive(Debug, Default)]
pub struct Replay {
    studies: Vec<Option<StudyRecord>>,
    /// By trial id: position of the study and number in it
    ids: Vec<(usize, usize)>,
    distributions: HashMap<String, Arc<Distribution>>,
    names: HashMap<String, Arc<str>>,
}

/// One study of a journal.
#[derive(Debug)]
pub struct StudyRecord {
    /// Its name, unique in the journal
    pub name: String,
    /// Whether greater is better
    pub maximise: bool,
    /// Notes of this program and of people
    pub user_attrs: Map<String, Value>,
    /// Notes of Optuna
    pub system_attrs: Map<String, Value>,
    /// Its trials by number
    pub trials: Vec<TrialRecord>,
    /// Id of each trial, by number
    pub trial_ids: Vec<u64>,
    /// Its id
    pub id: u64,
}

/// Why a line can't be applied.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LineError {
    /// It is not what a journal holds
    Broken(String),
    /// Its operation is not known
    Newer(u64),
}

impl Replay {
    /// The study of this name.
    pub fn study(&self, name: &str) -> Option<&StudyRecord> {
        self.studies().find(|study| study.name == name)
    }

    /// Id of the next study.
    pub fn next_study_id(&self) -> u64 {
        self.studies.len() as u64
    }

    /// Id of the next trial.
    pub fn next_trial_id(&self) -> u64 {
        self.ids.len() as u64
    }

    /// All studies that were not deleted.
    pub fn studies(&self) -> impl Iterator<Item = &StudyRecord> {
        self.studies.iter().flatten()
    }

    /// Apply one line; one that Optuna would not accept changes nothing.
    pub(super) fn apply(&mut self, text: &str) -> Result<(), LineError> {
        if let Ok(line) = serde_json::from_str::<Line<'_>>(text) {
            return self.apply_line(line);
        }
        let quoted = quote_bare_words(text);
        let line = serde_json::from_str::<Line<'_>>(&quoted).map_err(|e| LineError::Broken(e.to_string()))?;
        self.apply_line(line)
    }

    fn apply_line(&mut self, line: Line<'_>) -> Result<(), LineError> {
        let missing = || LineError::Broken(format!("a field of operation {} is missing", line.op_code));
        match line.op_code {
            0 => {
                let name = line.study_name.as_deref().ok_or_else(missing)?;
                let maximise = line.directions.as_ref().and_then(|d| d.first()) == Some(&2);
                self.create_study(name, maximise);
            }
            1 => {
                let id = line.study_id.ok_or_else(missing)?;
                if let Some(study) = self.studies.get_mut(id as usize) {
                    *study = None;
                }
            }
            2 | 3 => {
                let id = line.study_id.ok_or_else(missing)?;
                if let Some(Some(study)) = self.studies.get_mut(id as usize) {
                    study.user_attrs.extend(line.user_attr.unwrap_or_default());
                    study.system_attrs.extend(line.system_attr.unwrap_or_default());
                }
            }
            4 => self.create_trial(line)?,
            5..=9 => self.update_trial(line)?,
            10 => {} // Optuna skips it, too.
            newer => return Err(LineError::Newer(newer)),
        }
        Ok(())
    }

    fn create_study(&mut self, name: &str, maximise: bool) {
        if self.study(name).is_some() {
            return;
        }
        let id = self.studies.len() as u64;
        self.studies.push(Some(StudyRecord {
            name: name.to_owned(),
            maximise,
            user_attrs: Map::new(),
            system_attrs: Map::new(),
            trials: Vec::new(),
            trial_ids: Vec::new(),
            id,
        }));
    }

    fn create_trial(&mut self, line: Line<'_>) -> Result<(), LineError> {
        let study_id = line.study_id.ok_or(LineError::Broken("`study_id` is missing".into()))?;
        let position = study_id as usize;
        if !matches!(self.studies.get(position), Some(Some(_))) {
            return Ok(());
        }
        let state = state(line.state.unwrap_or(State::Running as u64))?;
        let params = self.params(&line)?;
        let value = line.value.or_else(|| line.values.as_ref()?.first().copied());
        let owner = (state == State::Running).then(|| self.name(&line.worker_id));
        let id = self.ids.len() as u64;
        let Some(Some(study)) = self.studies.get_mut(position) else { return Ok(()) };
        let number = study.trials.len();
        study.trial_ids.push(id);
        study.trials.push(TrialRecord {
            number: number as u64,
            state,
            params,
            value: value.map(|value| value.0),
            intermediate_values: line
                .intermediate_values
                .map(|values| values.into_iter().map(|(step, value)| (step, value.0)).collect())
                .unwrap_or_default(),
            started: line.datetime_start.as_deref().map(time).transpose()?,
            completed: line.datetime_complete.as_deref().map(time).transpose()?,
            user_attrs: line.user_attrs.unwrap_or_default(),
            system_attrs: line.system_attrs.unwrap_or_default(),
            owner,
        });
        self.ids.push((position, number));
        Ok(())
    }

    fn params(&mut self, line: &Line<'_>) -> Result<Vec<Param>, LineError> {
        let (Some(values), Some(distributions)) = (&line.params, &line.distributions) else {
            return Ok(Vec::new());
        };
        let mut params = Vec::with_capacity(values.0.len());
        for (name, value) in &values.0 {
            let text = distributions.0.iter().find(|(of, _)| of == name).map(|(_, text)| text.as_str());
            let text = text.ok_or_else(|| LineError::Broken(format!("`{name}` has no distribution")))?;
            let distribution = self.distribution(text)?;
            params.push(Param { name: self.name(name), distribution, internal: value.0 });
        }
        Ok(params)
    }

    fn update_trial(&mut self, line: Line<'_>) -> Result<(), LineError> {
        let missing = |what: &str| LineError::Broken(format!("`{what}` is missing"));
        let id = line.trial_id.ok_or_else(|| missing("trial_id"))?;
        let Some(&(study, number)) = self.ids.get(id as usize) else { return Ok(()) };
        match line.op_code {
            5 => {
                let name = line.param_name.as_deref().ok_or_else(|| missing("param_name"))?;
                let text = line.distribution.as_deref().ok_or_else(|| missing("distribution"))?;
                let value = line.param_value_internal.ok_or_else(|| missing("param_value_internal"))?;
                let (name, distribution) = (self.name(name), self.distribution(text)?);
                if self.is_compatible(study, &name, &distribution)
                    && let Some(trial) = self.unfinished(study, number)
                {
                    trial.params.retain(|param| param.name != name);
                    trial.params.push(Param { name, distribution, internal: value.0 });
                }
            }
            6 => self.set_state(study, number, &line)?,
            7 => {
                let step = line.step.ok_or_else(|| missing("step"))?;
                let value = line.intermediate_value.ok_or_else(|| missing("intermediate_value"))?;
                if let Some(trial) = self.unfinished(study, number) {
                    trial.set_intermediate(step, value.0);
                }
            }
            _ => {
                if let Some(trial) = self.unfinished(study, number) {
                    trial.user_attrs.extend(line.user_attr.unwrap_or_default());
                    trial.system_attrs.extend(line.system_attr.unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    fn set_state(&mut self, study: usize, number: usize, line: &Line<'_>) -> Result<(), LineError> {
        let code = line.state.ok_or_else(|| LineError::Broken("`state` is missing".into()))?;
        let state = state(code)?;
        let worker = self.name(&line.worker_id);
        let Some(trial) = self.unfinished(study, number) else { return Ok(()) };
        if state == State::Running {
            if trial.state == State::Running {
                return Ok(()); // Someone else was first.
            }
            trial.started = line.datetime_start.as_deref().map(time).transpose()?;
            trial.owner = Some(worker);
        } else {
            trial.owner = None;
        }
        if state.is_finished() {
            trial.completed = line.datetime_complete.as_deref().map(time).transpose()?;
        }
        trial.state = state;
        if let Some(value) = line.values.as_ref().and_then(|values| values.first()) {
            trial.value = Some(value.0);
        }
        Ok(())
    }

    fn unfinished(&mut self, study: usize, number: usize) -> Option<&mut TrialRecord> {
        let trial = self.studies.get_mut(study)?.as_mut()?.trials.get_mut(number)?;
        (!trial.state.is_finished()).then_some(trial)
    }

    /// Whether the distribution is of the kind that the first trial with this parameter has.
    fn is_compatible(&self, study: usize, name: &str, new: &Distribution) -> bool {
        let Some(Some(study)) = self.studies.get(study) else { return false };
        let mut params = study.trials.iter().flat_map(|trial| &trial.params);
        let Some(first) = params.find(|param| &*param.name == name) else { return true };
        match (&*first.distribution, new) {
            (Distribution::Categorical { choices: a }, Distribution::Categorical { choices: b }) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Distribution::Int { log: a, .. }, Distribution::Int { log: b, .. })
            | (Distribution::Float { log: a, .. }, Distribution::Float { log: b, .. }) => a == b,
            _ => false,
        }
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(name) = self.names.get(name) {
            return Arc::clone(name);
        }
        let shared: Arc<str> = name.into();
        self.names.insert(name.to_owned(), Arc::clone(&shared));
        shared
    }

    fn distribution(&mut self, text: &str) -> Result<Arc<Distribution>, LineError> {
        if let Some(distribution) = self.distributions.get(text) {
            return Ok(Arc::clone(distribution));
        }
        let quoted = if text.contains("NaN") || text.contains("Infinity") {
            Cow::Owned(quote_bare_words(text))
        } else {
            Cow::Borrowed(text)
        };
        let distribution = Distribution::from_journal(&quoted)
            .ok_or_else(|| LineError::Broken(format!("distribution {text} is not known")))?;
        let shared = Arc::new(distribution);
        self.distributions.insert(text.to_owned(), Arc::clone(&shared));
        Ok(shared)
    }
}

fn state(code: u64) -> Result<State, LineError> {
    State::from_code(code).ok_or_else(|| LineError::Broken(format!("state {code} is not known")))
}

fn time(text: &str) -> Result<Timestamp, LineError> {
    text.parse().map_err(|_| LineError::Broken(format!("`{text}` is no time with an offset")))
}
