//! Scores for NPZ files without labels.

#![expect(clippy::unwrap_used, reason = "a test may fail, and its fixtures are small")]

mod common;

use std::fs;

use common::{SHAPE, Sandbox, clusters, python, run_python, stderr, stdout, succeeded};
use ndarray::Array3;
use ndarray_npy::WriteNpyExt;
use std::io::{Cursor, Write};

/// An NPZ with the images of clusters, stored as `np.savez` does.
fn write_npz(sandbox: &Sandbox, name: &str, n: usize, seed: u64) -> Vec<common::Cluster> {
    let rows = clusters(n, seed);
    let pixels: Vec<f32> = rows.iter().flat_map(|c| c.image.clone()).collect();
    let images = Array3::from_shape_vec((n, SHAPE.0, SHAPE.1), pixels).unwrap();
    let mut npy = Cursor::new(Vec::new());
    images.write_npy(&mut npy).unwrap();
    let mut zip = zip::ZipWriter::new(fs::File::create(sandbox.path(name)).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("images.npy", stored).unwrap();
    zip.write_all(npy.get_ref()).unwrap();
    zip.finish().unwrap();
    rows
}

#[test]
fn every_row_gets_its_score_in_order_and_an_empty_file_gets_none() {
    let sandbox = Sandbox::new();
    let a = write_npz(&sandbox, "a.npz", 70, 5);
    write_npz(&sandbox, "none.npz", 0, 5);
    let b = write_npz(&sandbox, "b.npz", 3, 6);
    let arguments = ["predict", "--model", "model.onnx", "--input", "a.npz", "none.npz", "b.npz"];
    let output = sandbox.evaluate(&[&arguments[..], &["--output", "s.csv", "--device", "cpu"]].concat());
    succeeded(&output);
    assert!(stdout(&output).starts_with("73 clusters scored, "), "{}", stdout(&output));
    let text = sandbox.text("s.csv");
    let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 73);
    for (at, (line, cluster)) in lines.iter().zip(a.iter().chain(&b)).enumerate() {
        let (source, row) = if at < 70 { ("a.npz", at) } else { ("b.npz", at - 70) };
        assert_eq!((line[0], line[1]), (source, row.to_string().as_str()));
        let sum: f32 = cluster.image.iter().sum();
        let expected = 1.0 / (1.0 + (3.5 - sum * 0.0001 - 0.5 * (sum * 0.001).sin()).exp());
        assert!(
            (line[2].parse::<f32>().unwrap() - expected).abs() < 1e-4,
            "row {at}: {} {expected}",
            line[2]
        );
    }
}

#[test]
fn the_scores_are_those_of_the_report_and_pyarrow_reads_them() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new();
    write_npz(&sandbox, "a.npz", 600, 1); // the clusters of the test split
    succeeded(&sandbox.report(&[]));
    let arguments = ["predict", "--model", "model.onnx", "--input", "a.npz", "--output", "s.parquet"];
    succeeded(&sandbox.evaluate(&[&arguments[..], &["--device", "cpu"]].concat()));
    let program = "
import sys, pyarrow.parquet as pq
a, b = pq.read_table(sys.argv[1]).to_pydict(), pq.read_table(sys.argv[2]).to_pydict()
assert list(a) == ['source', 'row', 'score'] and a['row'] == list(range(600))
print(max(abs(x - y) for x, y in zip(a['score'], b['score'])) < 1e-6)
";
    let files = [sandbox.path("s.parquet"), sandbox.path("report/predictions.parquet")];
    assert_eq!(run_python(&python, program, &[&files[0], &files[1]]).trim(), "True");
}

#[test]
fn bad_files_are_refused_with_the_reason_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("text.npz"), "no zip").unwrap();
    let predict = |input: &str| {
        let output =
            sandbox.evaluate(&["predict", "--model", "model.onnx", "--input", input, "--output", "s.csv"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(!sandbox.path("s.csv").exists());
        stderr(&output)
    };
    let said = predict("text.npz");
    assert!(said.starts_with("error: `text.npz` is no NPZ file: "), "{said}");
    assert!(predict("absent.npz").starts_with("error: can't read `absent.npz`\n"));
    let mut zip = zip::ZipWriter::new(fs::File::create(sandbox.path("other.npz")).unwrap());
    zip.start_file("labels.npy", zip::write::SimpleFileOptions::default()).unwrap();
    zip.finish().unwrap();
    assert_eq!(predict("other.npz"), "error: `other.npz` has no array `images`\n");

    fs::write(sandbox.path("s.csv"), "mine").unwrap();
    write_npz(&sandbox, "a.npz", 3, 5);
    let output =
        sandbox.evaluate(&["predict", "--model", "model.onnx", "--input", "a.npz", "--output", "s.csv"]);
    assert_eq!(
        stderr(&output),
        "error: `s.csv` is there already; give `--overwrite` or another `--output`\n"
    );
    assert_eq!(sandbox.text("s.csv"), "mine");
}
