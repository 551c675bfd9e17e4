//! The binary `train` on a study: killed, stopped, failing, and with every setting of the config.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::RngExt;
use serde_json::{Value, json};
use shared::config::Config;
use shared::study::{Created, Options, State, Study};

/// Splits of a few hundred clusters, made once for all tests.
fn data() -> &'static Path {
    static DATA: OnceLock<tempfile::TempDir> = OnceLock::new();
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let folder = DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let npz = folder.path().join("npz");
        let options =
            simulator::Options { output: npz.clone(), clusters: 1200, seed: 4, ..Default::default() };
        simulator::run(&options).unwrap();
        let config = folder.path().join("config.json");
        fs::write(&config, "{}").unwrap();
        let place = |path: PathBuf| path.display().to_string();
        let data = place(folder.path().join("data"));
        let line = ["prepare", "--config", &place(config), "--input", &place(npz), "--output", &data];
        prepare::run(&prepare::Args::parse_from(line)).unwrap();
        folder
    });
    PATH.get_or_init(|| folder.path().join("data"))
}

/// A study of small networks whose `model_parameters` are these, with one trial asked for.
fn study(folder: &Path, parameters: Value, space: Value) -> Study {
    let mut model = json!({ "hp_max_evals": 4, "epochs": 6, "batch_size": 32, "space_options": {
        "n_conv_layers": [1], "n_dense_layers": [1], "n_filters": [8], "kernel_size": [3], "n_dense_units": [16],
        "dropout_rate": [0.1], "learning_rate": [0.003], "decay_rate": [0.96] } });
    merge(&mut model, parameters);
    merge(&mut model["space_options"], space);
    let config = Config::from_value(&json!({ "model_parameters": model })).unwrap();
    let Created::New(study) = Study::create(folder, &config, &Options::default()).unwrap() else {
        panic!("the folder was fresh")
    };
    study.ask(1).unwrap();
    study
}

fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else { panic!("{from} is no object") };
    for (key, value) in from {
        into[key] = value;
    }
}

fn command(study: &Path, threads: usize) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("train"));
    command.arg("--trial").arg(study.join("trials/0000")).arg("--data").arg(data());
    command.args(["--device", "cpu", "--threads", &threads.to_string()]).env_remove("MTID_LOG");
    command
}

fn start(study: &Path) -> Child {
    command(study, 2).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn run(study: &Path) -> Output {
    command(study, 2).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn trial(study: &Path, name: &str) -> PathBuf {
    study.join("trials/0000").join(name)
}

/// Rows of `history.csv` without the columns that are times.
fn history(study: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(trial(study, "history.csv")).unwrap();
    let row = |line: &str| -> Vec<String> {
        let columns = line.split(',').enumerate().filter(|(at, _)| ![2, 3].contains(at));
        columns.map(|(_, text)| text.to_owned()).collect()
    };
    text.lines().map(row).collect()
}

/// A long study, trained without interruption: its folder, model, history and seconds.
struct Whole {
    folder: tempfile::TempDir,
    model: Vec<u8>,
    history: Vec<Vec<String>>,
    time: Duration,
}

const EPOCHS: usize = 12;

/// Uses everything that a checkpoint has to carry.
fn long(folder: &Path) {
    let parameters = json!({ "epochs": EPOCHS, "early_stopping": { "patience": 100 }, "weight_decay": 0.01,
        "learning_rate_schedule": { "name": "one_cycle", "warmup_epochs": 0.5 }, "global_clipnorm": 0.5,
        "class_weight": "balanced", "label_smoothing": 0.05 });
    study(folder, parameters, json!({}));
}

fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("study");
        long(&place);
        let begin = Instant::now();
        let output = run(&place);
        let time = begin.elapsed();
        assert_eq!(output.status.code(), Some(0), "{}", words(&output));
        let model = fs::read(trial(&place, "model.onnx")).unwrap();
        let history = history(&place);
        Whole { folder, model, history, time }
    })
}

/// After an interruption: the same command ends with the model and the history of a training that had none.
#[track_caller]
fn goes_on_as_if_nothing_had_happened(study: &Path) {
    let output = run(study);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let rows = history(study);
    let epochs: Vec<String> = rows[1..].iter().map(|row| row[0].clone()).collect();
    assert_eq!(
        epochs,
        (1..=EPOCHS).map(|epoch| epoch.to_string()).collect::<Vec<_>>(),
        "a gap or a double row"
    );
    assert_eq!(rows, whole().history);
    assert!(fs::read(trial(study, "model.onnx")).unwrap() == whole().model, "the model's bytes differ");
    let trials = Study::open(study).unwrap().trials().unwrap();
    assert_eq!(trials[0].state, State::Complete);
    let reported: Vec<u64> = trials[0].intermediate_values.iter().map(|(epoch, _)| *epoch).collect();
    assert_eq!(reported, (1..=EPOCHS as u64).collect::<Vec<_>>());
}

#[test]
fn a_training_killed_at_any_moment_ends_with_the_same_model_and_history() {
    let time = whole().time;
    eprintln!("a training takes {time:?}");
    let mut random = shared::random::stream(8, "kills", &[]);
    for _ in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let study = folder.path().join("study");
        long(&study);
        let mut child = start(&study);
        std::thread::sleep(time.mul_f64(random.random_range(0.05..1.0)));
        child.kill().unwrap();
        child.wait().unwrap();
        goes_on_as_if_nothing_had_happened(&study);
    }
}

