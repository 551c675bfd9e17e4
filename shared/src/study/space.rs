//! The search space: a config's `space_options` as Optuna's distributions.

use serde_json::{Map, Value};

use super::distribution::{Distribution, same};
use super::sampler::Point;

/// A parameter that a trial understands.
#[derive(Debug)]
pub struct Known {
    /// Its key in `space_options` and its name in the journal
    pub name: &'static str,
    /// What its values must be
    pub domain: Domain,
    /// Whether a plain list is a range, as in the users' code
    pub list_is_range: bool,
}

/// What the values of a known parameter must be.
#[derive(Debug, Clone, Copy)]
pub enum Domain {
    /// Whole numbers from this one on
    Whole(i64),
    /// Numbers in `0.0..1.0`
    Share,
    /// Numbers above 0
    Positive,
    /// Numbers from 0 on
    NotNegative,
    /// Numbers above 0, at most 1
    Rate,
}

/// Every parameter that a trial understands.
pub const KNOWN: [Known; 14] = [
    Known { name: "n_conv_layers", domain: Domain::Whole(0), list_is_range: false },
    Known { name: "n_dense_layers", domain: Domain::Whole(0), list_is_range: false },
    Known { name: "n_filters", domain: Domain::Whole(1), list_is_range: false },
    Known { name: "kernel_size", domain: Domain::Whole(1), list_is_range: false },
    Known { name: "n_dense_units", domain: Domain::Whole(1), list_is_range: false },
    Known { name: "dropout_rate", domain: Domain::Share, list_is_range: false },
    Known { name: "learning_rate", domain: Domain::Positive, list_is_range: true },
    Known { name: "decay_rate", domain: Domain::Rate, list_is_range: true },
    Known { name: "batch_size", domain: Domain::Whole(1), list_is_range: false },
    Known { name: "label_smoothing", domain: Domain::Share, list_is_range: false },
    Known { name: "focal_gamma", domain: Domain::NotNegative, list_is_range: false },
    Known { name: "weight_decay", domain: Domain::NotNegative, list_is_range: false },
    Known { name: "global_clipnorm", domain: Domain::Positive, list_is_range: false },
    Known { name: "warmup_epochs", domain: Domain::NotNegative, list_is_range: false },
];

/// One parameter of a space.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Name in the journal
    pub name: String,
    /// Where its values come from
    pub distribution: Distribution,
    /// When it is drawn at all
    pub when: Option<Condition>,
}

/// A parameter is drawn only when another one has one of these values.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The other parameter; it has no condition itself
    pub parameter: String,
    /// Its values, as people see them
    pub values: Vec<Value>,
}

/// All parameters; those without a condition come first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Space {
    /// In the order of the config
    pub parameters: Vec<Parameter>,
}

/// What is wrong with one parameter's options.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter `{name}`: {reason}")]
pub struct SpaceError {
    /// The parameter
    pub name: String,
    /// What is wrong, and the way out
    pub reason: String,
}

