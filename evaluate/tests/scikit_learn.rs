//! The numbers against scikit-learn's, and the report's files read by Python.

mod common;

use std::fs;

use common::{Sandbox, python, run_python, succeeded};
use evaluate::Judged;
use rand::RngExt;
use serde_json::json;

/// Compares each case with scikit-learn; prints how many it compared.
const CHECK: &str = r#"
import json, math, re, sys, warnings
import numpy as np
from sklearn import metrics as m
from sklearn.calibration import calibration_curve
warnings.filterwarnings("ignore")

def close(name, case, ours, theirs):
    theirs = None if theirs is None or not math.isfinite(theirs) else theirs
    same = ours is None and theirs is None or ours is not None and theirs is not None and abs(ours - theirs) < 1e-9
    assert same, f"case {case}: {name} is {ours}, scikit-learn has {theirs}"

def ece(y, s):
    ids = np.searchsorted(np.linspace(0, 1, 11)[1:-1], s)  # the bins of calibration_curve
    used = [b for b in range(10) if (ids == b).any()]
    if len(set(y)) == 2:
        true, mean = calibration_curve(y, s, n_bins=10)
    else:  # calibration_curve wants both classes
        true, mean = [y[ids == b].mean() for b in used], [s[ids == b].mean() for b in used]
    return sum((ids == b).mean() * abs(t - p) for b, t, p in zip(used, true, mean))

cases = json.load(open(sys.argv[1]))
for i, case in enumerate(cases):
    y, s, ours = np.array(case["labels"]), np.array(case["scores"]), case["numbers"]
    weights = np.where(y, case["weights"][1], case["weights"][0])
    w = {"sample_weight": weights}
    p = s >= case["threshold"]
    both = {"labels": [False, True]}
    report = dict(target_names=["background", "main_track"], zero_division=0, **both)
    theirs = m.classification_report(y, p, output_dict=True, **report, **w)
    for row, values in theirs.items():
        for key, value in values.items() if isinstance(values, dict) else [(None, values)]:
            got = ours["classification"][row]
            close(f"{row} {key}", i, got if key is None else got[key], value)
    for key, average in [("main_track", "binary"), ("macro", "macro"), ("weighted", "weighted")]:
        labels = both if average != "binary" else {}
        close(f"f1 {key}", i, ours["f1"][key], m.f1_score(y, p, average=average, zero_division=0, **labels, **w))
    close("mcc", i, ours["mcc"], m.matthews_corrcoef(y, p, **w))
    close("balanced accuracy", i, ours["balanced_accuracy"], m.balanced_accuracy_score(y, p, **w))
    one = len(set(y)) == 1
    close("roc auc", i, ours["roc_auc"], None if one else m.roc_auc_score(y, s, **w))
    close("average precision", i, ours["average_precision"], m.average_precision_score(y, s, **w))
    close("log loss", i, ours["log_loss"], m.log_loss(y, s, **both, **w))
    close("brier", i, ours["brier"], float(np.average((s - y) ** 2, weights=weights)) if one else m.brier_score_loss(y, s, **w))
    if case["weights"] == [1, 1]:
        close("ece", i, ours["ece"], ece(y, s))
        # Where nothing is called right, scikit-learn shows the supports as 12.0, not 12.
        text = re.sub(r" (\S+)\.0$", r"   \1", m.classification_report(y, p, **report), flags=re.M)
        assert case["text"] == text, f"case {i}: {case['text']}\n{text}"
print(len(cases))
"#;

/// Random sets: plain, with ties, with empty bins, certain scores, and with a class absent.
fn cases() -> Vec<(Vec<f32>, Vec<bool>, f32)> {
    (0..100_u64)
        .map(|case| {
            let mut random = shared::random::stream(7, "scikit-learn cases", &[case]);
            let n = random.random_range(1..400);
            let labels = (0..n).map(|_| match case % 10 {
                8 => false,
                9 => true,
                k => random.random_bool(0.05 + 0.1 * k as f64),
            });
            let labels: Vec<bool> = labels.collect();
            let scores = labels.iter().map(|&label| {
                let score: f32 = random.random_range(0.0..0.8) + if label { 0.2 } else { 0.0 };
                match case % 5 {
                    0 => (score * 5.0).round() / 5.0, // ties, also on the edges of bins, 0 and 1
                    1 => (score * 16.0).round() / 16.0, // ties
                    2 => 0.3 + 0.1 * score,           // most bins are empty
                    _ => score,
                }
            });
            let scores: Vec<f32> = scores.collect();
            let threshold = if case % 3 == 0 { scores[0] } else { random.random() };
            (scores, labels, threshold)
        })
        .collect()
}

