//! Workers as processes of their own: many at once, killed at random, or asleep for too long.
//!
//! A worker is this test binary again, told by the environment to be one.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use shared::config::Config;
use shared::study::{Created, Next, Options, Outcome, State, Study};

/// Epochs of a worker's trial.
const EPOCHS: u64 = 8;

/// The process that a test starts; does nothing when run as a test.
#[test]
fn worker_process() {
    let Ok(dir) = std::env::var("MTID_TEST_WORKER_STUDY") else { return };
    let epoch = std::env::var("MTID_TEST_WORKER_EPOCH_MS").unwrap().parse().unwrap();
    work(Path::new(&dir), Duration::from_millis(epoch));
}

/// Train trials as `train` does: report every epoch, keep a checkpoint, tell.
fn work(dir: &Path, epoch: Duration) {
    let study = Study::open(dir).expect("the study exists");
    loop {
        let lease = match study.next().expect("the study can be read") {
            Next::Run(lease) => lease,
            Next::Wait => {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            Next::Spent => return,
        };
        let checkpoint = lease.folder().join("checkpoint");
        let done: u64 = fs::read_to_string(&checkpoint).map_or(0, |text| text.parse().expect("a number"));
        let rate = lease.trial().learning_rate().expect("the space has a rate");
        let mut lost = false;
        for step in done + 1..=EPOCHS {
            std::thread::sleep(epoch);
            log(lease.folder(), &format!("epoch {step}"));
            // First the report, then the checkpoint: a report that is lost with its worker is made again.
            match lease.report(step, rate * step as f64) {
                Ok(_) => {
                    shared::files::write_bytes(&checkpoint, step.to_string().as_bytes()).expect("writable");
                }
                Err(error) if error.is_lost() => {
                    lost = true;
                    break;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        if lost {
            log(dir, "lost");
            continue;
        }
        fs::write(lease.folder().join("model.onnx"), format!("model {}", lease.number())).expect("writable");
        let folder = lease.folder().to_owned();
        match lease.tell(Outcome::Complete { value: rate }) {
            Ok(()) => log(&folder, "told"),
            Err(error) => assert!(error.is_lost(), "{error}"),
        }
    }
}

fn log(folder: &Path, line: &str) {
    let mut file =
        fs::OpenOptions::new().append(true).create(true).open(folder.join("worker.log")).expect("writable");
    writeln!(file, "{line}").expect("writable");
}

fn study(dir: &Path, budget: u64, lease_seconds: f64) -> Study {
    let options = Options {
        budget: Some(budget),
        lease_seconds: Some(lease_seconds),
        retry_limit: Some(100),
        ..Options::default()
    };
    match Study::create(dir, &Config::default(), &options).expect("the config is good") {
        Created::New(study) => study,
        Created::Exists(..) => panic!("the folder was fresh"),
    }
}

fn spawn(dir: &Path, epoch_ms: u64) -> Child {
    Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "worker_process", "--nocapture"])
        .env("MTID_TEST_WORKER_STUDY", dir)
        .env("MTID_TEST_WORKER_EPOCH_MS", epoch_ms.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("the test binary runs")
}

/// Paths of the stress test's folder: `MTID_TEST_STUDY_FOLDER` puts it on another file system; it may name several paths
/// of the same folder, such as mounts of two NFS clients, with colons between them.
fn stress_folders() -> (Option<tempfile::TempDir>, Vec<PathBuf>) {
    if let Some(folders) = std::env::var_os("MTID_TEST_STUDY_FOLDER") {
        return (None, std::env::split_paths(&folders).collect());
    }
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let path = temporary.path().join("study");
    (Some(temporary), vec![path])
}

#[test]
fn eight_workers_of_which_one_dies_every_second_finish_every_trial_once() {
    let (_keep, dirs) = stress_folders();
    let dir = dirs[0].clone();
    let study = study(&dir, 200, 20.0);
    let mut workers: Vec<Child> = (0..8).map(|at| spawn(&dirs[at % dirs.len()], 50)).collect();
    let mut killed = 0;
    let (start, mut last_kill) = (Instant::now(), Instant::now());
    while !workers.is_empty() {
        assert!(start.elapsed() < Duration::from_mins(4), "the workers do not come to an end");
        std::thread::sleep(Duration::from_millis(20));
        if last_kill.elapsed() >= Duration::from_secs(1) {
            last_kill = Instant::now();
            let victim = shared::random::hash(7, "victim", &[killed]) as usize % workers.len();
            workers[victim].kill().unwrap();
            workers[victim].wait().unwrap();
            workers[victim] = spawn(&dirs[killed as usize % dirs.len()], 50);
            killed += 1;
        }
        workers.retain_mut(|worker| match worker.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "a worker crashed");
                false
            }
            None => true,
        });
    }
    assert!(killed >= 5, "only {killed} workers were killed");
    eprintln!("{killed} workers killed, {:.1} s", start.elapsed().as_secs_f64());

    let trials = study.trials().unwrap();
    assert_eq!(trials.len(), 200);
    assert!(trials.iter().all(|trial| trial.state == State::Complete));
    let retried = trials.iter().filter(|trial| trial.retries() > 0).count();
    assert!(retried > 0, "no trial was taken over");
    for trial in &trials {
        check_log(&study, trial.number, trial.retries());
        assert_eq!(trial.value, trial.params()["learning_rate"].as_f64());
        let steps: Vec<u64> = trial.intermediate_values.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=EPOCHS).collect::<Vec<u64>>());
    }
    let best = study.best().unwrap().unwrap();
    assert_eq!(fs::read_to_string(study.best_model()).unwrap(), format!("model {}", best.number));
    assert!(fs::symlink_metadata(dir.join("journal.log.lock")).is_err(), "the lock was left behind");
    assert_eq!(trials.iter().flat_map(|trial| unnamed(&study.folder_of(trial.number))).next(), None);
    optuna_agrees(&dir, &study);
}

