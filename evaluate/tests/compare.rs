//! Comparisons of reports by the real program.

mod common;

use common::{Cluster, Sandbox, card, clusters, score, shifted, stderr, stdout, succeeded};

/// Reports `a` (the model) and `b` (the same with another offset, so another threshold in effect).
fn two_reports(offset: f32) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write_model("b.onnx", &shifted(offset), Some(&card()));
    for (model, report) in [("model.onnx", "a"), ("b.onnx", "b")] {
        let arguments = ["--model", model, "--data", "data/test", "--output", report, "--device", "cpu"];
        succeeded(&sandbox.evaluate(&arguments));
    }
    sandbox
}

#[test]
fn a_worse_model_is_called_worse_and_its_changes_are_listed() {
    let sandbox = two_reports(-1.0);
    let output = sandbox.evaluate(&["compare", "a", "b", "--output", "c"]);
    succeeded(&output);
    let said = stdout(&output);
    assert!(said.starts_with("b − a: −") && said.lines().next().unwrap().ends_with(": worse"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&sandbox.text("c/compare.json")).unwrap();
    let pair = &json["pairs"][0];
    let (lost, gained) = (pair["lost"].as_u64().unwrap(), pair["gained"].as_u64().unwrap());
    let changed = sandbox.text("c/changed-b.csv");
    assert_eq!(changed.lines().count() as u64, 1 + lost + gained);
    assert!(pair["mcnemar_p"].as_f64().unwrap() < 1e-3);

    // Every changed cluster, counted by hand.
    let rows = clusters(600, 1);
    let called = |c: &Cluster| (score(c, -3.5) >= 0.5, score(c, -1.0) >= 0.5);
    assert_eq!(
        lost,
        rows.iter().filter(|c| (called(c).0 == c.label) && (called(c).1 != c.label)).count() as u64
    );
    assert_eq!(
        gained,
        rows.iter().filter(|c| (called(c).0 != c.label) && (called(c).1 == c.label)).count() as u64
    );

    // The page says the same, and shows no more clusters than fit on it.
    let page = sandbox.text("c/compare.html");
    let verdict = said.lines().next().unwrap();
    assert!(page.contains(&format!("<p class=\"verdict\">{verdict}</p>")), "{verdict}");
    assert!(page.contains(&format!("{} clusters, all in changed-b.csv; here are the 20", lost + gained)));
    assert!(
        page.contains(&format!("{lost} clusters were right before and are wrong now, {gained} the other"))
    );
    assert!(sandbox.path("c/figures/roc.svg").is_file());

    let again = sandbox.evaluate(&["compare", "a", "b", "--output", "c"]);
    assert!(stdout(&again).ends_with("up to date: c\n"), "{}", stdout(&again));
    let other = sandbox.evaluate(&["compare", "b", "a", "--output", "c"]);
    assert_eq!(
        stderr(&other),
        "error: `c` holds another report (of a, b); give `--overwrite` or another `--output`\n"
    );
}

#[test]
fn a_model_is_no_better_than_itself() {
    let sandbox = two_reports(-3.5);
    let output = sandbox.evaluate(&["compare", "a", "b", "--output", "c"]);
    succeeded(&output);
    let first = stdout(&output).lines().next().unwrap().to_owned();
    assert_eq!(first, "b − a: +0.00 % F1 of main tracks, 95 % interval +0.00 … +0.00: no difference");
}

#[test]
fn reports_on_other_clusters_are_not_compared() {
    let sandbox = two_reports(-3.5);
    sandbox.write_splits(&[("test", clusters(300, 9))]);
    let arguments =
        ["--model", "b.onnx", "--data", "data/test", "--output", "b", "--device", "cpu", "--overwrite"];
    succeeded(&sandbox.evaluate(&arguments));
    let output = sandbox.evaluate(&["compare", "a", "b", "--output", "c"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output), @"error: reports `a` and `b` are about different clusters; evaluate both models on the same test split");
    let output = sandbox.evaluate(&["compare", "a", "data", "--output", "c"]);
    insta::assert_snapshot!(stderr(&output), @"error: `data` is no report: it has no `report.json`; make one with `evaluate --model M --data DIR/test --output data`");
    assert!(!sandbox.path("c").exists());
}
