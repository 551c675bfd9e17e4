//! Models that `train` exported are computed at active sites, and give what their whole images give.

mod common;

use common::{Cluster, SHAPE, Sandbox, card, clusters, exported, node, stderr, succeeded};
use shared::onnx::ModelProto;

const AT_SITES: &str = "/s, at active sites, since `train` exported the model";

/// Clusters of a line each, one that is empty, and one that is full.
fn rows() -> Vec<Cluster> {
    let mut rows = clusters(600, 9);
    rows[3].image.fill(0.0);
    for (at, adc) in rows[7].image.iter_mut().enumerate() {
        *adc = 300.0 + 50.0 * at as f32;
    }
    rows
}

fn sandbox(model: &ModelProto) -> Sandbox {
    let sandbox = Sandbox::empty();
    sandbox.write_splits(&[("test", rows())]);
    sandbox.write_model("model.onnx", model, Some(&card()));
    sandbox
}

/// Log and scores of a fresh report.
fn scored(sandbox: &Sandbox, extra: &[&str]) -> (String, Vec<f32>) {
    let _ = std::fs::remove_dir_all(sandbox.path("report"));
    let output = sandbox.report(extra);
    succeeded(&output);
    let found = sandbox.predictions();
    for ((source, row, _), cluster) in found.iter().zip(rows()) {
        assert_eq!((source, *row), (&cluster.source, cluster.row));
    }
    (stderr(&output), found.into_iter().map(|(_, _, score)| score).collect())
}

fn assert_close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let spread = b.iter().copied().fold(0.0, f32::max) - b.iter().copied().fold(1.0, f32::min);
    assert!(spread > 0.01, "scores that are all alike would test nothing: {spread}");
    for (row, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() < 1e-6, "row {row}: {a}, expected {b}");
    }
}

#[test]
fn active_sites_give_what_whole_images_give_whatever_the_threads() {
    for (kernel, conv_layers) in [(3, 1), (5, 0), (2, 2)] {
        let sandbox = sandbox(&exported(kernel, conv_layers));
        let (log, one) = scored(&sandbox, &["--threads", "1"]);
        assert!(log.contains(AT_SITES), "{log}");
        let (_, three) = scored(&sandbox, &["--threads", "3"]);
        assert_eq!(one, three, "to the last bit");
        let (log, whole) = scored(&sandbox, &["--whole-images"]);
        let words = "/s, on whole images, since `--whole-images` says so";
        assert!(log.contains(words), "{log}");
        assert_close(&one, &whole);
        let (_, odd) = scored(&sandbox, &["--batch-size", "7"]);
        assert_close(&odd, &whole);
    }
}

#[test]
fn weights_that_were_changed_in_the_file_are_those_that_score() {
    let mut model = exported(3, 1);
    let before = scored(&sandbox(&model), &[]).1;
    let graph = model.graph.as_mut().unwrap();
    let kernel = graph.initializer.iter_mut().find(|tensor| tensor.dims.len() == 4).unwrap();
    for weight in kernel.raw_data.as_chunks_mut().0 {
        *weight = (-1.5 * f32::from_le_bytes(*weight)).to_le_bytes();
    }
    let sandbox = sandbox(&model);
    let (log, sites) = scored(&sandbox, &[]);
    assert!(log.contains(AT_SITES), "{log}");
    assert_close(&sites, &scored(&sandbox, &["--whole-images"]).1);
    assert!(sites.iter().zip(&before).any(|(a, b)| (a - b).abs() > 0.01), "other weights, other scores");
}

#[test]
fn a_model_with_one_more_node_is_scored_on_whole_images() {
    let mut model = exported(3, 1);
    let expected = scored(&sandbox(&model), &[]).1;
    let nodes = &mut model.graph.as_mut().unwrap().node;
    nodes.last_mut().unwrap().output = vec!["almost".into()];
    nodes.push(node("Identity", &["almost"], "probability", &[]));
    let (log, found) = scored(&sandbox(&model), &[]);
    let words =
        "/s, on whole images, since the model's graph is not the one that `train` exports for its weights";
    assert!(log.contains(words), "{log}");
    assert_close(&found, &expected);
}

#[test]
fn predict_gives_the_same_scores_both_ways_and_one_by_one() {
    use std::io::Write;
    let sandbox = sandbox(&exported(3, 1));
    let pixels: Vec<f32> = rows().into_iter().flat_map(|cluster| cluster.image).collect();
    let images = ndarray::Array3::from_shape_vec((600, SHAPE.0, SHAPE.1), pixels).unwrap();
    let mut npy = std::io::Cursor::new(Vec::new());
    ndarray_npy::WriteNpyExt::write_npy(&images, &mut npy).unwrap();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(sandbox.path("a.npz")).unwrap());
    zip.start_file("images.npy", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(npy.get_ref()).unwrap();
    zip.finish().unwrap();
    let predicted = |extra: &[&str]| -> Vec<f32> {
        let arguments = ["predict", "--model", "model.onnx", "--input", "a.npz", "--output", "s.csv"];
        let common = ["--device", "cpu", "--overwrite"];
        succeeded(&sandbox.evaluate(&[&arguments[..], &common[..], extra].concat()));
        let text = sandbox.text("s.csv");
        text.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse().unwrap()).collect()
    };
    let whole = predicted(&["--whole-images"]);
    assert_eq!(whole.len(), 600);
    assert_close(&predicted(&[]), &whole);
    assert_close(&predicted(&["--batch-size", "1"]), &whole);
}