impl Space {
    /// Understand `space_options`; unknown parameters are left out, since no trial would look at them.
    ///
    /// A list is a choice, but for `learning_rate` and `decay_rate` the uniform range from its least to its
    /// greatest number; `{"choice": […]}`, `{"uniform": [a, b]}`, `{"log_uniform": [a, b]}` and
    /// `{"int": [a, b]}` are explicit, and a number is fixed. `"when": {"n_dense_layers": [2, 3]}` beside them
    /// draws the parameter only when the other one has one of these values.
    ///
    /// # Errors
    /// [`SpaceError`] names the parameter whose options are empty, reversed or impossible.
    pub fn from_options(options: &Map<String, Value>) -> Result<Self, SpaceError> {
        let mut parameters = Vec::new();
        for (name, option) in options {
            let Some(known) = KNOWN.iter().find(|known| known.name == name) else { continue };
            let fail = |reason| SpaceError { name: name.clone(), reason };
            let distribution = read(known, option).map_err(fail)?;
            let when = condition(option).map_err(fail)?;
            parameters.push(Parameter { name: name.clone(), distribution, when });
        }
        parameters.sort_by_key(|parameter| parameter.when.is_some());
        let space = Self { parameters };
        space.check_conditions()?;
        Ok(space)
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// How many points there are at most; none if a parameter is continuous.
    pub fn size(&self) -> Option<u64> {
        self.parameters
            .iter()
            .try_fold(1_u64, |size, p| Some(size.saturating_mul(p.distribution.cardinality()?)))
    }

    /// All points, the last parameter changing fastest.
    ///
    /// - `levels`: how many a continuous range has
    pub fn points(&self, levels: u64) -> Vec<Point> {
        let mut points: Vec<Point> = vec![Vec::new()];
        for (i, parameter) in self.parameters.iter().enumerate() {
            let values: Vec<f64> = match parameter.distribution.cardinality() {
                Some(count) => (0..count).map(|index| parameter.distribution.nth(index)).collect(),
                None => (0..levels).map(|i| parameter.distribution.level(i, levels)).collect(),
            };
            let mut longer = Vec::with_capacity(points.len() * values.len());
            for point in points {
                let is_drawn = parameter.when.as_ref().is_none_or(|when| {
                    let mut padded = point.clone();
                    padded.resize(self.parameters.len(), None);
                    when.holds(&super::sampler::params_of(self, &padded))
                });
                if is_drawn {
                    longer.extend(values.iter().map(|&value| [&point[..i], &[Some(value)]].concat()));
                } else {
                    longer.push([&point[..i], &[None]].concat());
                }
            }
            points = longer;
        }
        points
    }

    fn check_conditions(&self) -> Result<(), SpaceError> {
        for parameter in &self.parameters {
            let Some(condition) = &parameter.when else { continue };
            let fail = |reason| Err(SpaceError { name: parameter.name.clone(), reason });
            let other = &condition.parameter;
            let Some(parent) = self.get(other) else {
                return fail(format!("`when` names `{other}`, which the space does not have"));
            };
            if parent.when.is_some() {
                return fail(format!("`when` names `{other}`, which has a condition itself"));
            }
            if let Some(value) = condition.values.iter().find(|v| parent.distribution.internal(v).is_none()) {
                return fail(format!("`when` waits for `{other}` = {value}, which is never drawn"));
            }
        }
        Ok(())
    }
}

impl Condition {
    /// Whether the parameter is drawn with these parameters.
    pub fn holds(&self, params: &Map<String, Value>) -> bool {
        params.get(&self.parameter).is_some_and(|found| self.values.iter().any(|value| same(value, found)))
    }
}

fn condition(option: &Value) -> Result<Option<Condition>, String> {
    let Some(when) = option.get("when") else { return Ok(None) };
    let example = "give one parameter and its values, such as {\"n_dense_layers\": [2, 3]}";
    let map = when.as_object().filter(|map| map.len() == 1).ok_or(format!("`when` is {when}; {example}"))?;
    let (parameter, values) = map.iter().next().expect("the map has one entry");
    let values = values.as_array().filter(|values| !values.is_empty());
    let values = values.ok_or(format!("`when` is {when}; {example}"))?.clone();
    Ok(Some(Condition { parameter: parameter.clone(), values }))
}

fn read(known: &Known, option: &Value) -> Result<Distribution, String> {
    match option {
        Value::Number(_) => choice(known, std::slice::from_ref(option)),
        Value::Array(list) if known.list_is_range => range_of_list(known, list),
        Value::Array(list) => choice(known, list),
        Value::Object(map) => explicit(known, map),
        _ => Err(format!("{option} is neither a list nor a range; {FORMS}")),
    }
}

const FORMS: &str = "give [values], {\"choice\": [values]}, {\"uniform\": [a, b]}, {\"log_uniform\": [a, b]} or {\"int\": [a, b]}";

fn explicit(known: &Known, map: &Map<String, Value>) -> Result<Distribution, String> {
    let mut forms = map.iter().filter(|(key, _)| *key != "when");
    let (Some((form, value)), None) = (forms.next(), forms.next()) else {
        return Err(format!("one form is needed; {FORMS}"));
    };
    let list = value.as_array().ok_or_else(|| format!("`{form}` needs a list, found {value}"))?;
    match form.as_str() {
        "choice" => choice(known, list),
        "uniform" => range(known, list, false),
        "log_uniform" => range(known, list, true),
        "int" => int(known, list),
        _ => Err(format!("`{form}` is no form of a range; {FORMS}")),
    }
}

fn choice(known: &Known, list: &[Value]) -> Result<Distribution, String> {
    if list.is_empty() {
        return Err("the list is empty; give at least one value".into());
    }
    let mut choices: Vec<Value> = Vec::new();
    for value in list {
        let number = known.domain.check(value)?;
        let value =
            if matches!(known.domain, Domain::Whole(_)) { (number as i64).into() } else { value.clone() };
        if choices.iter().any(|choice| same(choice, &value)) {
            return Err(format!("{value} is listed twice"));
        }
        choices.push(value);
    }
    Ok(Distribution::Categorical { choices })
}

fn range_of_list(known: &Known, list: &[Value]) -> Result<Distribution, String> {
    if list.is_empty() {
        return Err("the list is empty; give the least and the greatest number".into());
    }
    let numbers = list.iter().map(|value| known.domain.check(value)).collect::<Result<Vec<f64>, String>>()?;
    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(Distribution::Float { low, high, log: false, step: None })
}

fn bounds(known: &Known, list: &[Value]) -> Result<(f64, f64), String> {
    let [low, high] = list else {
        return Err(format!("a range needs two numbers, found {}", list.len()));
    };
    let (low, high) = (known.domain.check(low)?, known.domain.check(high)?);
    if low > high {
        return Err(format!("the range {low} to {high} is reversed; give [{high}, {low}]"));
    }
    Ok((low, high))
}

fn range(known: &Known, list: &[Value], log: bool) -> Result<Distribution, String> {
    let (low, high) = bounds(known, list)?;
    if matches!(known.domain, Domain::Whole(_)) {
        return Err(
            "only whole numbers make sense here; give {\"int\": [a, b]} or {\"choice\": [values]}".into()
        );
    }
    if log && low <= 0.0 {
        return Err(format!("a logarithmic range can't start at {low}; give a number above 0"));
    }
    Ok(Distribution::Float { low, high, log, step: None })
}

fn int(known: &Known, list: &[Value]) -> Result<Distribution, String> {
    let (low, high) = bounds(known, list)?;
    if low.fract() != 0.0 || high.fract() != 0.0 {
        return Err(format!("`int` needs whole numbers, found {low} and {high}"));
    }
    Ok(Distribution::Int { low: low as i64, high: high as i64, log: false, step: 1 })
}

impl Domain {
    /// The value as a number, if it is one that makes sense.
    ///
    /// # Errors
    /// Says what the values must be.
    pub fn check(self, value: &Value) -> Result<f64, String> {
        let number = value.as_f64().filter(|number| number.is_finite());
        let number = number.ok_or_else(|| format!("{value} is not a number"))?;
        let (fits, what) = match self {
            Self::Whole(least) => (
                number.fract() == 0.0 && number >= least as f64 && number <= f64::from(u32::MAX),
                format!("a whole number from {least} on"),
            ),
            Self::Share => ((0.0..1.0).contains(&number), "at least 0 and below 1".to_owned()),
            Self::Positive => (number > 0.0, "above 0".to_owned()),
            Self::NotNegative => (number >= 0.0, "at least 0".to_owned()),
            Self::Rate => (number > 0.0 && number <= 1.0, "above 0 and at most 1".to_owned()),
        };
        if fits { Ok(number) } else { Err(format!("{value} can't be used; it must be {what}")) }
    }
}
