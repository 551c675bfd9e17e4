//! What the tests of the binary share: a config, and a way to run it.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

/// A small search of three trials.
pub const CONFIG: &str = r#"{ "model_parameters": { "hp_max_evals": 3, "space_options": {
    "n_conv_layers": [2, 3], "n_dense_layers": [2], "n_filters": [8, 16], "kernel_size": [3],
    "n_dense_units": [16], "learning_rate": [0.0005, 0.001, 0.002], "decay_rate": [0.95, 0.98] } } }"#;

/// Run `search` in a folder that has a config `c.json`; returns exit code, stdout and stderr.
pub fn search(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_search"))
        .current_dir(folder)
        .args(args)
        .output()
        .expect("search runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

/// A fresh folder with a config `c.json`.
pub fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("c.json"), config).expect("writable");
    folder
}
