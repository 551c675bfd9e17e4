//! Warm start: trials of other studies and of people's own lists.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::distribution::Distribution;
use super::error::StudyError;
use super::journal::line::{Template, Writer};
use super::journal::{self, Durability, Journal};
use super::record::{State, TrialRecord};
use super::sampler::{self, Point};
use super::settings::StudyFile;
use super::{IMPORTED, Study};
use crate::files::{self, FileError};

/// How many trials came in, and how many do not fit the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Finished trials that now teach the sampler
    pub finished: u64,
    /// Trials that now wait for a worker
    pub waiting: u64,
    /// Trials with other parameters, or values outside the space
    pub left_out: u64,
}

/// One trial from elsewhere.
struct Foreign {
    point: Point,
    value: Option<f64>,
    origin: String,
    times: (Option<jiff::Timestamp>, Option<jiff::Timestamp>),
    steps: Vec<(u64, f64)>,
}

impl Study {
    /// Take over the complete trials of another study, or of any Optuna journal; they teach the sampler and count
    /// neither for the budget nor as the best. What was taken over before is not taken again.
    ///
    /// # Errors
    /// [`StudyError::Setting`] if the other study optimises something else; [`StudyError::Journal`].
    pub fn import_study(&self, from: &Path) -> Result<Imported, StudyError> {
        let path = if from.is_dir() { journal::path_in(from) } else { from.to_owned() };
        if !path.exists() {
            return Err(StudyError::NoStudy { path: from.to_owned() });
        }
        let objective = self.settings().experiment.objective;
        if from.join("study.json").exists() {
            let other: StudyFile = files::read_json(&from.join("study.json"))?;
            if other.experiment.objective != objective {
                let theirs = other.experiment.objective.name();
                let reason = format!("that study optimises {theirs}, this one {}", objective.name());
                return Err(StudyError::Setting { key: "from", reason });
            }
        }
        let mut other = Journal::new(path);
        let (mut foreign, mut left_out) = (Vec::new(), 0);
        for study in other.sync()?.studies().filter(|study| study.maximise == objective.is_maximised()) {
            for trial in study.trials.iter().filter(|trial| trial.state == State::Complete) {
                match self.foreign(trial, &study.name) {
                    Some(trial) => foreign.push(trial),
                    None => left_out += 1,
                }
            }
        }
        self.add(&foreign, left_out)
    }

    fn foreign(&self, trial: &TrialRecord, study: &str) -> Option<Foreign> {
        let point = sampler::point_of(self.space(), trial);
        self.missing(&point).is_none().then(|| Foreign {
            point,
            value: trial.value,
            origin: format!("{study}/{}", trial.number),
            times: (trial.started, trial.completed),
            steps: trial.intermediate_values.clone(),
        })
    }

    /// Add trials from a JSON list or a CSV table: those with a value are taken over as finished, the others wait.
    ///
    /// A row has parameters by name (in JSON also below `params`), and may have the objective's name, `value`, or
    /// hyperopt's `loss`, which is the negated objective where that is maximised. Hyperopt's own documents
    /// (`misc.vals`, where a choice is its index, and `result`) are rows as well.
    ///
    /// # Errors
    /// [`StudyError::File`]; [`StudyError::Setting`] names the row that can't be understood.
    pub fn import_rows(&self, path: &Path) -> Result<Imported, StudyError> {
        let bytes = files::read_bytes(path)?;
        let json = |source| FileError::Json { path: path.to_owned(), source };
        let rows: Vec<Map<String, Value>> = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"))
        {
            table(&String::from_utf8_lossy(&bytes))
        } else {
            serde_json::from_slice(&bytes).map_err(json)?
        };
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let (mut foreign, mut left_out) = (Vec::new(), 0);
        for (number, row) in rows.iter().enumerate() {
            let (params, value) = (self.params_of_row(row), self.value_of_row(row));
            let point = self.point_of_params(&params);
            // Hyperopt's documents are of trials that ran: those without a loss failed.
            let failed = value.is_none() && row.contains_key("misc");
            let misfit = failed.then(|| "it ran and has no loss".to_owned());
            if let Some(why) = misfit.or_else(|| self.misfit(&params, &point, value.is_some())) {
                tracing::warn!("row {} of `{}` is left out: {why}", number + 1, path.display());
                left_out += 1;
                continue;
            }
            let origin = format!("{name}:{}", number + 1);
            foreign.push(Foreign { point, value, origin, times: (None, None), steps: Vec::new() });
        }
        self.add(&foreign, left_out)
    }