#[test]
fn a_hundred_random_cases_agree_with_scikit_learn() {
    let Some(python) = python() else { return };
    let mut all = Vec::new();
    for (scores, labels, threshold) in cases() {
        let judged = Judged::model(&scores, &labels, threshold);
        let wide: Vec<f64> = scores.iter().map(|&s| f64::from(s)).collect();
        let (background, main) = shared::metrics::class_counts(&labels);
        let balanced = shared::metrics::ClassWeights::for_prevalence(background, main, 0.5);
        let case = |numbers: evaluate::Numbers, weights: [f64; 2]| {
            json!({
                "scores": wide, "labels": labels, "threshold": f64::from(threshold), "weights": weights,
                "text": evaluate::classification_text(&numbers.classification), "numbers": numbers,
            })
        };
        all.push(case(judged.numbers(), [1.0, 1.0]));
        all.push(case(judged.numbers_at(0.5), [balanced.background, balanced.main_track]));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cases.json");
    fs::write(&path, serde_json::to_vec(&all).unwrap().as_slice()).unwrap();
    let text = fs::read_to_string(&path).unwrap().replace("[1.0,1.0]", "[1,1]");
    fs::write(&path, text).unwrap();
    assert_eq!(run_python(&python, CHECK, &[&path]).trim(), "200");
}

/// Reads the report as a physicist would and makes scikit-learn's from the predictions.
const READ: &str = r#"
import json, sys
import pyarrow.parquet as pq
from sklearn.metrics import classification_report, roc_auc_score
folder = sys.argv[1]
report = json.load(open(folder + "/report.json"))
t = pq.read_table(folder + "/predictions.parquet").to_pydict()
assert list(t) == ["source", "row", "event", "plane", "is_main_track", "score", "cluster_energy"], list(t)
called = [s >= report["threshold"] for s in t["score"]]
expected = classification_report(t["is_main_track"], called, target_names=["background", "main_track"])
text = open(folder + "/report.txt").read()
assert text.startswith(expected), text
assert abs(roc_auc_score(t["is_main_track"], t["score"]) - report["roc_auc"]) < 1e-9
cut = [e >= report["baseline"]["energy_cut_mev"] for e in t["cluster_energy"]]
theirs = classification_report(t["is_main_track"], cut, target_names=["background", "main_track"], output_dict=True)
assert abs(theirs["main_track"]["f1-score"] - report["baseline"]["f1"]["main_track"]) < 1e-9
print(len(called), t["source"][61], t["row"][61], t["plane"][0], t["event"][5])
"#;

#[test]
fn python_reads_the_report_and_gets_the_same_numbers() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new();
    succeeded(&sandbox.report(&[]));
    let said = run_python(&python, READ, &[&sandbox.path("report")]);
    assert_eq!(said.trim(), "600 es/prod_0001_planeX.npz 1 X 1");
}

/// Scores of the model by Python's onnxruntime.
const SCORE: &str = r#"
import sys
import numpy as np, onnxruntime as ort, pyarrow.dataset as ds, pyarrow.parquet as pq
folder = sys.argv[1]
t = ds.dataset(folder + "/data/test").to_table(columns=["image", "row", "source"])
images = np.stack(t["image"].combine_chunks().to_numpy_ndarray() if hasattr(t["image"].combine_chunks(), "to_numpy_ndarray") else t["image"].to_pylist()).astype(np.float32)
session = ort.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
scores, = session.run(["probability"], {"image": images.reshape(-1, 8, 4)})
ours = pq.read_table(folder + "/report/predictions.parquet").to_pydict()
assert t["row"].to_pylist() == ours["row"]
print(float(np.abs(scores - np.array(ours["score"])).max()))
"#;

#[test]
fn python_s_onnxruntime_gives_the_same_scores_in_the_same_order() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new();
    succeeded(&sandbox.report(&[]));
    let difference: f64 = run_python(&python, SCORE, &[&sandbox.path("")]).trim().parse().unwrap();
    assert!(difference < 1e-6, "{difference}");
}
