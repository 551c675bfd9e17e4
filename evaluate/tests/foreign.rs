//! Models of other programs: really exported by Keras (tf2onnx) and PyTorch, and hand-made bad ones.

#![expect(clippy::unwrap_used, reason = "a test may fail, and its fixtures are small")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Cluster, SHAPE, Sandbox, model, node, stderr, succeeded};

/// The images that the models' makers scored: pixel (t, c) of image i is ((7 i + 3 t + 5 c) mod 11) · 60.
fn images() -> Vec<Cluster> {
    let pixel = |i: usize, t: usize, c: usize| (((7 * i + 3 * t + 5 * c) % 11) * 60) as f32;
    (0..40)
        .map(|i| Cluster {
            image: (0..SHAPE.0).flat_map(|t| (0..SHAPE.1).map(move |c| pixel(i, t, c))).collect(),
            label: i % 3 == 0,
            event: Some(i as i64),
            source: "es/a_planeX.npz".into(),
            row: i as u32,
            is_es: true,
        })
        .collect()
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models")
}

/// A sandbox with the images as its test split and this model.
fn sandbox(name: &str) -> Sandbox {
    let sandbox = Sandbox::empty();
    sandbox.write_splits(&[("test", images())]);
    fs::copy(models().join(format!("{name}.onnx")), sandbox.path("model.onnx")).unwrap();
    sandbox
}

/// What the program that made the model gives, as probabilities of a main track.
fn expected(file: &str, name: &str) -> Vec<f32> {
    let text = fs::read_to_string(models().join(file)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let probability = |row: &serde_json::Value| {
        let values: Vec<f64> = row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let logits = name.contains("logit");
        let p = match values[..] {
            [x] if logits => sigmoid(x),
            [a, b] if logits => sigmoid(b - a),
            _ => values[values.len() - 1],
        };
        p as f32
    };
    json[name].as_array().unwrap_or_else(|| panic!("{name}")).iter().map(probability).collect()
}

fn scores(sandbox: &Sandbox) -> Vec<f32> {
    use arrow::array::AsArray;
    let file = fs::File::open(sandbox.path("report/predictions.parquet")).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let batches = reader.build().unwrap().map(Result::unwrap);
    let column = |batch: arrow::array::RecordBatch| {
        let scores = batch.column_by_name("score").unwrap().as_primitive::<arrow::datatypes::Float32Type>();
        scores.values().to_vec()
    };
    batches.flat_map(column).collect()
}

fn check(file: &str, name: &str, kind: &str) {
    let sandbox = sandbox(name);
    succeeded(&sandbox.report(&["--threshold", "0.5"]));
    assert_eq!(sandbox.json()["model"]["output"], kind, "{name}");
    let expected = expected(file, name);
    let found = scores(&sandbox);
    assert_eq!(found.len(), expected.len());
    let spread = expected.iter().copied().fold(0.0, f32::max) - expected.iter().copied().fold(1.0, f32::min);
    assert!(spread > 1e-3, "{name}: scores that are all alike would test nothing");
    for (row, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() < 1e-5, "{name} row {row}: {a}, expected {b}");
    }
}

#[test]
fn keras_models_are_read_as_keras_meant_them() {
    check("keras_scores.json", "keras_sigmoid", "probability");
    check("keras_scores.json", "keras_logit", "logit");
    check("keras_scores.json", "keras_softmax", "pair of probabilities");
    check("keras_scores.json", "keras_flat", "probability");
}

#[test]
fn pytorch_models_are_read_as_pytorch_meant_them() {
    check("pytorch_scores.json", "pytorch_sigmoid", "probability");
    check("pytorch_scores.json", "pytorch_logit", "logit");
    check("pytorch_scores.json", "pytorch_softmax", "pair of probabilities");
    check("pytorch_scores.json", "pytorch_logit_pair", "pair of logits");
}

#[test]
fn what_can_t_be_told_is_asked_for() {
    let sandbox = sandbox("keras_sigmoid");
    insta::assert_snapshot!(stderr(&sandbox.report(&["--threshold", "0.5", "--output-kind", "pair"])), @"error: model `model.onnx`: gives 1 values a cluster, expected 2 for `--output-kind pair of probabilities`");
    insta::assert_snapshot!(stderr(&sandbox.report(&["--threshold", "0.5", "--input-layout", "nchw"])), @"error: model `model.onnx`: input `pixels` has shape [batch, 8, 4, 1], expected [batch, 1, 8, 4] for images of 8 x 4");
    let (h, w) = (SHAPE.0 as i64, SHAPE.1 as i64);
    let odd = model(
        &[-1, h, w],
        &[-1],
        vec![
            node("ReduceMean", &["image", "axes"], "sum", &[("keepdims", 0)]),
            node("Erf", &["sum"], "probability", &[]),
        ],
    );
    sandbox.write_model("model.onnx", &odd, None);
    insta::assert_snapshot!(stderr(&sandbox.report(&["--threshold", "0.5"])), @"error: model `model.onnx`: its output comes from operator `Erf`, expected Sigmoid, Softmax or a dense layer; say what it is with `--output-kind`");
    succeeded(&sandbox.report(&["--threshold", "0.5", "--output-kind", "probability"]));
    let other = model(
        &[-1, 2 * h, w],
        &[-1],
        vec![node("ReduceMean", &["image", "axes"], "probability", &[("keepdims", 0)])],
    );
    sandbox.write_model("model.onnx", &other, None);
    insta::assert_snapshot!(stderr(&sandbox.report(&["--threshold", "0.4", "--overwrite"])), @"error: model `model.onnx`: input `image` has shape [batch, 16, 4], expected [batch, 8, 4] or [batch, 8, 4, 1] or [batch, 1, 8, 4] or [batch, 32] for images of 8 x 4");
}

/// Moves the weights of model.onnx to a file of their own, then rewrites where it says they are.
const EXTERNAL: &str = r#"
import onnx, sys
folder, location = sys.argv[1], sys.argv[2]
model = onnx.load(folder + "/model.onnx")
onnx.save(model, folder + "/moved.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100)
moved = onnx.load(folder + "/moved.onnx", load_external_data=False)
for tensor in moved.graph.initializer:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = location
open(folder + "/model.onnx", "wb").write(moved.SerializeToString())
"#;

#[test]
fn weights_in_a_file_beside_the_model_are_read_and_outside_refused() {
    let Some(python) = common::python() else { return };
    for (location, message) in [
        ("weights.bin", ""),
        (
            "../weights.bin",
            "error: model `model.onnx`: its weights are in `../weights.bin`, expected a file in the model's own folder\n",
        ),
        (
            "/etc/hostname",
            "error: model `model.onnx`: its weights are in `/etc/hostname`, expected a file in the model's own folder\n",
        ),
    ] {
        let sandbox = sandbox("keras_sigmoid");
        common::run_python(&python, EXTERNAL, &[&sandbox.path(""), Path::new(location)]);
        let output = sandbox.report(&["--threshold", "0.5"]);
        if message.is_empty() {
            succeeded(&output);
            let found = scores(&sandbox);
            let expected = expected("keras_scores.json", "keras_sigmoid");
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
        } else {
            assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), message));
        }
    }
}
