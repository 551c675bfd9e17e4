//! The real files beside the repository, where they are there: all planes, both widths, and their leak.

mod support;

use std::path::PathBuf;

use support::{Sandbox, stderr};

/// The folder of the real data, `../shared/data/real` from the repository's root.
fn real() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/real");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: `{}` is not there", path.display());
    None
}

fn prepare(width: u32, plane: &str, more: &[&str]) -> Option<serde_json::Value> {
    let real = real()?;
    let sandbox = Sandbox::new();
    let config =
        format!(r#"{{"plane": "{plane}", "model_parameters": {{"input_shape": [128, {width}, 1]}}}}"#);
    sandbox.write("config.json", config.as_bytes());
    let mut command = sandbox.command();
    command.args(["--config", "config.json", "--output", "out", "--on-bad-file", "fail"]).args(more);
    for kind in ["cc", "es"] {
        command.arg("--input").arg(real.join(format!("{kind}_e2p0_w{width}")));
    }
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{}", stderr(&output));
    Some(sandbox.manifest("out"))
}

#[test]
fn all_planes_and_widths_are_read_without_an_error() {
    for (plane, rows) in [("U", 148), ("V", 175), ("X", 151)] {
        for width in [16, 32] {
            let Some(manifest) = prepare(width, plane, &["--duplicates", "keep"]) else { return };
            let written: u64 =
                manifest["splits"].as_object().unwrap().values().filter_map(|s| s["rows"].as_u64()).sum();
            assert_eq!(written, rows, "{plane} {width}");
        }
    }
}

#[test]
fn the_es_file_that_is_in_another_one_leaks_no_image() {
    for (plane, images) in [("U", 17), ("V", 14), ("X", 13)] {
        let Some(manifest) = prepare(16, plane, &[]) else { return };
        let report = &manifest["preparation"]["duplicates"];
        // Every image of the smaller file is in the larger one.
        assert!(report["repeated_rows"].as_u64().unwrap() >= 2 * images, "{plane}: {report}");
        let left_out: u64 =
            report["left_out"].as_object().unwrap().values().filter_map(serde_json::Value::as_u64).sum();
        let leaks = |pair: &&serde_json::Value| {
            let (split, also) = (pair["split"].as_str().unwrap(), pair["also_in"].as_str().unwrap());
            (split == "validation" && also == "train") || (split == "test" && also != "test")
        };
        assert!(report["pairs"].as_array().unwrap().iter().filter(leaks).count() > 0);
        assert!(left_out > 0, "{plane}");
    }
}
