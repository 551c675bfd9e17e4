//! Reports made on a GPU; skipped with a word on a machine without one.

mod common;

use common::{Sandbox, card, clusters, exported, score, stderr, succeeded};

#[test]
fn a_gpu_fed_by_many_threads_gives_every_row_its_score_in_order() {
    if !std::path::Path::new("/dev/nvidia0").exists() {
        eprintln!("SKIPPED: this machine has no GPU");
        return;
    }
    let sandbox = Sandbox::new();
    let rows = clusters(4000, 3); // 16 parts
    sandbox.write_splits(&[("test", rows.clone())]);
    for threads in ["1", "8"] {
        let arguments = ["--model", "model.onnx", "--data", "data/test", "--output", "report"];
        let output = sandbox.evaluate(
            &[&arguments[..], &["--device", "cuda:0", "--threads", threads, "--overwrite"]].concat(),
        );
        succeeded(&output);
        assert!(stderr(&output).contains(" on cuda:0"), "{}", stderr(&output));
        let predictions = sandbox.predictions();
        assert_eq!(predictions.len(), 4000);
        for ((source, row, found), cluster) in predictions.iter().zip(&rows) {
            assert_eq!((source, row), (&cluster.source, &cluster.row));
            assert!((found - score(cluster, -3.5)).abs() < 1e-4, "{source} {row}");
        }
    }
}

#[test]
fn a_gpu_scores_our_model_at_active_sites_as_the_cpu_does_on_whole_images() {
    if !std::path::Path::new("/dev/nvidia0").exists() {
        eprintln!("SKIPPED: this machine has no GPU");
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write_splits(&[("test", clusters(4000, 3))]); // 16 parts
    sandbox.write_model("model.onnx", &exported(3, 1), Some(&card()));
    succeeded(&sandbox.report(&["--whole-images"]));
    let whole = sandbox.predictions();
    for threads in ["1", "8"] {
        let arguments = ["--model", "model.onnx", "--data", "data/test", "--output", "report", "--overwrite"];
        // Whether a report is there already doesn't depend on the device.
        std::fs::remove_dir_all(sandbox.path("report")).expect("a report");
        let output =
            sandbox.evaluate(&[&arguments[..], &["--device", "cuda:0", "--threads", threads]].concat());
        succeeded(&output);
        assert!(stderr(&output).contains("/s, at active sites"), "{}", stderr(&output));
        let sites = sandbox.predictions();
        assert_eq!(sites.len(), whole.len());
        for (found, expected) in sites.iter().zip(&whole) {
            assert_eq!((&found.0, found.1), (&expected.0, expected.1));
            assert!((found.2 - expected.2).abs() < 1e-5, "{found:?}, expected {expected:?}");
        }
    }
}
