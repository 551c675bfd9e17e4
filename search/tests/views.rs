//! What `search` shows of a study: exports, importance, notes, and the table that follows it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{CONFIG, folder, search};
use serde_json::{Value, json};
use shared::study::{Next, Outcome, Study};

/// A study `T` of which one trial is complete, one was pruned and one failed.
fn study(folder: &Path) -> Study {
    assert_eq!(search(folder, &["create", "--config", "c.json", "--study", "T"]).0, 0);
    let study = Study::open(&folder.join("T")).expect("it was just made");
    let outcomes = [
        Outcome::Complete { value: 0.75 },
        Outcome::Pruned,
        Outcome::Fail { reason: "the loss is \"NaN\", not a number".into() },
    ];
    for outcome in outcomes {
        let Next::Run(lease) = study.next().expect("it can be read") else { panic!("there is room") };
        lease.report(1, 0.5).expect("the lease is held");
        lease.report(2, 0.625).expect("the lease is held");
        lease.tell(outcome).expect("the lease is held");
    }
    study
}

/// Python with pyarrow; without it a test is skipped, but never where all checks must run.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("MTID_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        assert!(std::env::var_os("CI").is_none(), "MTID_TEST_PYTHON must name a Python with pyarrow");
        eprintln!("skipped the comparison with pyarrow: MTID_TEST_PYTHON is not set");
    }
    python
}

