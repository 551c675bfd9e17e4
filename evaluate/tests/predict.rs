//! Scores for NPZ files without labels.

#![expect(clippy::unwrap_used, reason = "a test may fail, and its fixtures are small")]

mod common;

use std::fs;

use common::{SHAPE, Sandbox, clusters, python, run_python, score, stderr, stdout, succeeded};
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
        let expected = score(cluster, -3.5);
        assert!(
            (line[2].parse::<f32>().unwrap() - expected).abs() < 1e-4,
            "row {at}: {} {expected}",
            line[2]
        );
    }
}

#[test]
fn a_batch_of_one_gives_the_same_scores_and_says_how_long_each_took() {
    let sandbox = Sandbox::new();
    write_npz(&sandbox, "a.npz", 70, 5);
    let predict = |batch: &str, output: &str| {
        let arguments = ["predict", "--model", "model.onnx", "--input", "a.npz", "--output", output];
        let said = sandbox.evaluate(&[&arguments[..], &["--device", "cpu", "--batch-size", batch]].concat());
        succeeded(&said);
        stdout(&said)
    };
    let one = predict("1", "one.csv");
    let latency = one.lines().nth(1).unwrap_or_default();
    assert!(latency.starts_with("latency of a batch of one: median "), "{one}");
    let words: Vec<f64> = latency.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let [median, _, most, longest] = words[..] else { panic!("{latency}") };
    assert!(0.0 < median && median <= most && most <= longest, "{latency}");
    assert_eq!(predict("32", "many.csv").lines().count(), 1, "no latency of a row in a batch of many");
    let scores = |name: &str| -> Vec<f32> {
        sandbox.text(name).lines().skip(1).map(|l| l.rsplit(',').next().unwrap().parse().unwrap()).collect()
    };
    let (one, many) = (scores("one.csv"), scores("many.csv"));
    assert_eq!(one.len(), 70);
    assert!(one.iter().zip(&many).all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn a_file_larger_than_a_chunk_keeps_its_order() {
    let sandbox = Sandbox::new();
    let rows = write_npz(&sandbox, "a.npz", 5000, 5);
    let arguments = ["predict", "--model", "model.onnx", "--input", "a.npz", "a.npz", "--output", "s.csv"];
    succeeded(&sandbox.evaluate(&[&arguments[..], &["--device", "cpu", "--threads", "3"]].concat()));
    let text = sandbox.text("s.csv");
    assert_eq!(text.lines().count(), 1 + 2 * rows.len());
    for (at, (line, cluster)) in text.lines().skip(1).zip(rows.iter().chain(&rows)).enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields[1], (at % 5000).to_string());
        assert!((fields[2].parse::<f32>().unwrap() - score(cluster, -3.5)).abs() < 1e-4, "{line}");
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
        let output = sandbox.evaluate(&[
            "predict",
            "--model",
            "model.onnx",
            "--input",
            input,
            "--output",
            "s.csv",
            "--device",
            "cpu",
        ]);
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

    // Arrays that are not what they should be, and one that ends early.
    let refused = |name: &str, array: &[u8]| {
        let mut zip = zip::ZipWriter::new(fs::File::create(sandbox.path(name)).unwrap());
        zip.start_file("images.npy", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(array).unwrap();
        zip.finish().unwrap();
        predict(name)
    };
    let npy = |write: &dyn Fn(&mut Cursor<Vec<u8>>)| {
        let mut bytes = Cursor::new(Vec::new());
        write(&mut bytes);
        bytes.into_inner()
    };
    let wide = npy(&|to| Array3::<f64>::zeros((2, 8, 4)).write_npy(to).unwrap());
    insta::assert_snapshot!(refused("wide.npz", &wide), @"error: `wide.npz` has `images` of type '<f8', expected f32 ('<f4')");
    let flat = npy(&|to| ndarray::Array2::<f32>::zeros((2, 32)).write_npy(to).unwrap());
    insta::assert_snapshot!(refused("flat.npz", &flat), @"error: `flat.npz` has `images` with 2 axes, expected 3: N, H, W");
    let fortran = npy(&|to| Array3::<f32>::zeros((2, 8, 4)).reversed_axes().write_npy(to).unwrap());
    insta::assert_snapshot!(refused("fortran.npz", &fortran), @"error: `fortran.npz` has `images` in Fortran order");
    let good = npy(&|to| Array3::<f32>::zeros((2, 8, 4)).write_npy(to).unwrap());
    let said = refused("short.npz", &good[..good.len() - 5]);
    assert!(said.starts_with("error: `short.npz` has an array `images` that can't be read: "), "{said}");
    let said = refused("long.npz", &[&good[..], b"more"].concat());
    assert_eq!(said, "error: `long.npz` has more bytes in `images` than its header says\n");

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
