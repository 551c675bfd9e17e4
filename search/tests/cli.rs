//! The binary `search`, driven as people drive it.

mod common;

use std::fs;

use common::{CONFIG, folder, search};

#[test]
fn a_study_is_made_asked_and_shown() {
    let folder = folder(CONFIG);
    let run = |args: &[&str]| search(folder.path(), args);
    let (code, out, err) = run(&["create", "--config", "c.json", "--study", "T"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with("made study `T`\n3 trials of at most 80 epochs, maximum of val_f1, seed 42\n"),
        "{out}"
    );
    assert_eq!(
        run(&["ask", "--study", "T", "--count", "2"]),
        (0, "T/trials/0000\nT/trials/0001\n".into(), String::new())
    );
    let trial: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("T/trials/0001/trial.json")).unwrap()).unwrap();
    assert_eq!(trial["number"], 1);
    let rate = trial["params"]["learning_rate"].as_f64().unwrap();
    assert!(
        (0.0005..=0.002).contains(&rate) && (rate - 0.001).abs() > 1e-12,
        "a list of rates is a range, {rate}"
    );

    let (code, out, err) = run(&["status", "--study", "T"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let head = out.lines().next().unwrap().split_whitespace().collect::<Vec<&str>>();
    assert_eq!(
        head,
        [
            "trial",
            "state",
            "val_f1",
            "epochs",
            "minutes",
            "n_conv_layers",
            "n_dense_layers",
            "n_filters",
            "kernel_size",
            "n_dense_units",
            "learning_rate",
            "decay_rate"
        ]
    );
    assert!(out.ends_with("\n\nT: 2 waiting (budget 3)\n"), "{out}");
    assert_eq!(run(&["best", "--study", "T"]), (0, "T: no trial is complete yet\n".into(), String::new()));
}

#[test]
fn asking_beyond_the_budget_gives_what_is_left_and_says_so() {
    let folder = folder(CONFIG);
    let run = |args: &[&str]| search(folder.path(), args);
    run(&["create", "--config", "c.json", "--study", "T"]);
    let (code, out, err) = run(&["ask", "--study", "T", "--count", "5"]);
    assert_eq!((code, out.lines().count()), (0, 3));
    assert_eq!(
        err,
        " WARN 3 of 5 trials added: the budget is spent; `search create` with a larger `--budget` raises it\n"
    );
    let (code, out, _) = run(&["create", "--config", "c.json", "--study", "T", "--budget", "4"]);
    assert_eq!((code, out.as_str()), (0, "study `T` exists; changed budget: 3 → 4\n"));
    assert_eq!(run(&["ask", "--study", "T"]).1, "T/trials/0003\n");
}

#[test]
fn making_the_same_study_again_does_nothing() {
    let folder = folder(CONFIG);
    let run = |args: &[&str]| search(folder.path(), args);
    run(&["create", "--config", "c.json", "--study", "T"]);
    let before = fs::read(folder.path().join("T/journal.log")).unwrap();
    assert_eq!(
        run(&["create", "--config", "c.json", "--study", "T"]),
        (0, "study `T` exists with this configuration\n".into(), String::new())
    );
    assert_eq!(fs::read(folder.path().join("T/journal.log")).unwrap(), before);

    fs::write(folder.path().join("c.json"), CONFIG.replace("[8, 16]", "[8, 24]")).unwrap();
    let (code, out, err) = run(&["create", "--config", "c.json", "--study", "T"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        "error: study `T` exists with another configuration:\n  space_options.n_filters: [8,16] → [8,24]\n\
         put the configuration back, or make a new study that starts from this one: `search create --from T`\n"
    );
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = folder(CONFIG);
    let (code, out, _) =
        search(folder.path(), &["create", "--config", "c.json", "--study", "T", "--dry-run"]);
    assert_eq!(code, 0);
    assert!(out.contains("  learning_rate: [0.0005,0.001,0.002]"), "{out}");
    assert!(!folder.path().join("T").exists());
}

#[test]
fn bad_input_is_refused_with_its_key_and_nothing_is_written() {
    let cases = [
        (
            r#"{"model_parameters": {"epoch": 3}}"#,
            "error: config `c.json` can't be used\n  caused by: key `model_parameters.epoch` is unknown; did you mean `model_parameters.epochs`?\n",
        ),
        (
            r#"{"model_parameters": {"space_options": {"learning_rate": {"log_uniform": [0.1, 0.01]}}}}"#,
            "error: config `c.json` can't be used\n  caused by: key `model_parameters.space_options.learning_rate`: the range 0.1 to 0.01 is reversed; give [0.01, 0.1]\n",
        ),
        (
            r#"{"model_parameters": {"input_shape": [8, 4, 1], "space_options": {"n_conv_layers": [2],
                "n_dense_layers": [1], "n_filters": [8], "kernel_size": [3], "n_dense_units": [8],
                "learning_rate": [0.001], "decay_rate": [0.95]}}}"#,
            "error: no network of this space can exist: layer `conv2`: a kernel of 3 ticks does not fit a map of 2 x 2; use fewer conv layers or a smaller kernel\n",
        ),
        (
            "{",
            "error: `c.json` is not what it should be\n  caused by: EOF while parsing an object at line 1 column 1\n",
        ),
    ];
    for (config, message) in cases {
        let folder = folder(config);
        let (code, out, err) = search(folder.path(), &["create", "--config", "c.json", "--study", "T"]);
        assert_eq!((code, out.as_str(), err.as_str()), (1, "", message));
        assert!(!folder.path().join("T").exists());
    }
    let folder = folder(CONFIG);
    assert_eq!(
        search(folder.path(), &["ask", "--study", "T"]),
        (
            1,
            String::new(),
            "error: `T` is no study; make one with `search create --config CONFIG --study T`\n".into()
        )
    );
    assert_eq!(search(folder.path(), &["ask"]).0, 2);
}

