//! Tests of what a config is taken for, and of the exact words when it is refused.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Balanced, ClassWeight, Config, FocalLoss, Objective, ScheduleName, Training, Weights};
use crate::study::{Options, StudyFile, TrialFile};

fn refusal(value: &Value) -> String {
    Config::from_value(value).expect_err("the config is wrong").to_string()
}

#[test]
fn an_empty_config_is_v4() {
    let config = Config::from_value(&json!({})).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.model_parameters.hp_max_evals, 25);
    assert_eq!(config.model_parameters.objective, Objective::ValF1);
    assert_eq!(config.model_parameters.space_options["n_filters"], json!([32, 64, 128, 256]));
}

#[test]
fn relative_paths_start_at_the_folder_of_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    std::fs::write(&path, r#"{"output_folder": "out", "data_directories": ["es", "/cc"]}"#).unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!(config.output_folder, folder.path().join("out"));
    assert_eq!(config.data_directories, [folder.path().join("es"), "/cc".into()]);
}

#[test]
fn near_misses_are_refused_with_the_key_that_was_meant() {
    assert_eq!(
        refusal(&json!({ "dataset_parameters": { "train_fracton": 0.8 } })),
        "key `dataset_parameters.train_fracton` is unknown; did you mean `dataset_parameters.train_fraction`?"
    );
    assert_eq!(
        refusal(&json!({ "model_parameters": { "space_options": { "n_filter": [32] } } })),
        "key `model_parameters.space_options.n_filter` is unknown; did you mean `model_parameters.space_options.n_filters`?"
    );
    assert_eq!(
        refusal(&json!({ "dataset_parameters": { "validation_fraction": 0.1 } })),
        "key `dataset_parameters.validation_fraction` is unknown; did you mean `dataset_parameters.val_fraction`?"
    );
    assert_eq!(
        refusal(&json!({ "Model-Name": "simple_cnn" })),
        "key `Model-Name` is unknown; did you mean `model_name`?"
    );
}

#[test]
fn other_unknown_keys_are_kept() {
    let config = Config::from_value(&json!({
        "cluster": "lxplus", "model_parameters": { "early_stopping": { "verbose": 1 } } }))
    .unwrap();
    assert_eq!(config.other["cluster"], "lxplus");
    assert_eq!(config.model_parameters.early_stopping.other["verbose"], 1);
}

#[test]
fn wrong_values_name_their_key() {
    let cases = [
        (
            json!({ "model_name": "resnet" }),
            "key `model_name`: `resnet` is no model of this program; give `simple_cnn`",
        ),
        (json!({ "plane": "Z" }), "key `plane`: unknown variant `Z`, expected one of `U`, `V`, `X`"),
        (
            json!({ "dataset_parameters": { "train_fraction": 1.7 } }),
            "key `dataset_parameters.train_fraction`: 1.7 is not a fraction; give a number from 0 to 1",
        ),
        (
            json!({ "dataset_parameters": { "train_fraction": 0.5 } }),
            "key `dataset_parameters.train_fraction`: train 0.5 + val 0.15 + test 0.15 is 0.8; the three fractions must add up to 1",
        ),
        (
            json!({ "model_parameters": { "input_shape": [128, 16, 3] } }),
            "key `model_parameters.input_shape`: [128, 16, 3] is no image; give [height, width] or [height, width, 1], such as [128, 16, 1]",
        ),
        (
            json!({ "model_parameters": { "epochs": 0 } }),
            "key `model_parameters.epochs`: 0 is too few; give at least 1",
        ),
        (
            json!({ "model_parameters": { "epochs": "many" } }),
            "key `model_parameters.epochs`: invalid type: string \"many\", expected u32",
        ),
        (
            json!({ "model_parameters": { "early_stopping": { "monitor": "loss" } } }),
            "key `model_parameters.early_stopping.monitor`: unknown variant `loss`, expected one of `val_loss`, `val_accuracy`, `val_f1`",
        ),
    ];
    for (value, message) in cases {
        assert_eq!(refusal(&value), message);
    }
}