/// Temporary files in a folder.
fn unnamed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "tmp")).collect()
}

/// Every epoch ran, in order, again only where a worker died before its checkpoint or report; told at most once.
fn check_log(study: &Study, number: u64, retries: u64) {
    let text = fs::read_to_string(study.folder_of(number).join("worker.log")).expect("the worker has a log");
    let mut counts: HashMap<&str, u64> = HashMap::new();
    text.lines().for_each(|line| *counts.entry(line).or_default() += 1);
    let repeated: u64 = (1..=EPOCHS).map(|step| counts[format!("epoch {step}").as_str()] - 1).sum();
    assert!(repeated <= retries, "trial {number} ran {repeated} epochs twice after {retries} deaths");
    assert!(counts.get("told").is_none_or(|&told| told == 1), "trial {number} was told twice");
}

const READ_WITH_OPTUNA: &str = r"
import json, sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(sys.argv[1]))
study = optuna.load_study(study_name=None, storage=storage)
print(json.dumps([{'number': t.number, 'state': t.state.name, 'value': t.value, 'params': t.params,
                   'steps': sorted(t.intermediate_values.items())} for t in study.trials]))
";

fn optuna_agrees(dir: &Path, study: &Study) {
    let Some(python) = python() else { return };
    let output = Command::new(python)
        .args(["-c", READ_WITH_OPTUNA])
        .arg(dir.join("journal.log"))
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).expect("Python prints JSON");
    let ours: Vec<serde_json::Value> = study
        .trials()
        .expect("the journal is read")
        .iter()
        .map(|t| {
            json!({ "number": t.number, "state": t.state.name(), "value": t.value, "params": t.params(),
                    "steps": t.intermediate_values })
        })
        .collect();
    assert_eq!(theirs, json!(ours));
}

/// Python with Optuna; without it the comparison is skipped, but never where all checks must run.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("MTID_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        assert!(std::env::var_os("CI").is_none(), "MTID_TEST_PYTHON must name a Python with optuna");
        eprintln!("skipped the comparison with Optuna: MTID_TEST_PYTHON is not set");
    }
    python
}

