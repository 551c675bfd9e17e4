//! How a model came about: the trial and the study in whose folder it lies.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// The file that makes a folder a study.
pub const STUDY: &str = "study.json";

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
    /// Everything that was set, by name
    pub configuration: Map<String, Value>,
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
    if folder.join(STUDY).is_file() {
        of_trial(&folder.join("trials").join(trial?))
    } else {
        of_trial(folder)
    }
}

/// What the folder of a trial and the study around it say.
pub fn of_trial(trial: &Path) -> Option<Study> {
    let study = trial.parent()?.parent()?;
    let described = trial.join("trial.json").is_file() || trial.join("result.json").is_file();
    if !study.join(STUDY).is_file() || !described {
        return None;
    }
    let trials = trials(&study.join("trials"));
    Some(Study {
        trial: trial.file_name()?.to_string_lossy().into_owned(),
        configuration: configuration(study, trial),
        history: history(&trial.join("history.csv")),
        objective: trials.1.unwrap_or_else(|| "objective".into()),
        trials: trials.0,
    })
}

/// Everything that was set: the trial's own parameters, what all trials of the study have in common, how the study
/// searched, and what `config.json` beside the study (where `run_v4.sh` leaves it) says of the data and in notes.
///
/// A setting inside another has a dot in its name, such as `early_stopping.patience`.
fn configuration(study: &Path, trial: &Path) -> Map<String, Value> {
    let trial = read(&trial.join("trial.json")).unwrap_or_default();
    let told = read(&study.join(STUDY)).unwrap_or_default();
    let config = study.parent().and_then(|run| read(&run.join("config.json"))).unwrap_or_default();
    let mut all = Map::new();
    for value in trial.get("params").into_iter().chain(told.get("experiment")) {
        flatten("", value, &mut all);
    }
    let parts: [(&Value, &[&str]); 3] = [
        (&trial, &["epochs", "batch_size", "early_stopping", "normalization", "objective", "study_seed"]),
        (&told, &["space", "sampler", "pruner", "budget"]),
        (&config, &["dataset_parameters", "training_notes", "metadata"]),
    ];
    for (from, keys) in parts {
        for key in keys {
            if let Some(value) = from.get(key) {
                flatten(key, value, &mut all);
            }
        }
    }
    all
}

/// Put a value in under its name, objects value by value; what is there already stays.
fn flatten(name: &str, value: &Value, all: &mut Map<String, Value>) {
    match value {
        Value::Object(parts) => {
            for (key, value) in parts {
                let inner = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&inner, value, all);
            }
        }
        Value::Null => {}
        value => {
            all.entry(name).or_insert_with(|| value.clone());
        }
    }
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
        let folder = dir.path().join("study");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "study.json",
            r#"{"space": {"n_filters": [16, 32]}, "pruner": {"kind": "none"}, "stop_after": null}"#,
        );
        write("../config.json", r#"{"training_notes": {"why": "more filters"}, "plane": "X"}"#);
        write("best.onnx", "");
        write("trials/0001/model.onnx", "");
        write("trials/0001/trial.json", r#"{"params": {"n_filters": 32}, "epochs": 80}"#);
        write("trials/0001/history.csv", "epoch,loss,val_loss\n0,0.7,0.6\n1,0.5,0.4\n");
        write("trials/0000/result.json", r#"{"state": "complete", "objective": "val_f1", "value": 0.8}"#);
        write("trials/0001/result.json", r#"{"state": "complete", "objective": "val_f1", "value": 0.9}"#);
        for (model, trial) in [("best.onnx", Some("0001")), ("trials/0001/model.onnx", None)] {
            let study = around(&folder.join(model), trial).unwrap();
            assert_eq!((study.trial.as_str(), study.history.len(), study.trials.len()), ("0001", 2, 2));
            assert!((study.history[1].val_loss - 0.4).abs() < 1e-12 && study.history[1].val_f1.is_nan());
            assert_eq!(
                (&study.configuration["n_filters"], &study.configuration["epochs"]),
                (&32.into(), &80.into())
            );
            assert_eq!(study.objective, "val_f1");
            let keys: Vec<&String> = study.configuration.keys().collect();
            assert_eq!(keys, ["n_filters", "epochs", "space.n_filters", "pruner.kind", "training_notes.why"]);
        }
        assert!(around(&folder.join("best.onnx"), None).is_none());
    }
}