#[test]
fn a_signal_leaves_a_checkpoint_of_that_very_step_and_exit_code_75() {
    whole();
    for (signal, epochs) in [("TERM", 1), ("USR1", 3)] {
        let folder = tempfile::tempdir().unwrap();
        let study = folder.path().join("study");
        long(&study);
        let child = command(&study, 2).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while fs::read_to_string(trial(&study, "history.csv")).map_or(0, |text| text.lines().count())
            <= epochs
        {
            assert!(begun.elapsed() < Duration::from_secs(100), "no epoch ends");
            std::thread::sleep(Duration::from_millis(2));
        }
        let begin = Instant::now();
        assert!(
            Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success()
        );
        let output = child.wait_with_output().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "{signal}: it took {:?}", begin.elapsed());
        assert_eq!(output.status.code(), Some(75), "{signal}: {}", words(&output));
        let said = words(&output);
        assert!(said.contains("stopped: trial 0: stopped by a signal in epoch "), "{said}");
        assert!(trial(&study, "checkpoint.safetensors").exists());
        assert_eq!(Study::open(&study).unwrap().trials().unwrap()[0].state, State::Waiting);
        goes_on_as_if_nothing_had_happened(&study);
    }
}

#[test]
fn a_loss_that_is_not_finite_fails_the_trial_and_the_study_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("study");
    let study = study(&place, json!({}), json!({ "learning_rate": { "choice": [1e30] } }));
    let output = run(&place);
    assert_eq!(output.status.code(), Some(1));
    let found = words(&output);
    let start = "error: trial 0: the loss is not a finite number at epoch 1, step 2; the largest gradient until then was ";
    let message = found.lines().find(|line| line.starts_with(start));
    let message = message.unwrap_or_else(|| panic!("{found}"));
    assert!(message.ends_with("`; use a smaller learning rate or `global_clipnorm`"), "{message}");
    assert!(
        message.contains(", of `") && message.contains(".weight`") || message.contains(".bias`"),
        "{message}"
    );
    assert_eq!(study.trials().unwrap()[0].state, State::Fail);
    let result: Value = serde_json::from_slice(&fs::read(trial(&place, "result.json")).unwrap()).unwrap();
    assert_eq!(result["state"], "FAIL");
    assert!(result["reason"].as_str().unwrap().contains("epoch 1, step 2"), "{result}");
    assert!(!trial(&place, "model.onnx").exists());
}

#[test]
fn a_precision_that_needs_a_gpu_is_refused_on_the_cpu_and_the_trial_stays_free() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study");
    study(&path, json!({ "epochs": 1 }), json!({}));
    for precision in ["fp16", "tf32"] {
        let output = command(&path, 1).args(["--precision", precision]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let expected =
            format!("error: precision {precision} needs a GPU, the device is cpu; use `--precision f32`");
        assert!(words(&output).contains(&expected), "{}", words(&output));
    }
    assert_eq!(run(&path).status.code(), Some(0));
}

#[test]
fn the_space_can_hold_the_batch_size_and_the_training_honours_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("study");
    let space = json!({ "batch_size": { "choice": [64, 100] }, "weight_decay": { "log_uniform": [0.0001, 0.01] },
        "label_smoothing": [0.0, 0.1], "focal_gamma": [2], "global_clipnorm": [1.0], "warmup_epochs": [0.5, 1] });
    let study = study(&place, json!({ "epochs": 1, "batch_size": 7 }), space);
    study.ask(3).unwrap();
    let rows: usize = {
        let manifest = fs::read(data().join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["splits"]["train"]["rows"].as_u64().unwrap() as usize
    };
    let mut sizes = Vec::new();
    for number in 0..4 {
        let file: Value =
            serde_json::from_slice(&fs::read(place.join(format!("trials/{number:04}/trial.json"))).unwrap())
                .unwrap();
        let size = file["params"]["batch_size"].as_u64().unwrap() as usize;
        assert!([64, 100].contains(&size), "{size}");
        sizes.push(size);
    }
    sizes.dedup();
    assert!(sizes.len() > 1, "the search proposes one size only");
    let output = run(&place);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    assert_eq!(history(&place)[1][1], rows.div_ceil(sizes[0]).to_string(), "steps of one epoch");
}

#[test]
fn every_setting_reaches_the_training() {
    let result = |parameters: Value| {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("study");
        study(&place, parameters, json!({}));
        let output = run(&place);
        assert_eq!(output.status.code(), Some(0), "{}", words(&output));
        history(&place)[1..].iter().map(|row| row.join(",")).collect::<Vec<_>>()
    };
    let plain = result(json!({ "epochs": 1 }));
    for parameters in [
        json!({ "learning_rate_schedule": "cosine" }),
        json!({ "learning_rate_schedule": "one_cycle" }),
        json!({ "learning_rate_schedule": { "warmup_steps": 5 } }),
        json!({ "class_weight": "balanced" }),
        json!({ "class_weight": { "1": 2 } }),
        json!({ "focal_loss": {} }),
        json!({ "label_smoothing": 0.1 }),
        json!({ "weight_decay": 0.1 }),
        json!({ "clipvalue": 0.001 }),
        json!({ "clipnorm": 0.01 }),
        json!({ "global_clipnorm": 0.01 }),
    ] {
        let mut changed = parameters.clone();
        merge(&mut changed, json!({ "epochs": 1 }));
        assert_ne!(result(changed), plain, "{parameters} changes nothing");
    }
}

#[test]
fn the_folder_of_the_long_training_holds_its_curves() {
    let events = fs::read(trial(&whole().folder.path().join("study"), "events.out.tfevents.0")).unwrap();
    let count = events.windows(6).filter(|bytes| bytes == b"val_f1").count();
    assert_eq!(count, EPOCHS, "one value an epoch");
}