    /// Parameters of a row by name, as people see them.
    fn params_of_row(&self, row: &Map<String, Value>) -> Map<String, Value> {
        match row.get("misc").and_then(|misc| misc.get("vals")).and_then(Value::as_object) {
            Some(vals) => vals
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), self.hyperopt_value(name, value)?)))
                .collect(),
            None => row.get("params").and_then(Value::as_object).unwrap_or(row).clone(),
        }
    }

    /// A value of hyperopt's `misc.vals`: a list of one number, which may have become text; of none if the parameter
    /// was not drawn.
    fn hyperopt_value(&self, name: &str, value: &Value) -> Option<Value> {
        let value = value.as_array().map_or(Some(value), |list| list.first())?;
        let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
        let parameter = self.space().get(name)?;
        let (Some(number), Distribution::Categorical { .. }) = (number, &parameter.distribution) else {
            return Some(number.map_or_else(|| value.clone(), |number| json!(number)));
        };
        Some(parameter.distribution.external(number).unwrap_or_else(|| json!("an index beyond the choices")))
    }

    fn point_of_params(&self, params: &Map<String, Value>) -> Point {
        let value =
            |p: &super::space::Parameter| params.get(&p.name).and_then(|v| p.distribution.internal(v));
        self.space().parameters.iter().map(value).collect()
    }

    /// Why a row is of no use here: a value outside the space, or a parameter that it lacks.
    ///
    /// - `is_finished`: whether it has a value; then it needs every parameter
    fn misfit(&self, params: &Map<String, Value>, point: &Point, is_finished: bool) -> Option<String> {
        let given = self.space().parameters.iter().filter_map(|p| Some((p, params.get(&p.name)?)));
        let mut strange = given.filter(|(p, v)| !v.is_null() && p.distribution.internal(v).is_none());
        if let Some((parameter, value)) = strange.next() {
            return Some(format!("the space has no `{}` = {value}", parameter.name));
        }
        if point.iter().all(Option::is_none) {
            return Some("it has none of the space's parameters".into());
        }
        let missing = self.missing(point).filter(|_| is_finished)?;
        Some(format!("it has a result, but no `{missing}`"))
    }

    fn value_of_row(&self, row: &Map<String, Value>) -> Option<f64> {
        let objective = self.settings().experiment.objective;
        let result = row.get("result").and_then(Value::as_object).unwrap_or(row);
        if result.get("status").is_some_and(|status| status != "ok") {
            return None;
        }
        let direct = row.get(objective.name()).or_else(|| row.get("value")).and_then(Value::as_f64);
        let sign = if objective.is_maximised() { -1.0 } else { 1.0 };
        let loss = || result.get("loss").and_then(Value::as_f64).map(|loss| sign * loss);
        direct.or_else(loss).filter(|value| value.is_finite())
    }

    /// A parameter that a point should have and does not.
    fn missing(&self, point: &Point) -> Option<&str> {
        let params = sampler::params_of(self.space(), point);
        let mut missing = self.space().parameters.iter().zip(point).filter(|(parameter, value)| {
            value.is_none() && parameter.when.as_ref().is_none_or(|when| when.holds(&params))
        });
        missing.next().map(|(parameter, _)| parameter.name.as_str())
    }

    fn add(&self, foreign: &[Foreign], left_out: u64) -> Result<Imported, StudyError> {
        let file = self.current()?;
        let mut made = Vec::new();
        let mut sum = self.journal().transact(Durability::Cached, |replay| -> Result<_, StudyError> {
            let study = self.record(replay)?;
            let origin = |trial: &TrialRecord| trial.user_attrs.get(IMPORTED).cloned();
            let known: Vec<Value> = study.trials.iter().filter_map(origin).collect();
            let queued = |trial: &TrialRecord| trial.user_attrs.get("enqueued_from").cloned();
            let known: Vec<Value> = known.into_iter().chain(study.trials.iter().filter_map(queued)).collect();
            let (mut lines, mut sum) = (Vec::new(), Imported::default());
            for trial in foreign.iter().filter(|trial| !known.contains(&json!(trial.origin))) {
                let mut point = trial.point.clone();
                if trial.value.is_none() {
                    let number = (study.trials.len() + lines.len()) as u64;
                    if self.missing(&point).is_some() {
                        let drawn = self.draw(&file, study, number)?;
                        point.iter_mut().zip(drawn).for_each(|(value, drawn)| *value = value.or(drawn));
                    }
                    made.push((number, point.clone()));
                }
                lines.push(self.foreign_line(study.id, &point, trial));
                let count = if trial.value.is_some() { &mut sum.finished } else { &mut sum.waiting };
                *count += 1;
            }
            Ok((lines, sum))
        })?;
        for (number, point) in made {
            self.write_trial_file(&file, number, sampler::params_of(self.space(), &point))?;
        }
        sum.left_out = left_out;
        Ok(sum)
    }

    fn foreign_line(&self, study: u64, point: &Point, trial: &Foreign) -> String {
        let pairs = self.space().parameters.iter().zip(point);
        let key = if trial.value.is_some() { IMPORTED } else { "enqueued_from" };
        let now = jiff::Timestamp::now();
        let times = match trial.value {
            Some(_) => (trial.times.0.or(Some(now)), trial.times.1.or(Some(now))),
            None => (None, None),
        };
        let template = Template {
            params: pairs
                .filter_map(|(p, value)| Some((p.name.as_str(), p.distribution.to_journal(), (*value)?)))
                .collect(),
            user_attrs: [(key.to_owned(), json!(trial.origin))].into_iter().collect(),
            system_attrs: Map::new(),
            state: if trial.value.is_some() { State::Complete } else { State::Waiting },
            value: trial.value,
            intermediate_values: trial.steps.clone(),
            times,
        };
        Writer { worker: &self.0.worker }.create_trial(study, &template)
    }
}

/// A CSV table without quotes: numbers become numbers, empty cells are left out.
fn table(text: &str) -> Vec<Map<String, Value>> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let head: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    let cell = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    let row = |line: &str| {
        let cells = head.iter().zip(line.split(',').map(str::trim)).filter(|(_, text)| !text.is_empty());
        cells.map(|(name, text)| ((*name).to_owned(), cell(text))).collect()
    };
    lines.map(row).collect()
}