#[test]
fn wrong_spaces_name_their_parameter() {
    let space = |options: Value| refusal(&json!({ "model_parameters": { "space_options": options } }));
    let key = "key `model_parameters.space_options.";
    let cases = [
        (json!({ "n_filters": [] }), "n_filters`: the list is empty; give at least one value"),
        (
            json!({ "learning_rate": [] }),
            "learning_rate`: the list is empty; give the least and the greatest number",
        ),
        (
            json!({ "learning_rate": { "uniform": [0.01, 0.001] } }),
            "learning_rate`: the range 0.01 to 0.001 is reversed; give [0.001, 0.01]",
        ),
        (json!({ "learning_rate": [0.0, 0.1] }), "learning_rate`: 0.0 can't be used; it must be above 0"),
        (
            json!({ "dropout_rate": [0.1, 1.0] }),
            "dropout_rate`: 1.0 can't be used; it must be at least 0 and below 1",
        ),
        (json!({ "kernel_size": [3, 3.0] }), "kernel_size`: 3 is listed twice"),
        (
            json!({ "kernel_size": { "uniform": [3, 5] } }),
            "kernel_size`: only whole numbers make sense here; give {\"int\": [a, b]} or {\"choice\": [values]}",
        ),
        (
            json!({ "dropout_rate": { "choice": [0.1], "when": { "n_dense_layers": [1] } } }),
            "dropout_rate`: `when` names `n_dense_layers`, which the space does not have",
        ),
    ];
    for (options, message) in cases {
        assert_eq!(space(options), format!("{key}{message}"));
    }
}

fn model(parameters: &Value) -> String {
    refusal(&json!({ "model_parameters": parameters }))
}

#[test]
fn settings_of_the_training_are_read_in_every_form() {
    let read = |parameters: Value| {
        Config::from_value(&json!({ "model_parameters": parameters })).unwrap().model_parameters.training
    };
    assert_eq!(read(json!({})), Training::default());
    let short =
        read(json!({ "learning_rate_schedule": "one_cycle", "class_weight": "balanced", "focal_loss": {} }));
    assert_eq!(short.learning_rate_schedule.name, ScheduleName::OneCycle);
    assert_eq!(short.class_weight, Some(ClassWeight::Balanced(Balanced::Balanced)));
    assert_eq!(short.focal_loss, Some(FocalLoss::default()));
    let long =
        read(json!({ "learning_rate_schedule": { "name": "cosine", "alpha": 0.1, "warmup_epochs": 2 },
        "class_weight": { "0": 1, "1": 6.2 }, "focal_loss": { "gamma": 1.5, "alpha": 0.25 },
        "weight_decay": 0.004, "global_clipnorm": null }));
    assert_eq!(long.learning_rate_schedule.warmup_epochs, Some(2.0));
    assert_eq!(long.class_weight, Some(ClassWeight::Weights(Weights { background: 1.0, main_track: 6.2 })));
    assert_eq!((long.weight_decay, long.global_clipnorm), (Some(0.004), None));
    // What was read is written in a form that reads the same.
    assert_eq!(read(serde_json::to_value(&long).unwrap()), long);
    assert_eq!(serde_json::to_value(Training::default()).unwrap(), json!({}));
}

