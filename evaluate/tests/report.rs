//! One report, made by the real program in a fresh folder.

mod common;

use std::fs;

use common::{Cluster, SHAPE, Sandbox, card, clusters, logistic, model, node, stderr, stdout, succeeded};

#[test]
fn a_report_has_all_files_and_names_every_f1() {
    let sandbox = Sandbox::new();
    let output = sandbox.report(&[]);
    succeeded(&output);
    for file in ["report.json", "report.txt", "report.html", "predictions.parquet"] {
        assert!(sandbox.path("report").join(file).is_file(), "{file}");
    }
    let json = sandbox.json();
    for key in ["main_track", "macro", "weighted"] {
        for place in ["/f1", "/balanced/f1", "/baseline/f1", "/baseline/balanced/f1"] {
            let value = json.pointer(&format!("{place}/{key}")).and_then(serde_json::Value::as_f64);
            assert!(value.is_some_and(|v| v > 0.5 && v < 1.0), "{place}/{key}: {value:?}");
        }
    }
    assert_eq!(json["n"], 600);
    assert_eq!(json["threshold"], 0.5);
    assert!((json["balanced"]["prevalence"].as_f64().unwrap() - 0.5).abs() < 1e-12);
    assert_eq!(json["baseline"]["energy_cut_mev"], 10.0);
    assert!(stdout(&output).contains("model, own mix: F1 main track 0."), "{}", stdout(&output));
}

#[test]
fn the_same_command_again_does_nothing_and_another_model_is_refused() {
    let sandbox = Sandbox::new();
    succeeded(&sandbox.report(&[]));
    let before = fs::metadata(sandbox.path("report/report.json")).unwrap().modified().unwrap();
    let again = sandbox.report(&[]);
    succeeded(&again);
    assert!(stdout(&again).ends_with("up to date: report/report.html\n"), "{}", stdout(&again));
    assert_eq!(fs::metadata(sandbox.path("report/report.json")).unwrap().modified().unwrap(), before);

    let other = sandbox.report(&["--threshold", "0.6"]);
    assert_eq!(other.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&other), @"error: `report` holds another report (of model `model.onnx` on `data/test`); give `--overwrite` or another `--output`");
    succeeded(&sandbox.report(&["--threshold", "0.6", "--overwrite"]));
    assert!((sandbox.json()["threshold"].as_f64().unwrap() - 0.6).abs() < 1e-6);
}

#[test]
fn a_lost_part_is_made_again_and_a_stranger_s_folder_is_left_alone() {
    let sandbox = Sandbox::new();
    succeeded(&sandbox.report(&[]));
    let page = sandbox.text("report/report.html");
    fs::remove_file(sandbox.path("report/report.html")).unwrap();
    succeeded(&sandbox.report(&[]));
    assert_eq!(sandbox.text("report/report.html"), page);

    fs::write(sandbox.path("report/thesis.tex"), "years of work").unwrap();
    let output = sandbox.report(&["--overwrite"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output), @"error: `report` holds `thesis.tex`, which is no part of a report; give an empty or new folder as `--output`");
}

#[test]
fn the_report_does_not_depend_on_the_number_of_threads() {
    let sandbox = Sandbox::new();
    succeeded(&sandbox.report(&["--threads", "1"]));
    let names = ["report.json", "report.txt", "report.html", "predictions.parquet"];
    let read = || names.map(|name| fs::read(sandbox.path("report").join(name)).unwrap());
    let one = read();
    succeeded(&sandbox.report(&["--threads", "3", "--overwrite"]));
    for ((name, one), three) in names.iter().zip(one).zip(read()) {
        assert!(one == three, "{name} differs");
    }
}

#[test]
fn without_a_stored_threshold_it_is_chosen_on_the_validation_split() {
    let sandbox = Sandbox::new();
    let bare = shared::model::ModelCard { threshold: None, energy_cut_mev: None, ..card() };
    sandbox.write_model("model.onnx", &logistic(), Some(&bare));
    succeeded(&sandbox.report(&[]));
    let json = sandbox.json();
    assert_eq!(json["threshold_source"], "best F1 on data/validation");

    // The cut is the best on validation by a plain search over all of its energies.
    let rows = clusters(600, 2);
    let f1 = |cut: f32| {
        let called = rows.iter().filter(|c| c.energy() >= cut);
        let hits = called.clone().filter(|c| c.label).count() as f64;
        2.0 * hits / (called.count() + rows.iter().filter(|c| c.label).count()) as f64
    };
    let best = rows.iter().map(|c| f1(c.energy())).fold(0.0, f64::max);
    let cut = json["baseline"]["energy_cut_mev"].as_f64().unwrap() as f32;
    assert!((f1(cut) - best).abs() < 1e-12, "{} is not {best}", f1(cut));
}