#[test]
fn a_worker_that_slept_for_too_long_loses_its_trial_and_goes_on_with_another() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("study");
    let study = study(&dir, 3, 1.0);
    let mut sleeper = spawn(&dir, 200);
    let start = Instant::now();
    while study.trials().unwrap().iter().all(|trial| trial.intermediate_values.is_empty()) {
        assert!(start.elapsed() < Duration::from_secs(20), "the worker does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&sleeper, "STOP");
    // The sleeper's process is there, so only its silence says that it is gone.
    assert!(matches!(study.claim(0).unwrap(), shared::study::Claim::Busy { .. }));
    std::thread::sleep(Duration::from_millis(1500));
    let shared::study::Claim::Run(lease) = study.claim(0).unwrap() else { panic!("the lease has run out") };
    signal(&sleeper, "CONT");
    while !fs::read_to_string(dir.join("worker.log")).is_ok_and(|text| text.contains("lost")) {
        assert!(start.elapsed() < Duration::from_secs(20), "the sleeper does not notice");
        std::thread::sleep(Duration::from_millis(20));
    }
    lease.report(EPOCHS, 9.0).unwrap();
    lease.tell(Outcome::Complete { value: 9.0 }).unwrap();
    assert!(sleeper.wait().unwrap().success(), "the sleeper crashed");
    let trials = study.trials().unwrap();
    assert_eq!(trials[0].value, Some(9.0), "the sleeper's tell was fenced");
    assert_eq!(trials[0].retries(), 1);
    assert!(trials[1..].iter().all(|trial| trial.state == State::Complete && trial.retries() == 0));
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .expect("kill starts");
    assert!(status.success());
}

const WORK_WITH_OPTUNA: &str = r"
import json, sys, time, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(sys.argv[1]))
study = optuna.load_study(study_name=None, storage=storage)
numbers = []
for _ in range(15):
    trial = study.ask()
    rate = trial.suggest_float('learning_rate', 0.0001, 0.005)
    for step in range(1, 9):
        trial.report(rate * step, step)
    study.tell(trial, rate)
    numbers.append(trial.number)
    while len(study.trials) < 2:
        time.sleep(0.01)  # until the other program works, too
print(json.dumps(numbers))
";

#[test]
fn optuna_works_on_the_same_journal_at_the_same_time() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("study");
    let study = study(&dir, 60, 20.0);
    let optuna = Command::new(python)
        .args(["-c", WORK_WITH_OPTUNA])
        .arg(dir.join("journal.log"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while study.trials().unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_mins(2), "Optuna does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut worker = spawn(&dir, 5);
    assert!(worker.wait().unwrap().success(), "the worker crashed");
    let output = optuna.wait_with_output().unwrap();
    assert!(output.status.success(), "Optuna crashed");

    let theirs: Vec<u64> = serde_json::from_slice(&output.stdout).unwrap();
    let trials = study.trials().unwrap();
    assert_eq!(theirs.len(), 15);
    assert!(trials.len() >= 60, "the budget counts the trials of both");
    let is_ours = |number: u64| study.folder_of(number).join("worker.log").exists();
    assert!(theirs[1] > 1, "Optuna waited until the worker had begun");
    assert!((theirs[1]..trials.len() as u64).any(is_ours), "the worker had ended by then: {theirs:?}");
    for trial in &trials {
        assert_eq!(trial.state, State::Complete, "trial {}", trial.number);
        assert_ne!(is_ours(trial.number), theirs.contains(&trial.number), "trial {}", trial.number);
        assert_eq!(trial.value, trial.params()["learning_rate"].as_f64());
        assert_eq!(trial.intermediate_values.len() as u64, EPOCHS);
        if is_ours(trial.number) {
            check_log(&study, trial.number, 0);
        }
    }
    optuna_agrees(&dir, &study);
}
