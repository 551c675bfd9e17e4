//! How a model came about: the trial and the study in whose folder it lies.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// One line of history.csv; a column that is missing is NaN.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    /// Number
    pub number: f64,
    /// Training loss in nats
    pub loss: f64,
    /// Validation loss in nats
    pub val_loss: f64,
    /// Validation accuracy
    pub val_accuracy: f64,
    /// Validation F1 of main tracks
    pub val_f1: f64,
}

/// A trial that is complete.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// Its number
    pub number: u32,
    /// Its objective
    pub value: f64,
}

/// What the study's folder says.
#[derive(Debug, Clone, Default)]
pub struct Study {
    /// Number of the model's trial, such as `0007`
    pub trial: String,
    /// Parameters of the trial
    pub parameters: Map<String, Value>,
    /// The training, epoch by epoch
    pub history: Vec<Epoch>,
    /// Complete trials by number
    pub trials: Vec<Trial>,
    /// What the study optimises
    pub objective: String,
}

/// The study around a model, if there is one: nothing is missing without it, so nothing here is an error.
///
/// - `trial`: what the model says it is, needed for `STUDY/best.onnx`
pub fn around(model: &Path, trial: Option<&str>) -> Option<Study> {
    let model = model.canonicalize().ok()?;
    let folder = model.parent()?;
    let (study, trial) = if folder.join("study.json").is_file() {
        (folder.to_owned(), folder.join("trials").join(trial?))
    } else {
        (folder.parent()?.parent()?.to_owned(), folder.to_owned())
    };
    let described = trial.join("trial.json").is_file() || trial.join("result.json").is_file();
    if !study.join("study.json").is_file() || !described {
        return None;
    }
    let parameters = read(&trial.join("trial.json")).map(|json| parameters(&json));
    let trials = trials(&study.join("trials"));
    Some(Study {
        trial: trial.file_name()?.to_string_lossy().into_owned(),
        parameters: parameters.unwrap_or_default(),
        history: history(&trial.join("history.csv")),
        objective: trials.1.unwrap_or_else(|| "objective".into()),
        trials: trials.0,
    })
}

/// The trial's own parameters, then what all trials of the study have in common.
fn parameters(trial: &Value) -> Map<String, Value> {
    let mut all = trial.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
    for key in ["epochs", "batch_size", "normalization", "objective", "study_seed", "config_digest"] {
        if let Some(value) = trial.get(key).filter(|_| !all.contains_key(key)) {
            all.insert(key.to_owned(), value.clone());
        }
    }
    all
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// All complete trials, and the objective that they name.
fn trials(folder: &Path) -> (Vec<Trial>, Option<String>) {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let mut objective = None;
    let complete = folders.iter().filter_map(|folder| {
        let number = folder.file_name()?.to_str()?.parse().ok()?;
        let result = read(&folder.join("result.json"))?;
        if let Some(name) = result.get("objective").and_then(Value::as_str) {
            objective = Some(name.to_owned());
        }
        let complete =
            result.get("state").and_then(Value::as_str).is_none_or(|s| s.eq_ignore_ascii_case("complete"));
        let value = result.get("value").and_then(Value::as_f64).filter(|_| complete)?;
        Some(Trial { number, value })
    });
    (complete.collect(), objective)
}

fn history(path: &Path) -> Vec<Epoch> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    lines
        .map(|line| {
            let values: Vec<&str> = line.split(',').map(str::trim).collect();
            let column = |name: &str| {
                let at = columns.iter().position(|column| *column == name);
                at.and_then(|at| values.get(at)?.parse().ok()).unwrap_or(f64::NAN)
            };
            Epoch {
                number: column("epoch"),
                loss: column("loss"),
                val_loss: column("val_loss"),
                val_accuracy: column("val_accuracy"),
                val_f1: column("val_f1"),
            }
        })
        .filter(|epoch| epoch.number.is_finite())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_in_its_trial_s_folder_and_the_best_one_find_the_same_study() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("study.json", "{}");
        write("best.onnx", "");
        write("trials/0001/model.onnx", "");
        write("trials/0001/trial.json", r#"{"params": {"n_filters": 32}, "epochs": 80}"#);
        write("trials/0001/history.csv", "epoch,loss,val_loss\n0,0.7,0.6\n1,0.5,0.4\n");
        write("trials/0000/result.json", r#"{"state": "complete", "objective": "val_f1", "value": 0.8}"#);
        write("trials/0001/result.json", r#"{"state": "complete", "objective": "val_f1", "value": 0.9}"#);
        for (model, trial) in [("best.onnx", Some("0001")), ("trials/0001/model.onnx", None)] {
            let study = around(&dir.path().join(model), trial).unwrap();
            assert_eq!((study.trial.as_str(), study.history.len(), study.trials.len()), ("0001", 2, 2));
            assert!((study.history[1].val_loss - 0.4).abs() < 1e-12 && study.history[1].val_f1.is_nan());
            assert_eq!(
                (&study.parameters["n_filters"], &study.parameters["epochs"]),
                (&32.into(), &80.into())
            );
            assert_eq!(study.objective, "val_f1");
        }
        assert!(around(&dir.path().join("best.onnx"), None).is_none());
    }
}
