//! Keys of a config: near misses are refused, other unknown ones reported, and type errors traced to their key.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    Config, DatasetParameters, EarlyStopping, FocalLoss, ModelParameters, RateSchedule, Refusal, Weights,
};

const TOP: &[&str] = &[
    "model_name",
    "output_folder",
    "plane",
    "data_directories",
    "dataset_parameters",
    "model_parameters",
    "save_outputs",
    "training_notes",
    "metadata",
    "schema_version",
];

const DATASET: &[&str] = &[
    "train_fraction",
    "val_fraction",
    "test_fraction",
    "shuffle_data",
    "balance_data",
    "balance_method",
    "max_samples",
    "random_seed",
    "batch_pattern",
];

const MODEL: &[&str] = &[
    "input_shape",
    "hp_max_evals",
    "epochs",
    "batch_size",
    "early_stopping",
    "normalization",
    "objective",
    "space_options",
    "learning_rate_schedule",
    "class_weight",
    "focal_loss",
    "label_smoothing",
    "weight_decay",
    "clipvalue",
    "clipnorm",
    "global_clipnorm",
];

const SCHEDULE: &[&str] =
    &["name", "alpha", "pct_start", "div_factor", "final_div_factor", "warmup_epochs", "warmup_steps"];

const FOCAL: &[&str] = &["gamma", "alpha"];

const STOPPING: &[&str] = &["monitor", "patience", "min_delta", "restore_best_weights"];

/// Refuse keys that nearly match a known one, and warn about the other unknown ones.
pub(super) fn check(config: &Value) -> Result<(), Refusal> {
    section(config, "", TOP)?;
    section(&config["dataset_parameters"], "dataset_parameters.", DATASET)?;
    let model = &config["model_parameters"];
    section(model, "model_parameters.", MODEL)?;
    section(&model["early_stopping"], "model_parameters.early_stopping.", STOPPING)?;
    section(&model["learning_rate_schedule"], "model_parameters.learning_rate_schedule.", SCHEDULE)?;
    section(&model["focal_loss"], "model_parameters.focal_loss.", FOCAL)?;
    let space: Vec<&str> = crate::study::space::KNOWN.iter().map(|known| known.name).collect();
    section(&model["space_options"], "model_parameters.space_options.", &space)
}

fn section(value: &Value, prefix: &str, known: &[&str]) -> Result<(), Refusal> {
    let Some(map) = value.as_object() else { return Ok(()) };
    for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
        if let Some(meant) = known.iter().find(|known| nearly(key, known)) {
            return Err(Refusal::Typo { key: format!("{prefix}{key}"), meant: format!("{prefix}{meant}") });
        }
        tracing::warn!("config key `{prefix}{key}` is not known; it is kept and has no effect");
    }
    Ok(())
}

/// Whether one is a slip of the other: another spelling of the words, or about one letter in five changed.
fn nearly(key: &str, known: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', ' '], "");
    let (key, known) = (plain(key), plain(known));
    key == known
        || strsim::normalized_damerau_levenshtein(&key, &known) >= 0.8
        || key.replace("validation", "val") == known
}

/// Turn a value into a config; an error names the key that has the wrong type.
pub(super) fn parse(value: &Value) -> Result<Config, Refusal> {
    let error = match serde_json::from_value::<Config>(value.clone()) {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    let model = &value["model_parameters"];
    let found = culprit::<EarlyStopping>(&model["early_stopping"], "model_parameters.early_stopping.")
        .or_else(|| {
            let schedule = &model["learning_rate_schedule"];
            culprit::<RateSchedule>(schedule, "model_parameters.learning_rate_schedule.")
        })
        .or_else(|| culprit::<FocalLoss>(&model["focal_loss"], "model_parameters.focal_loss."))
        .or_else(|| culprit::<Weights>(&model["class_weight"], "model_parameters.class_weight."))
        .or_else(|| culprit::<ModelParameters>(model, "model_parameters."))
        .or_else(|| culprit::<DatasetParameters>(&value["dataset_parameters"], "dataset_parameters."))
        .or_else(|| culprit::<Config>(value, ""));
    Err(found.unwrap_or_else(|| Refusal::Value { key: "(whole file)".into(), reason: error.to_string() }))
}

/// The first key whose value alone can't be read, since every other key has a default.
fn culprit<T: DeserializeOwned>(section: &Value, prefix: &str) -> Option<Refusal> {
    section.as_object()?.iter().find_map(|(key, value)| {
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        let error = serde_json::from_value::<T>(alone).err()?;
        Some(Refusal::Value { key: format!("{prefix}{key}"), reason: error.to_string() })
    })
}
