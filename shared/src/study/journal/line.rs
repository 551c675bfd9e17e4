//! Lines of the journal: what can stand in one, and how to write it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::{Map, Value, json};

use crate::study::record::State;

/// Any line; which fields it has depends on `op_code`.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    pub op_code: u64,
    #[serde(borrow)]
    pub worker_id: Cow<'a, str>,
    pub study_id: Option<u64>,
    pub trial_id: Option<u64>,
    #[serde(borrow)]
    pub study_name: Option<Cow<'a, str>>,
    pub directions: Option<Vec<u64>>,
    pub state: Option<u64>,
    #[serde(borrow)]
    pub datetime_start: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub datetime_complete: Option<Cow<'a, str>>,
    pub value: Option<Float>,
    pub values: Option<Vec<Float>>,
    #[serde(default)]
    pub distributions: Option<Ordered<String>>,
    #[serde(default)]
    pub params: Option<Ordered<Float>>,
    pub intermediate_values: Option<BTreeMap<u64, Float>>,
    pub user_attrs: Option<Map<String, Value>>,
    pub system_attrs: Option<Map<String, Value>>,
    pub user_attr: Option<Map<String, Value>>,
    pub system_attr: Option<Map<String, Value>>,
    #[serde(borrow)]
    pub param_name: Option<Cow<'a, str>>,
    pub param_value_internal: Option<Float>,
    pub distribution: Option<String>,
    pub step: Option<u64>,
    pub intermediate_value: Option<Float>,
}

/// A JSON object whose order matters.
#[derive(Debug)]
pub(super) struct Ordered<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
            type Value = Ordered<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::with_capacity(8);
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Ordered(pairs))
            }
        }
        deserializer.deserialize_map(Pairs(std::marker::PhantomData))
    }
}

