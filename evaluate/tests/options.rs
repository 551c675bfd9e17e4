//! What a report shows besides one model at its own mix: other models, another mix, the version before, the training.

#![expect(clippy::unwrap_used, reason = "a test may fail, and its fixtures are small")]

mod common;

use std::fs;

use common::{Cluster, Sandbox, card, clusters, f1, logistic, score, shifted, stderr, stdout, succeeded};
use serde_json::{Value, json};
use shared::model::ModelCard;

fn number(json: &Value, place: &str) -> f64 {
    json.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {place}"))
}

#[test]
fn other_models_stand_beside_the_first_each_at_its_own_threshold() {
    let sandbox = Sandbox::new();
    let strict = ModelCard { threshold: Some(0.7), ..card() };
    sandbox.write_model("strict.onnx", &logistic(), Some(&strict));
    sandbox.write_model("late.onnx", &shifted(-5.0), Some(&card()));
    let output = sandbox.report(&["--also", "strict.onnx", "--also", "late.onnx"]);
    succeeded(&output);
    let (json, rows) = (sandbox.json(), clusters(600, 1));
    assert_eq!(json["classifiers"], json!(["model", "strict.onnx", "late.onnx", "energy cut"]));
    for (place, offset, threshold) in [("", -3.5, 0.5), ("/others/0", -3.5, 0.7), ("/others/1", -5.0, 0.5)] {
        let expected = f1(&rows, 1.0, |c| score(c, offset) >= threshold);
        let found = number(&json, &format!("{place}/f1/main_track"));
        assert!((found - expected).abs() < 1e-9, "{place}: {found}, expected {expected}");
        assert!((number(&json, &format!("{place}/threshold")) - f64::from(threshold)).abs() < 1e-6);
    }
    let baseline = f1(&rows, 1.0, |c| c.energy() >= 10.0);
    assert!(
        (number(&json, "/baseline/f1/main_track") - baseline).abs() < 1e-9,
        "the cut is still the last column"
    );
    assert_eq!(json["intervals"].as_array().unwrap().len(), 4);
    for bin in json["bins"].as_array().unwrap().iter().flat_map(|table| table["bins"].as_array().unwrap()) {
        assert_eq!(bin["rates"].as_array().unwrap().len(), 4);
    }
    for name in ["strict.onnx", "late.onnx"] {
        assert!(stdout(&output).contains(&format!("{name}, own mix: F1 main track ")), "{}", stdout(&output));
        assert!(
            sandbox.text("report/tables/numbers.csv").contains(&format!("\n{name},own,F1 of main tracks,"))
        );
        assert!(sandbox.text("report/report.txt").contains(&format!("\n{name}, own mix ")));
        assert!(sandbox.text("report/figures/roc.svg").contains(name), "in the legend");
    }
    // Other models are other inputs.
    assert_eq!(sandbox.report(&["--also", "strict.onnx"]).status.code(), Some(1));
    assert!(
        stdout(&sandbox.report(&["--also", "strict.onnx", "--also", "late.onnx"])).contains("up to date: ")
    );
}

#[test]
fn an_other_model_that_does_not_fit_stops_the_report() {
    let sandbox = Sandbox::new();
    sandbox.write_model("wide.onnx", &logistic(), Some(&ModelCard { width: 16, ..card() }));
    insta::assert_snapshot!(stderr(&sandbox.report(&["--also", "wide.onnx"])), @"error: model `wide.onnx` is for images of 8 x 16, but `data/test` has 8 x 4; prepare the data as for the training");
    assert!(!sandbox.path("report").exists());
}

