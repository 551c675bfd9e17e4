//! One trial as the journal tells it.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::distribution::Distribution;

/// State of a trial, with Optuna's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// A worker trains it
    Running = 0,
    /// It has a value
    Complete = 1,
    /// A pruner stopped it
    Pruned = 2,
    /// It has no value and counts for nothing
    Fail = 3,
    /// It has parameters, and no worker
    Waiting = 4,
}

impl State {
    /// The state with this number in the journal.
    pub const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Running,
            1 => Self::Complete,
            2 => Self::Pruned,
            3 => Self::Fail,
            4 => Self::Waiting,
            _ => return None,
        })
    }

    /// Whether nothing more can happen to the trial.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Complete | Self::Pruned | Self::Fail)
    }

    /// Optuna's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Complete => "COMPLETE",
            Self::Pruned => "PRUNED",
            Self::Fail => "FAIL",
            Self::Waiting => "WAITING",
        }
    }
}

/// One parameter of a trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Name in the journal
    pub name: Arc<str>,
    /// Where the value came from
    pub distribution: Arc<Distribution>,
    /// Value in the journal: a number, or the index of a choice
    pub internal: f64,
}

/// One trial as the journal tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialRecord {
    /// Position in the study, from 0
    pub number: u64,
    /// Where it stands
    pub state: State,
    /// Parameters in the order of the space
    pub params: Vec<Param>,
    /// The objective, once it is complete
    pub value: Option<f64>,
    /// Reported values, by step in rising order; may be NaN
    pub intermediate_values: Vec<(u64, f64)>,
    /// When a worker last took it
    pub started: Option<Timestamp>,
    /// When it finished
    pub completed: Option<Timestamp>,
    /// Notes of this program and of people
    pub user_attrs: Map<String, Value>,
    /// Notes of Optuna
    pub system_attrs: Map<String, Value>,
    /// `worker_id` of the journal line that made it run
    pub owner: Option<Arc<str>>,
}

impl TrialRecord {
    /// Parameters as people see them.
    pub fn params(&self) -> Map<String, Value> {
        self.params
            .iter()
            .map(|p| (p.name.to_string(), p.distribution.external(p.internal).unwrap_or(Value::Null)))
            .collect()
    }

    /// Internal value of a parameter.
    pub fn internal(&self, name: &str) -> Option<f64> {
        self.params.iter().find(|p| &*p.name == name).map(|p| p.internal)
    }

    /// Keep one more reported value; a step reported again replaces the old value.
    pub(super) fn set_intermediate(&mut self, step: u64, value: f64) {
        match self.intermediate_values.binary_search_by_key(&step, |(step, _)| *step) {
            Ok(at) => self.intermediate_values[at].1 = value,
            Err(at) => self.intermediate_values.insert(at, (step, value)),
        }
    }

    /// Whether it comes from elsewhere: then it teaches the sampler, and counts for nothing else.
    pub fn is_imported(&self) -> bool {
        !self.user_attrs.is_empty() && self.user_attrs.contains_key(super::IMPORTED)
    }

    /// How often a worker died on it.
    pub fn retries(&self) -> u64 {
        self.user_attrs.get(super::RETRIES).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Seconds from start to end, if it has both.
    pub fn seconds(&self) -> Option<f64> {
        let (started, completed) = (self.started?, self.completed?);
        Some(completed.duration_since(started).as_secs_f64())
    }
}