/// A number that Python may have written as bare `NaN` or `Infinity`; see [`quote_bare_words`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Float(pub f64);

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Float;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_f64<E>(self, value: f64) -> Result<Float, E> {
                Ok(Float(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Float, E> {
                Ok(Float(value as f64))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Float, E> {
                Ok(Float(value as f64))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Float, E> {
                Ok(Float(f64::from(u8::from(value))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Float, E> {
                match text {
                    "NaN" => Ok(Float(f64::NAN)),
                    "Infinity" => Ok(Float(f64::INFINITY)),
                    "-Infinity" => Ok(Float(f64::NEG_INFINITY)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// Put quotes around `NaN`, `Infinity` and `-Infinity` outside strings, which Python writes and JSON forbids.
pub(super) fn quote_bare_words(line: &str) -> String {
    let mut out = String::with_capacity(line.len() + 8);
    let (mut rest, mut in_string) = (line, false);
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        let taken = match (in_string, c, word) {
            (true, '\\', _) => rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at),
            (_, '"', _) => {
                in_string = !in_string;
                1
            }
            (false, _, Some(word)) => {
                out.push('"');
                out.push_str(word);
                out.push('"');
                rest = &rest[word.len()..];
                continue;
            }
            _ => c.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

/// A time as Python's `fromisoformat` reads it, with its offset.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

/// A number as Python's `json` writes it, bare `NaN` and `Infinity` included.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        json!(value).to_string()
    }
}

/// Writes the lines of one worker.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    /// `worker_id` of its lines
    pub worker: &'a str,
}

/// What a new trial is made from.
#[derive(Debug, Clone)]
pub struct Template<'a> {
    /// Name, distribution as the journal stores it, internal value
    pub params: Vec<(&'a str, String, f64)>,
    /// Notes of this program
    pub user_attrs: Map<String, Value>,
    /// Notes of Optuna
    pub system_attrs: Map<String, Value>,
    /// State from the start
    pub state: State,
    /// Value, for a finished trial that comes from elsewhere
    pub value: Option<f64>,
    /// Reported values of such a trial
    pub intermediate_values: Vec<(u64, f64)>,
    /// Start and end of such a trial
    pub times: (Option<Timestamp>, Option<Timestamp>),
}

impl Writer<'_> {
    fn line(&self, op: u64, mut fields: Value) -> String {
        let mut line = json!({ "op_code": op, "worker_id": self.worker });
        if let (Some(line), Some(fields)) = (line.as_object_mut(), fields.as_object_mut()) {
            line.append(fields);
        }
        line.to_string()
    }

    /// A study with one objective.
    pub fn create_study(&self, name: &str, maximise: bool) -> String {
        self.line(0, json!({ "study_name": name, "directions": [if maximise { 2 } else { 1 }] }))
    }

    /// A note on the study.
    pub fn study_user_attr(&self, study: u64, key: &str, value: &Value) -> String {
        self.line(2, json!({ "study_id": study, "user_attr": { key: value } }))
    }

    /// A note on the study that Optuna understands.
    pub fn study_system_attr(&self, study: u64, key: &str, value: &Value) -> String {
        self.line(3, json!({ "study_id": study, "system_attr": { key: value } }))
    }

    /// A trial.
    pub fn create_trial(&self, study: u64, template: &Template<'_>) -> String {
        let distributions: Map<String, Value> =
            template.params.iter().map(|(name, d, _)| ((*name).to_owned(), json!(d))).collect();
        let params: Map<String, Value> =
            template.params.iter().map(|(name, _, value)| ((*name).to_owned(), json!(value))).collect();
        let mut fields = json!({
            "study_id": study,
            "datetime_start": template.times.0.map(time),
            "state": template.state as u64,
            "value": template.value,
            "values": null,
            "distributions": distributions,
            "params": params,
            "user_attrs": template.user_attrs,
            "system_attrs": template.system_attrs,
        });
        if let Some(completed) = template.times.1 {
            fields["datetime_complete"] = json!(time(completed));
        }
        let line = self.line(4, fields);
        let steps: Vec<String> = template
            .intermediate_values
            .iter()
            .map(|(step, value)| format!("\"{step}\":{}", number(*value)))
            .collect();
        format!("{},\"intermediate_values\":{{{}}}}}", &line[..line.len() - 1], steps.join(","))
    }

    /// A parameter of a trial that has none yet.
    pub fn param(&self, trial: u64, name: &str, distribution: &str, internal: f64) -> String {
        self.line(
            5,
            json!({ "trial_id": trial, "param_name": name, "param_value_internal": internal, "distribution": distribution }),
        )
    }

    /// A new state, with the value if the trial is complete or pruned with one.
    pub fn state(&self, trial: u64, state: State, value: Option<f64>, now: Timestamp) -> String {
        let values = value.map(|value| vec![value]);
        let mut fields = json!({ "trial_id": trial, "state": state as u64, "values": values });
        if state == State::Running {
            fields["datetime_start"] = json!(time(now));
        } else if state.is_finished() {
            fields["datetime_complete"] = json!(time(now));
        }
        self.line(6, fields)
    }

    /// A reported value.
    pub fn report(&self, trial: u64, step: u64, value: f64) -> String {
        let line = self.line(7, json!({ "trial_id": trial, "step": step }));
        format!("{},\"intermediate_value\":{}}}", &line[..line.len() - 1], number(value))
    }

    /// A note on a trial.
    pub fn user_attr(&self, trial: u64, key: &str, value: &Value) -> String {
        self.line(8, json!({ "trial_id": trial, "user_attr": { key: value } }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_words_are_quoted_outside_strings_only() {
        assert_eq!(
            quote_bare_words(r#"{"a":NaN,"b":[-Infinity,Infinity],"NaN":"is \"NaN\" \\"}"#),
            r#"{"a":"NaN","b":["-Infinity","Infinity"],"NaN":"is \"NaN\" \\"}"#
        );
    }

    #[test]
    fn times_carry_their_offset() {
        let at: Timestamp = "2026-01-02T03:04:05.000006Z".parse().unwrap();
        assert_eq!(time(at), "2026-01-02T03:04:05.000006+00:00");
    }

    #[test]
    fn a_report_of_nan_is_what_python_writes() {
        let line = Writer { worker: "w" }.report(3, 4, f64::NAN);
        assert_eq!(line, r#"{"op_code":7,"worker_id":"w","trial_id":3,"step":4,"intermediate_value":NaN}"#);
    }
}