#[test]
fn a_stated_prevalence_reweights_the_background() {
    let sandbox = Sandbox::new();
    succeeded(&sandbox.report(&["--prevalence", "0.01"]));
    let (json, rows) = (sandbox.json(), clusters(600, 1));
    let main = rows.iter().filter(|c| c.label).count() as f64;
    // 99 background clusters for each main track.
    let weight = 99.0 * main / (600.0 - main);
    let called = |c: &Cluster| score(c, -3.5) >= 0.5;
    let expected = f1(&rows, weight, called);
    assert!((number(&json, "/reweighted/f1/main_track") - expected).abs() < 1e-9);
    assert!((number(&json, "/reweighted/prevalence") - 0.01).abs() < 1e-12);
    let same =
        |key: &str| (number(&json, &format!("/reweighted/{key}")) - number(&json, &format!("/{key}"))).abs();
    assert!(
        same("roc_auc") < 1e-12 && same("classification/main_track/recall") < 1e-12,
        "the mix leaves these"
    );
    let balanced = f1(&rows, main / (600.0 - main), called);
    assert!((number(&json, "/balanced/f1/main_track") - balanced).abs() < 1e-9);
    assert!(sandbox.text("report/report.html").contains("<th>model, 1 % main tracks</th>"));
    assert!(sandbox.text("report/tables/numbers.csv").contains("\nmodel,stated,F1 of main tracks,"));

    for share in ["0", "1", "-0.1", "half"] {
        let output = sandbox.report(&[&format!("--prevalence={share}"), "--overwrite"]);
        assert_eq!(output.status.code(), Some(2), "{share}");
        assert!(stderr(&output).contains("give a number between 0 and 1"), "{}", stderr(&output));
    }
}

#[test]
fn clusters_that_the_training_has_seen_are_counted_and_warned_about() {
    let sandbox = Sandbox::new();
    let mut seen = clusters(600, 1);
    seen.truncate(40);
    // The same images from other files are the same clusters.
    for cluster in &mut seen {
        cluster.source = "old/a_planeX.npz".into();
    }
    common::write_splits(&sandbox.path("old"), &[("train", [seen.clone(), clusters(50, 9)].concat())]);
    let images: Vec<&Vec<f32>> = seen.iter().map(|c| &c.image).collect();
    let expected = clusters(600, 1).iter().filter(|c| images.contains(&&c.image)).count();
    assert!(expected >= 40);
    let output = sandbox.report(&["--training", "old"]);
    succeeded(&output);
    let warning = format!(
        "{expected} of 600 clusters of `data/test` are in the training split of `old` too, so the numbers flatter the model"
    );
    assert!(stderr(&output).contains(&warning), "{}", stderr(&output));
    assert_eq!(sandbox.json()["data"]["seen_in_training"], expected);
    let words = format!("{expected} of these clusters are in the training split of the model too");
    assert!(sandbox.text("report/report.html").contains(&words));

    let output = sandbox.report(&["--training", "nowhere", "--overwrite"]);
    insta::assert_snapshot!(stderr(&output), @"error: `nowhere` is no finished split folder: it has no `manifest.json`; make one with `prepare --config C --output nowhere`");
}

/// A run with a study of two trials, as `train` leaves it; trial 1 is the best.
fn write_study(sandbox: &Sandbox, run: &str, filters: u32, note: &str) {
    let write = |name: &str, json: &Value| {
        let path = sandbox.path(run).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, json.to_string()).unwrap();
    };
    write("config.json", &json!({ "plane": "X", "training_notes": { "why": note } }));
    let space = json!({ "n_filters": [16, filters] });
    write("study/study.json", &json!({ "schema_version": 1, "space": space, "sampler": "tpe", "budget": 2 }));
    for (number, value) in [("0000", 0.7), ("0001", 0.8)] {
        let trial = format!("study/trials/{number}");
        let params = json!({ "n_filters": filters, "learning_rate": 0.001 });
        write(&format!("{trial}/trial.json"), &json!({ "params": params, "epochs": 3 }));
        let result = json!({ "state": "COMPLETE", "objective": "val_f1", "value": value });
        write(&format!("{trial}/result.json"), &result);
        let history = "epoch,loss,val_loss,val_accuracy,val_f1\n1,0.7,0.6,0.8,0.5\n2,0.5,0.4,0.9,0.7\n";
        fs::write(sandbox.path(run).join(&trial).join("history.csv"), history).unwrap();
    }
    let card = ModelCard { trial: Some("0001".into()), ..card() };
    sandbox.write_model(&format!("{run}/study/best.onnx"), &logistic(), Some(&card));
}

