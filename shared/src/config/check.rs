//! Values of a config: ranges and fractions, each error naming its key.

use super::{Config, DatasetParameters, ModelParameters, Refusal};
use crate::study::space::Space;

/// Check every value whose type alone does not make it right.
pub(super) fn check(config: &Config) -> Result<(), Refusal> {
    let names = ["simple_cnn", "hyperopt_simple_cnn"];
    require(names.contains(&config.model_name.as_str()), "model_name", || {
        format!("`{}` is no model of this program; give `simple_cnn`", config.model_name)
    })?;
    dataset(&config.dataset_parameters)?;
    model(&config.model_parameters)
}

fn dataset(parameters: &DatasetParameters) -> Result<(), Refusal> {
    let fractions = [
        ("train_fraction", parameters.train_fraction),
        ("val_fraction", parameters.val_fraction),
        ("test_fraction", parameters.test_fraction),
    ];
    for (name, fraction) in fractions {
        require((0.0..=1.0).contains(&fraction), &format!("dataset_parameters.{name}"), || {
            format!("{fraction} is not a fraction; give a number from 0 to 1")
        })?;
    }
    let sum: f64 = fractions.iter().map(|(_, fraction)| fraction).sum();
    require((sum - 1.0).abs() < 1e-6, "dataset_parameters.train_fraction", || {
        let [train, val, test] = fractions.map(|(_, fraction)| fraction);
        format!("train {train} + val {val} + test {test} is {sum}; the three fractions must add up to 1")
    })?;
    require(parameters.max_samples != Some(0), "dataset_parameters.max_samples", || {
        "0 leaves no clusters; give a positive number, or null for all".into()
    })?;
    require(!parameters.batch_pattern.is_empty(), "dataset_parameters.batch_pattern", || {
        "the pattern is empty; give one such as `*_plane{plane}.npz`".into()
    })
}

fn model(parameters: &ModelParameters) -> Result<(), Refusal> {
    let shape = &parameters.input_shape;
    let fits = matches!(shape[..], [h, w] | [h, w, 1] if h > 0 && w > 0);
    require(fits, "model_parameters.input_shape", || {
        format!("{shape:?} is no image; give [height, width] or [height, width, 1], such as [128, 16, 1]")
    })?;
    at_least_one("hp_max_evals", parameters.hp_max_evals)?;
    at_least_one("epochs", u64::from(parameters.epochs))?;
    at_least_one("batch_size", parameters.batch_size as u64)?;
    let delta = parameters.early_stopping.min_delta;
    require(delta.is_finite() && delta >= 0.0, "model_parameters.early_stopping.min_delta", || {
        format!("{delta} is below 0")
    })?;
    parameters
        .training
        .check()
        .map_err(|(key, reason)| Refusal::Value { key: format!("model_parameters.{key}"), reason })?;
    Space::from_options(&parameters.space_options).map(drop).map_err(|error| Refusal::Value {
        key: format!("model_parameters.space_options.{}", error.name),
        reason: error.reason,
    })
}

fn at_least_one(name: &str, value: u64) -> Result<(), Refusal> {
    require(value >= 1, &format!("model_parameters.{name}"), || "0 is too few; give at least 1".into())
}

fn require(holds: bool, key: &str, reason: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::Value { key: key.to_owned(), reason: reason() }) }
}
