//! `search export`: all trials as CSV, JSON or Parquet, or the study as a web page.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use shared::files;
use shared::study::{Study, TrialRecord};

use crate::args::{ExportArgs, Format};
use crate::error::Error;
use crate::html;

/// Write a study in another form; returns the text itself, or the path of the file.
pub fn export(args: &ExportArgs) -> Result<String, Error> {
    let study = Study::open(&args.study)?;
    let trials = study.trials()?;
    let (bytes, file) = match args.format {
        Format::Csv => (csv(&study, &trials).into_bytes(), None),
        Format::Json => (format!("{:#}", json(&study, &trials)).into_bytes(), None),
        Format::Parquet => (parquet(&study, &trials)?, Some("trials.parquet")),
        Format::Html => (html::page(&study, &trials)?.into_bytes(), Some("study.html")),
    };
    let path: Option<PathBuf> = args.output.clone().or_else(|| file.map(|file| args.study.join(file)));
    match path {
        None => Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
        Some(path) => {
            files::write_bytes(&path, &bytes)?;
            Ok(path.display().to_string())
        }
    }
}

fn names(study: &Study) -> Vec<String> {
    study.space().parameters.iter().map(|parameter| parameter.name.clone()).collect()
}

fn csv(study: &Study, trials: &[TrialRecord]) -> String {
    let names = names(study);
    let objective = study.settings().experiment.objective.name();
    let mut text = format!("trial,state,{objective},epochs,started,completed,{}\n", names.join(","));
    for trial in trials {
        let params = trial.params();
        let mut cells = vec![
            trial.number.to_string(),
            trial.state.name().to_owned(),
            trial.value.map_or_else(String::new, |value| value.to_string()),
            epochs(trial).map_or_else(String::new, |epochs| epochs.to_string()),
            trial.started.map_or_else(String::new, |time| time.to_string()),
            trial.completed.map_or_else(String::new, |time| time.to_string()),
        ];
        cells.extend(names.iter().map(|name| params.get(name).map_or_else(String::new, Value::to_string)));
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

fn epochs(trial: &TrialRecord) -> Option<u64> {
    trial.intermediate_values.last().map(|(step, _)| *step)
}

fn json(study: &Study, trials: &[TrialRecord]) -> Value {
    let rows = trials.iter().map(|trial| {
        json!({
            "trial": trial.number,
            "state": trial.state.name(),
            "value": trial.value,
            "params": trial.params(),
            "intermediate_values": trial.intermediate_values,
            "started": trial.started.map(|time| time.to_string()),
            "completed": trial.completed.map(|time| time.to_string()),
            "user_attrs": trial.user_attrs,
        })
    });
    json!({
        "schema_version": shared::SCHEMA_VERSION,
        "study": study.settings(),
        "trials": rows.collect::<Vec<Value>>(),
    })
}

fn parquet(study: &Study, trials: &[TrialRecord]) -> Result<Vec<u8>, Error> {
    let objective = study.settings().experiment.objective.name();
    let text = |of: fn(&TrialRecord) -> Option<String>| -> ArrayRef {
        Arc::new(trials.iter().map(of).collect::<StringArray>())
    };
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("trial".into(), Arc::new(trials.iter().map(|trial| Some(trial.number)).collect::<UInt64Array>())),
        ("state".into(), text(|trial| Some(trial.state.name().to_owned()))),
        (objective.into(), Arc::new(trials.iter().map(|trial| trial.value).collect::<Float64Array>())),
        ("epochs".into(), Arc::new(trials.iter().map(epochs).collect::<UInt64Array>())),
        ("started".into(), text(|trial| trial.started.map(|time| time.to_string()))),
        ("completed".into(), text(|trial| trial.completed.map(|time| time.to_string()))),
    ];
    for name in names(study) {
        let values = trials.iter().map(|trial| trial.params().get(&name).and_then(Value::as_f64));
        columns.push((name.clone(), Arc::new(values.collect::<Float64Array>())));
    }
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    )?;
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes)
}