#[test]
fn without_validation_data_there_is_a_way_out_and_no_baseline() {
    let sandbox = Sandbox::empty();
    sandbox.write_splits(&[("test", clusters(300, 1))]);
    let bare = shared::model::ModelCard { threshold: None, energy_cut_mev: None, ..card() };
    sandbox.write_model("model.onnx", &logistic(), Some(&bare));
    let output = sandbox.report(&[]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output), @"error: model `model.onnx` has no `threshold` in its metadata, and there is no validation split to choose one on; give `--threshold 0.5` or `--validation DIR`");
    let output = sandbox.report(&["--threshold", "purity=0.9"]);
    insta::assert_snapshot!(stderr(&output), @"error: `--threshold purity=0.9` is chosen on validation data, and `data/validation` is not there; give `--validation DIR` or a number");

    let output = sandbox.report(&["--threshold", "0.5"]);
    succeeded(&output);
    assert!(stderr(&output).contains("no energy-cut baseline in this report"), "{}", stderr(&output));
    assert!(sandbox.json()["baseline"].is_null());
}

#[test]
fn a_wanted_purity_or_efficiency_is_reached_on_validation_data() {
    let sandbox = Sandbox::new();
    // The test split is the validation split here, so the report shows what was chosen.
    sandbox.write_splits(&[("test", clusters(600, 2)), ("validation", clusters(600, 2))]);
    succeeded(&sandbox.report(&["--threshold", "purity=0.9"]));
    let purity = sandbox.json()["classification"]["main_track"]["precision"].as_f64().unwrap();
    assert!((0.9..0.99).contains(&purity), "{purity}");
    succeeded(&sandbox.report(&["--threshold", "efficiency=0.9", "--overwrite"]));
    let json = sandbox.json();
    for place in ["/classification", "/baseline/classification"] {
        let recall = json.pointer(&format!("{place}/main_track/recall")).unwrap().as_f64().unwrap();
        assert!((0.9..0.95).contains(&recall), "{place}: {recall}");
    }
}

#[test]
fn a_source_s_name_is_text_and_never_markup() {
    let sandbox = Sandbox::new();
    let nasty = "<b>\"es\"</b>/<script>alert(1)</script>_planeX.npz";
    let rows: Vec<Cluster> =
        clusters(300, 1).into_iter().map(|c| Cluster { source: nasty.into(), ..c }).collect();
    sandbox.write_splits(&[("test", rows)]);
    let named = shared::model::ModelCard { trial: Some("<i>7</i>".into()), ..card() };
    sandbox.write_model("model.onnx", &logistic(), Some(&named));
    succeeded(&sandbox.report(&[]));
    let page = sandbox.text("report/report.html");
    for markup in ["<b>", "<script>alert", "<i>7"] {
        assert!(!page.contains(markup), "{markup}");
    }
}

#[test]
fn bad_models_are_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    let bytes = fs::read(sandbox.path("model.onnx")).unwrap();
    fs::write(sandbox.path("model.onnx"), &bytes[..bytes.len() - 7]).unwrap();
    let output = sandbox.report(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.starts_with(
            "error: can't use model `model.onnx`\n  caused by: this is no ONNX model, or not a whole one\n"
        ),
        "{said}"
    );

    let wide = shared::model::ModelCard { width: 16, ..card() };
    sandbox.write_model("model.onnx", &logistic(), Some(&wide));
    insta::assert_snapshot!(stderr(&sandbox.report(&[])), @"error: model `model.onnx` is for images of 8 x 16, but `data/test` has 8 x 4; prepare the data as for the training");

    let (h, w) = (SHAPE.0 as i64, SHAPE.1 as i64);
    let doubled = model(
        &[-1, h, w],
        &[-1],
        vec![
            node("ReduceSum", &["image", "axes"], "sum", &[("keepdims", 0)]),
            node("Sigmoid", &["sum"], "half", &[]),
            node("Add", &["half", "half"], "probability", &[]),
        ],
    );
    sandbox.write_model("model.onnx", &doubled, Some(&card()));
    insta::assert_snapshot!(stderr(&sandbox.report(&[])), @"error: model `model.onnx` gives 2 for row 0 of `es/prod_0000_planeX.npz`; a probability is from 0 to 1");

    fs::remove_file(sandbox.path("model.onnx")).unwrap();
    assert!(stderr(&sandbox.report(&[])).starts_with("error: can't read `model.onnx`\n"));
}

#[test]
fn bad_data_is_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(stderr(&sandbox.evaluate(&["--model", "model.onnx", "--data", "data", "--output", "r"])), @"error: `data` is no split; give a folder named train, validation or test in one that `prepare` made");
    fs::remove_file(sandbox.path("data/manifest.json")).unwrap();
    insta::assert_snapshot!(stderr(&sandbox.report(&[])), @"error: `data` is no finished split folder: it has no `manifest.json`; make one with `prepare --config C --output data`");
    sandbox.write_splits(&[("test", Vec::new()), ("validation", clusters(60, 2))]);
    insta::assert_snapshot!(stderr(&sandbox.report(&[])), @"error: split `data/test` has no rows; there is nothing to report on");
    assert!(!sandbox.path("report").exists());
}

#[test]
fn bad_usage_exits_with_2_and_says_what_is_missing() {
    let sandbox = Sandbox::new();
    let output = sandbox.report(&["--threshold", "high"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output)
            .contains("`high` is no rule for the threshold; give `validation`, a score from 0 to 1")
    );
    let output = sandbox.evaluate(&["--model", "model.onnx"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--data <DIR>"), "{}", stderr(&output));
    assert_eq!(sandbox.evaluate(&[]).status.code(), Some(2));
}