#[test]
fn pruners_start_after_a_tenth_of_the_epochs_unless_told() {
    let folder = folder(CONFIG); // 80 epochs
    let pruner = |study: &str, flags: &[&str]| {
        let args = [&["create", "--config", "c.json", "--study", study], flags].concat();
        assert_eq!(search(folder.path(), &args).0, 0);
        let file = fs::read(folder.path().join(study).join("study.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&file).unwrap()["pruner"].clone()
    };
    assert_eq!(pruner("a", &[]), serde_json::json!({ "kind": "none" }));
    assert_eq!(
        pruner("b", &["--pruner", "asha"]),
        serde_json::json!({ "kind": "asha", "min_steps": 8, "factor": 3 })
    );
    assert_eq!(
        pruner("c", &["--pruner", "median", "--prune-after", "0", "--patience", "5"]),
        serde_json::json!({ "kind": "patient", "patience": 5, "inner": { "kind": "median", "startup": 5, "warmup": 0 } })
    );
    assert_eq!(
        search(folder.path(), &["create", "--config", "c.json", "--study", "d", "--prune-factor", "1"]).0,
        2
    );
}

#[test]
fn rows_that_are_left_out_say_why() {
    let folder = folder(CONFIG);
    let rows = r#"[{"n_filters": 16}, {"n_filters": 64}, {"n_filters": 8, "val_f1": 0.9}, {"epochs": 3}]"#;
    fs::write(folder.path().join("rows.json"), rows).unwrap();
    let (code, out, err) =
        search(folder.path(), &["create", "--config", "c.json", "--study", "T", "--enqueue", "rows.json"]);
    assert_eq!(code, 0);
    assert!(
        out.ends_with(
            "from `rows.json`: 0 finished trials to learn from, 1 to try first, 3 that do not fit the space\n"
        ),
        "{out}"
    );
    assert_eq!(
        err,
        " WARN row 2 of `rows.json` is left out: the space has no `n_filters` = 64\n \
         WARN row 3 of `rows.json` is left out: it has a result, but no `n_conv_layers`\n \
         WARN row 4 of `rows.json` is left out: it has none of the space's parameters\n"
    );
}