#[test]
fn csv_json_and_parquet_hold_the_same_trials() {
    let folder = folder(CONFIG);
    let study = study(folder.path());
    let run = |args: &[&str]| search(folder.path(), args);
    let (code, csv, err) = run(&["export", "--study", "T", "--format", "csv"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(
        csv.lines().next().unwrap(),
        "trial,state,val_f1,epochs,started,completed,n_conv_layers,n_dense_layers,n_filters,kernel_size,n_dense_units,learning_rate,decay_rate"
    );
    let firsts: Vec<String> = lines[1..].iter().map(|cells| cells[..4].join(",")).collect();
    assert_eq!(firsts, ["0,COMPLETE,0.75,2", "1,PRUNED,0.625,2", "2,FAIL,,2"]);

    let (code, json, err) = run(&["export", "--study", "T", "--format", "json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let whole: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(whole["schema_version"], 1);
    assert_eq!(whole["study"]["study_name"], "T");
    let trials = study.trials().unwrap();
    for (row, trial) in trials.iter().enumerate() {
        let exported = &whole["trials"][row];
        assert_eq!(exported["params"], Value::from(trial.params()));
        assert_eq!(exported["intermediate_values"], json!([[1, 0.5], [2, 0.625]]));
        let cells: Vec<String> = trial.params().values().map(Value::to_string).collect();
        assert_eq!(lines[row + 1][6..], cells);
    }
    assert_eq!(whole["trials"][2]["user_attrs"]["fail_reason"], "the loss is \"NaN\", not a number");

    assert_eq!(
        run(&["export", "--study", "T", "--format", "parquet"]),
        (0, "T/trials.parquet\n".into(), String::new())
    );
    let Some(python) = python() else { return };
    let script =
        "import json, sys, pyarrow.parquet as pq; print(json.dumps(pq.read_table(sys.argv[1]).to_pylist()))";
    let output = Command::new(python)
        .args(["-c", script])
        .arg(folder.path().join("T/trials.parquet"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (row, trial) in trials.iter().enumerate() {
        let read = &rows[row];
        assert_eq!((&read["trial"], &read["state"]), (&json!(trial.number), &json!(trial.state.name())));
        assert_eq!((&read["val_f1"], &read["epochs"]), (&json!(trial.value), &json!(2)));
        for (name, value) in trial.params() {
            assert_eq!(read[&name].as_f64(), value.as_f64(), "{name}");
        }
    }
}

#[test]
fn the_web_page_has_every_figure_and_loads_nothing() {
    let folder = folder(&CONFIG.replace("\"hp_max_evals\"", "\"epochs\": 9, \"hp_max_evals\""));
    study(folder.path());
    assert_eq!(
        search(folder.path(), &["export", "--study", "T"]),
        (0, "T/study.html\n".into(), String::new())
    );
    let page = fs::read_to_string(folder.path().join("T/study.html")).unwrap();
    let titles: Vec<&str> =
        page.split("<h2>").skip(1).filter_map(|part| part.split("</h2>").next()).collect();
    assert_eq!(
        titles,
        ["History of val_f1", "Importance (fANOVA)", "Slices", "Parallel coordinates", "Trials"]
    );
    assert!(page.contains("the loss is &quot;NaN&quot;, not a number"), "text is escaped");
    for outside in ["http:", "https:", "<script", "src=", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn importance_names_the_parameter_that_matters() {
    let folder = folder(&CONFIG.replace("\"hp_max_evals\": 3", "\"hp_max_evals\": 40"));
    let run = |args: &[&str]| search(folder.path(), args);
    run(&["create", "--config", "c.json", "--study", "T", "--sampler", "random"]);
    assert_eq!(
        run(&["importance", "--study", "T"]).1,
        "too few complete trials, or all with one value: nothing to learn from\n"
    );
    let study = Study::open(&folder.path().join("T")).unwrap();
    while let Next::Run(lease) = study.next().unwrap() {
        let value = 100.0 * lease.trial().learning_rate().unwrap();
        lease.tell(Outcome::Complete { value }).unwrap();
    }
    let (code, out, err) = run(&["importance", "--study", "T"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0][0], rows[0][1], rows[1][0]), ("parameter", "importance", "learning_rate"), "{out}");
    assert!(rows[1][1].parse::<f64>().unwrap() > 0.95, "{out}");
    assert_eq!(rows.len(), 8);
}

#[test]
fn notes_are_the_entry_that_people_write() {
    let folder = folder(CONFIG);
    let run = |args: &[&str]| search(folder.path(), args);
    run(&["create", "--config", "c.json", "--study", "v1"]);
    fs::write(folder.path().join("c.json"), CONFIG.replace("[8, 16]", "[8, 24]")).unwrap();
    run(&["create", "--config", "c.json", "--study", "v2", "--budget", "6"]);
    let rows = folder.path().join("first.json");
    let row = |filters: u64, rate: f64| {
        json!({ "n_conv_layers": 2, "n_dense_layers": 2, "n_filters": filters, "kernel_size": 3, "n_dense_units": 16,
                "learning_rate": rate, "decay_rate": 0.9581 })
    };
    fs::write(&rows, json!([row(8, 0.001), row(24, 0.000_522)]).to_string()).unwrap();
    run(&["create", "--config", "c.json", "--study", "v2", "--budget", "6", "--enqueue", "first.json"]);
    let study = Study::open(&folder.path().join("v2")).unwrap();
    for value in [0.85, 0.917] {
        let Next::Run(lease) = study.next().unwrap() else { panic!("a trial waits") };
        let result = json!({ "val_accuracy": 0.91887, "best_epoch": 21, "epochs": 30 });
        fs::write(lease.folder().join("result.json"), result.to_string()).unwrap();
        lease.tell(Outcome::Complete { value }).unwrap();
    }
    let report = json!({ "n": 111_904, "f1": { "main_track": 0.7, "macro": 0.8, "weighted": 0.917 } });
    fs::create_dir(folder.path().join("report")).unwrap();
    fs::write(folder.path().join("report/report.json"), report.to_string()).unwrap();

    let (code, out, err) =
        run(&["notes", "--study", "v2", "--against", "v1", "--report", "report", "--job", "4711"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let date = study.trials().unwrap()[0].started.unwrap().to_string()[..10].to_owned();
    let expected = format!(
        "## v2

- Date: {date}
- Program: mt-identifier {version}
- Job: 4711
- Configuration: plane X, 6 trials, 80 epochs, batch 128, val_f1; `n_conv_layers` [2,3], `n_dense_layers` [2], `n_filters` [8,24], `kernel_size` [3], `n_dense_units` [16], `learning_rate` [0.0005,0.001,0.002], `decay_rate` [0.95,0.98]
- Changed since v1:
  - budget: 3 → 6
  - space.n_filters: [8,16] → [8,24]
- Best trial: 2/2 with val_f1 0.91700: `n_conv_layers` 2, `n_dense_layers` 2, `n_filters` 24, `kernel_size` 3, `n_dense_units` 16, `learning_rate` 0.000522, `decay_rate` 0.9581
- Validation accuracy: 91.887 %
- Converged: best weights at epoch 21 of 30
- Test F1: main track 0.7000, macro 0.8000, weighted 0.9170
- Test clusters: 111904
- Space brackets the best: no
- Next: `n_conv_layers` below 2; `n_filters` above 24; `learning_rate` below 0.000522",
        version = env!("CARGO_PKG_VERSION")
    );
    let text = out.trim_end();
    assert!(text.starts_with(&expected), "{text}");
    let rest = &text[expected.len()..];
    assert!(rest.starts_with("; `") && rest.contains("` matters most ("), "{rest}");
}

#[test]
fn a_table_that_follows_a_study_ends_with_it() {
    let folder = folder(CONFIG);
    let run = |args: &[&str]| search(folder.path(), args);
    run(&["create", "--config", "c.json", "--study", "T", "--stop-after", "1"]);
    let study = Study::open(&folder.path().join("T")).unwrap();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_search"))
        .current_dir(folder.path())
        .args(["status", "--study", "T", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let Next::Run(lease) = study.next().unwrap() else { panic!("there is room") };
    std::thread::sleep(Duration::from_millis(2500));
    assert!(watch.try_wait().unwrap().is_none(), "a trial still runs");
    lease.tell(Outcome::Complete { value: 0.5 }).unwrap();
    let Next::Run(lease) = study.next().unwrap() else { panic!("there is room") };
    lease.tell(Outcome::Complete { value: 0.25 }).unwrap();
    // Two of three trials: the study ends since the second brought nothing.
    let start = Instant::now();
    while watch.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "the table follows a study that has ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = watch.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.ends_with("T: 2 complete (budget 3); best: trial 0 with 0.50000\n"), "{text}");
}