#[test]
fn wrong_settings_of_the_training_name_their_key() {
    let cases = [
        (
            json!({ "weigth_decay": 0.1 }),
            "weigth_decay` is unknown; did you mean `model_parameters.weight_decay`?",
        ),
        (
            json!({ "class_weights": {} }),
            "class_weights` is unknown; did you mean `model_parameters.class_weight`?",
        ),
        (
            json!({ "learning_rate_schedule": { "warm_up_steps": 3 } }),
            "learning_rate_schedule.warm_up_steps` is unknown; did you mean `model_parameters.learning_rate_schedule.warmup_steps`?",
        ),
        (
            json!({ "learning_rate_schedule": "step" }),
            "learning_rate_schedule`: unknown variant `step`, expected one of `exponential`, `cosine`, `one_cycle`",
        ),
        (
            json!({ "learning_rate_schedule": { "alpha": 0.1 } }),
            "learning_rate_schedule.alpha`: only the schedule `cosine` has it",
        ),
        (
            json!({ "learning_rate_schedule": { "name": "one_cycle", "pct_start": 1.0 } }),
            "learning_rate_schedule.pct_start`: 1 can't be used; it must be between 0 and 1",
        ),
        (
            json!({ "learning_rate_schedule": { "name": "one_cycle", "div_factor": 0.5 } }),
            "learning_rate_schedule.div_factor`: 0.5 is below 1",
        ),
        (
            json!({ "learning_rate_schedule": { "warmup_epochs": 1, "warmup_steps": 9 } }),
            "learning_rate_schedule.warmup_steps`: the warm-up is given twice; drop it or `warmup_epochs`",
        ),
        (
            json!({ "learning_rate_schedule": { "warmup_epochs": "one" } }),
            "learning_rate_schedule.warmup_epochs`: invalid type: string \"one\", expected f64",
        ),
        (
            json!({ "class_weight": "balancd" }),
            "class_weight`: unknown variant `balancd`, expected `balanced`",
        ),
        (json!({ "class_weight": { "2": 1 } }), "class_weight.2`: unknown field `2`, expected `0` or `1`"),
        (
            json!({ "class_weight": 3 }),
            "class_weight`: 3 is no weight; give \"balanced\" or {\"0\": a, \"1\": b}",
        ),
        (json!({ "class_weight": { "1": 0 } }), "class_weight`: 0 is not above 0"),
        (json!({ "focal_loss": { "gamma": -1 } }), "focal_loss.gamma`: -1 is below 0"),
        (
            json!({ "focal_loss": { "alpha": 2 } }),
            "focal_loss.alpha`: 2 can't be used; it must be from 0 to 1",
        ),
        (
            json!({ "label_smoothing": 1 }),
            "label_smoothing`: 1 can't be used; it must be at least 0 and below 1",
        ),
        (json!({ "weight_decay": -0.1 }), "weight_decay`: -0.1 is below 0"),
        (json!({ "clipnorm": 0 }), "clipnorm`: 0 is not above 0; give null for no clipping"),
        (
            json!({ "clipvalue": 1, "global_clipnorm": 1 }),
            "global_clipnorm`: gradients are clipped in one way only; drop it or `clipvalue`",
        ),
        (
            json!({ "space_options": { "weight_decay": { "log_uniform": [0, 0.1] } } }),
            "space_options.weight_decay`: a logarithmic range can't start at 0; give a number above 0",
        ),
    ];
    for (value, message) in cases {
        assert_eq!(model(&value), format!("key `model_parameters.{message}"));
    }
}

#[test]
fn every_setting_of_the_training_makes_another_digest_and_the_defaults_none() {
    let digest = |parameters: Value| {
        let config = Config::from_value(&json!({ "model_parameters": parameters })).unwrap();
        let study = StudyFile::new(Path::new("s"), &config, &Options::default()).unwrap();
        let trial = TrialFile::new(&study, 0, Map::new());
        assert_eq!(trial.training, study.experiment.training);
        (study.config_digest, serde_json::to_string(&trial).unwrap())
    };
    let (plain, file) = digest(json!({}));
    // As it was before there were any of these settings: existing studies and their checkpoints stay valid.
    assert_eq!(plain, "54d683b2456c9b36b0896290903f034e");
    assert!(!file.contains("learning_rate_schedule") && !file.contains("clip"), "{file}");
    let mut seen = vec![plain];
    for parameters in [
        json!({ "learning_rate_schedule": "cosine" }),
        json!({ "learning_rate_schedule": { "name": "cosine", "alpha": 0.1 } }),
        json!({ "learning_rate_schedule": "one_cycle" }),
        json!({ "learning_rate_schedule": { "warmup_steps": 10 } }),
        json!({ "class_weight": "balanced" }),
        json!({ "class_weight": { "1": 2 } }),
        json!({ "focal_loss": { "gamma": 2 } }),
        json!({ "focal_loss": { "gamma": 3 } }),
        json!({ "label_smoothing": 0.1 }),
        json!({ "weight_decay": 0.1 }),
        json!({ "clipvalue": 1 }),
        json!({ "clipnorm": 1 }),
        json!({ "global_clipnorm": 1 }),
        json!({ "batch_size": 64 }),
        json!({ "early_stopping": { "min_delta": 0.001 } }),
    ] {
        let (digest, _) = digest(parameters.clone());
        assert!(!seen.contains(&digest), "{parameters} has the digest of another config");
        seen.push(digest);
    }
}