#[test]
fn the_page_shows_the_study_its_configuration_and_what_changed_since_the_version_before() {
    let sandbox = Sandbox::new();
    write_study(&sandbox, "v1", 32, "the first");
    write_study(&sandbox, "v2", 64, "more <b>filters</b>");
    let arguments = |more: &[&'static str]| {
        let plain =
            ["--model", "v2/study/best.onnx", "--data", "data/test", "--output", "r", "--device", "cpu"];
        [&plain[..], more, &["--overwrite"]].concat()
    };
    succeeded(&sandbox.evaluate(&arguments(&["--against", "v1/study"])));
    let json: Value = serde_json::from_str(&sandbox.text("r/report.json")).unwrap();
    assert_eq!(
        json["changes"]["settings"],
        json!([
            ["n_filters", "32", "64"],
            ["space.n_filters", "[16,32]", "[16,64]"],
            ["training_notes.why", "\"the first\"", "\"more <b>filters</b>\""],
        ])
    );
    assert_eq!(json["changes"]["since"], "v1/study");
    assert!(json["changes"]["pair"].is_null());
    assert_eq!(json["configuration"]["budget"], 2);
    let page = sandbox.text("r/report.html");
    assert!(page.contains("<h2>What changed since <code>v1/study</code></h2>"));
    assert!(page.contains("Only settings are compared: it is no report, so there are no scores to compare."));
    assert!(page.contains("<tr><th>epochs</th><td><code>3</code></td></tr>") && !page.contains("<b>filters"));
    for figure in ["training-loss", "training-quality", "study"] {
        assert!(page.contains(&format!("<figure id=\"{figure}\">")), "{figure}");
        assert!(sandbox.path("r/figures").join(figure).with_extension("pdf").is_file(), "{figure}");
    }

    // A trial's folder, too; the settings are the same ones.
    succeeded(&sandbox.evaluate(&arguments(&["--against", "v1/study/trials/0000"])));
    let trial: Value = serde_json::from_str(&sandbox.text("r/report.json")).unwrap();
    assert_eq!(trial["changes"]["settings"], json["changes"]["settings"]);

    // Nothing to look back at.
    let output = sandbox.evaluate(&arguments(&["--against", "data"]));
    insta::assert_snapshot!(stderr(&output), @"error: `data` is no version to look back at; give the folder of a report, of a study with a `best.onnx`, or of a trial in its study");
}

#[test]
fn against_a_report_the_numbers_are_paired_and_only_on_the_same_clusters() {
    let sandbox = Sandbox::new();
    sandbox.write_model("old.onnx", &shifted(-1.0), Some(&card()));
    let old = ["--model", "old.onnx", "--data", "data/test", "--output", "old", "--device", "cpu"];
    succeeded(&sandbox.evaluate(&old));
    succeeded(&sandbox.report(&["--against", "old"]));
    let (json, rows) = (sandbox.json(), clusters(600, 1));
    let difference = f1(&rows, 1.0, |c| score(c, -3.5) >= 0.5) - f1(&rows, 1.0, |c| score(c, -1.0) >= 0.5);
    let pair = &json["changes"]["pair"];
    assert!((number(pair, "/differences/0/difference") - difference).abs() < 1e-9);
    let verdict = pair["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("now − before: +") && verdict.ends_with(": better"), "{verdict}");
    assert!(sandbox.text("report/report.html").contains(verdict));

    // The same as `compare` says.
    succeeded(&sandbox.evaluate(&["compare", "old", "report", "--output", "c"]));
    let compared: Value = serde_json::from_str(&sandbox.text("c/compare.json")).unwrap();
    assert_eq!(compared["pairs"][0]["differences"], pair["differences"]);

    sandbox.write_splits(&[("test", clusters(300, 9))]);
    succeeded(&sandbox.report(&["--against", "old", "--overwrite"]));
    let json = sandbox.json();
    assert!(json["changes"]["pair"].is_null());
    assert_eq!(json["changes"]["no_pair"], "it is about other clusters, so the numbers can't be compared");
}

#[test]
fn many_small_row_groups_come_back_in_order_with_any_number_of_threads() {
    let sandbox = Sandbox::new();
    let rows = clusters(4000, 3); // 16 parts
    sandbox.write_splits(&[("test", rows.clone())]);
    for threads in ["1", "2", "7"] {
        succeeded(&sandbox.report(&["--threads", threads, "--overwrite"]));
        let predictions = sandbox.predictions();
        assert_eq!(predictions.len(), 4000);
        for ((source, row, found), cluster) in predictions.iter().zip(&rows) {
            assert_eq!((source, row), (&cluster.source, &cluster.row));
            assert!((found - score(cluster, -3.5)).abs() < 1e-5, "{source} {row}");
        }
    }
}
