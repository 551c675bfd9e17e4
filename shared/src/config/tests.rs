//! Tests of what a config is taken for, and of the exact words when it is refused.

use serde_json::{Value, json};

use super::{Config, Objective};

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
