//! Distributions of one parameter, as Optuna's journal stores them.

use serde_json::{Value, json};

/// Where a parameter's values come from.
///
/// The journal holds *internal* values: a number is itself, a choice its index.
#[derive(Debug, Clone, PartialEq)]
pub enum Distribution {
    /// One of several JSON values
    Categorical {
        /// The values, in the order of their indices
        choices: Vec<Value>,
    },
    /// A whole number in `low..=high`
    Int {
        /// Least value
        low: i64,
        /// Greatest value
        high: i64,
        /// Whether its logarithm is uniform
        log: bool,
        /// Distance of two neighbours
        step: i64,
    },
    /// A number in `low..=high`
    Float {
        /// Least value
        low: f64,
        /// Greatest value
        high: f64,
        /// Whether its logarithm is uniform
        log: bool,
        /// Distance of two neighbours; none for a continuous range
        step: Option<f64>,
    },
}

impl Distribution {
    /// The string in the journal's `distribution` field.
    pub fn to_journal(&self) -> String {
        let (name, attributes) = match self {
            Self::Categorical { choices } => ("CategoricalDistribution", json!({ "choices": choices })),
            Self::Int { low, high, log, step } => {
                ("IntDistribution", json!({ "log": log, "step": step, "low": low, "high": high }))
            }
            Self::Float { low, high, log, step } => {
                ("FloatDistribution", json!({ "step": step, "low": low, "high": high, "log": log }))
            }
        };
        json!({ "name": name, "attributes": attributes }).to_string()
    }

    /// Understand a journal's `distribution` field, old Optuna names included; none for an unknown one.
    pub fn from_journal(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let attributes = &value["attributes"];
        let number = |key: &str| attributes[key].as_f64();
        let whole = |key: &str| number(key).map(|x| x as i64);
        let log = attributes["log"].as_bool().unwrap_or(false);
        Some(match value["name"].as_str()? {
            "CategoricalDistribution" => {
                Self::Categorical { choices: attributes["choices"].as_array()?.clone() }
            }
            name @ ("IntDistribution" | "IntUniformDistribution" | "IntLogUniformDistribution") => {
                Self::Int {
                    low: whole("low")?,
                    high: whole("high")?,
                    log: log || name == "IntLogUniformDistribution",
                    step: whole("step").unwrap_or(1).max(1),
                }
            }
            name @ ("FloatDistribution"
            | "UniformDistribution"
            | "LogUniformDistribution"
            | "DiscreteUniformDistribution") => Self::Float {
                low: number("low")?,
                high: number("high")?,
                log: log || name == "LogUniformDistribution",
                step: number("step").or_else(|| number("q")),
            },
            _ => return None,
        })
    }

    /// The value that people see; none if it is outside.
    ///
    /// ```
    /// use shared::study::distribution::Distribution;
    /// let kernel = Distribution::Categorical { choices: vec![3.into(), 5.into()] };
    /// assert_eq!(kernel.external(1.0), Some(5.into()));
    /// assert_eq!(kernel.internal(&5.into()), Some(1.0));
    /// assert_eq!(kernel.internal(&4.into()), None);
    /// ```
    pub fn external(&self, internal: f64) -> Option<Value> {
        if !self.contains(internal) {
            return None;
        }
        match self {
            Self::Categorical { choices } => choices.get(internal as usize).cloned(),
            Self::Int { .. } => Some(json!(internal as i64)),
            Self::Float { .. } => Some(json!(internal)),
        }
    }

    /// The number that the journal stores for a value; none if the value is outside.
    pub fn internal(&self, external: &Value) -> Option<f64> {
        let internal = match self {
            Self::Categorical { choices } => choices.iter().position(|choice| same(choice, external))? as f64,
            Self::Int { .. } | Self::Float { .. } => external.as_f64()?,
        };
        self.contains(internal).then_some(internal)
    }

    /// Whether an internal value can be drawn.
    pub fn contains(&self, internal: f64) -> bool {
        match self {
            Self::Categorical { choices } => {
                internal >= 0.0 && internal.fract() == 0.0 && internal < choices.len() as f64
            }
            Self::Int { low, high, step, .. } => {
                let (low, high) = (*low as f64, *high as f64);
                (low..=high).contains(&internal) && (internal - low) % *step as f64 == 0.0
            }
            Self::Float { low, high, step, .. } => {
                (*low..=*high).contains(&internal)
                    && step.is_none_or(|step| {
                        let k = (internal - low) / step;
                        (k - k.round()).abs() < 1e-8
                    })
            }
        }
    }

    #[expect(clippy::float_cmp, reason = "only a range of one number has equal ends")]
    /// How many values there are; none for a continuous range.
    pub fn cardinality(&self) -> Option<u64> {
        match self {
            Self::Categorical { choices } => Some(choices.len() as u64),
            Self::Int { low, high, step, .. } => Some(((high - low) / step) as u64 + 1),
            Self::Float { low, high, .. } if low == high => Some(1),
            Self::Float { low, high, step: Some(step), .. } => {
                Some(((high - low) / step + 1e-8).floor() as u64 + 1)
            }
            Self::Float { .. } => None,
        }
    }

    /// The `index`-th of `count` points of a continuous range, both ends among them.
    pub fn level(&self, index: u64, count: u64) -> f64 {
        let share = if count > 1 { index as f64 / (count - 1) as f64 } else { 0.5 };
        match self {
            Self::Float { low, high, log: true, .. } => {
                (low.ln() + share * (high.ln() - low.ln())).exp().clamp(*low, *high)
            }
            Self::Float { low, high, .. } => low + share * (high - low),
            _ => self.nth(index),
        }
    }

    /// The `index`-th of [`Self::cardinality`] values, as an internal value.
    pub fn nth(&self, index: u64) -> f64 {
        match self {
            Self::Categorical { .. } => index as f64,
            Self::Int { low, step, .. } => (low + step * index.cast_signed()) as f64,
            Self::Float { low, high, step, .. } => (low + step.unwrap_or(0.0) * index as f64).min(*high),
        }
    }
}

#[expect(clippy::float_cmp, reason = "a choice is found by its exact value")]
/// Equality of JSON values in which 3 and 3.0 are the same number.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
