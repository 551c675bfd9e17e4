//! The life of a study, seen through the library.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use shared::config::Config;
use shared::study::{Claim, Created, Next, Options, Outcome, State, Study, StudyError};

#[expect(clippy::needless_pass_by_value, reason = "so that tests read `config(json!(…))`")]
fn config(space: Value) -> Config {
    Config::from_value(&json!({ "model_parameters": { "hp_max_evals": 4, "space_options": space } }))
        .expect("the config is good")
}

/// A space of four points.
fn small() -> Value {
    json!({ "n_conv_layers": [1, 2], "n_dense_layers": [1], "n_filters": [8, 16], "kernel_size": [3],
            "n_dense_units": [8], "learning_rate": [0.001], "decay_rate": [0.95] })
}

fn create(dir: &Path, space: Value) -> Study {
    match Study::create(dir, &config(space), &Options::default()).expect("the config is good") {
        Created::New(study) => study,
        Created::Exists(..) => panic!("the folder was fresh"),
    }
}

fn run(study: &Study) -> shared::study::Lease {
    match study.next().expect("the study can be read") {
        Next::Run(lease) => lease,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_seed_asks_for_the_same_trials_in_any_number_of_calls() {
    let folder = tempfile::tempdir().unwrap();
    let a = create(&folder.path().join("a"), Config::default().model_parameters.space_options.into());
    let b = create(&folder.path().join("b"), Config::default().model_parameters.space_options.into());
    assert_eq!(a.ask(3).unwrap(), [0, 1, 2]);
    for number in 0..3 {
        assert_eq!(Study::open(b.dir()).unwrap().ask(1).unwrap(), [number]);
    }
    let params = |study: &Study| {
        study.trials().unwrap().iter().map(shared::study::TrialRecord::params).collect::<Vec<_>>()
    };
    assert_eq!(params(&a), params(&b));
    assert_ne!(params(&a)[0], params(&a)[1]);
}

#[test]
fn a_discrete_space_is_tried_without_repeats_and_then_spent() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("s");
    let study = create(&dir, small());
    let config = config(small());
    let Created::Exists(study, notes) =
        Study::create(&dir, &config, &Options { budget: Some(100), ..Options::default() }).unwrap()
    else {
        panic!("{study:?}")
    };
    assert_eq!(notes, ["budget: 4 → 100"]);
    let mut seen = Vec::new();
    while let Next::Run(lease) = study.next().unwrap() {
        assert!(!seen.contains(&lease.trial().params), "{:?} was tried twice", lease.trial().params);
        seen.push(lease.trial().params.clone());
        lease.tell(Outcome::Complete { value: 0.5 }).unwrap();
    }
    assert_eq!(seen.len(), 4);
    assert!(matches!(study.ask(1), Err(StudyError::Exhausted)));
}

#[test]
fn the_budget_counts_all_but_failed_trials() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), Config::default().model_parameters.space_options.into());
    run(&study).tell(Outcome::Fail { reason: "out of memory".into() }).unwrap();
    assert_eq!(study.ask(9).unwrap(), [1, 2, 3, 4]);
    assert_eq!(study.ask(1).unwrap(), [] as [u64; 0]);
    assert_eq!(study.trials().unwrap()[0].user_attrs["fail_reason"], "out of memory");
}

#[test]
fn a_trial_is_run_by_one_worker_at_a_time_and_finished_once() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), small());
    study.ask(1).unwrap();
    let (again, number) = Study::of_trial(&study.folder_of(0)).unwrap();
    assert_eq!((again.dir(), number), (study.dir(), 0));
    let Claim::Run(lease) = study.claim(0).unwrap() else { panic!("the trial waits") };
    assert!(matches!(again.claim(0).unwrap(), Claim::Busy { .. }));
    assert!(!lease.report(1, 0.7).unwrap());
    lease.give_back().unwrap();
    assert_eq!(study.trials().unwrap()[0].state, State::Waiting);
    let Claim::Run(lease) = again.claim(0).unwrap() else { panic!("the trial waits again") };
    lease.tell(Outcome::Complete { value: f64::NAN }).unwrap();
    assert!(matches!(study.claim(0).unwrap(), Claim::Finished(State::Fail)));
    assert_eq!(study.trials().unwrap()[0].user_attrs["fail_reason"], "the objective is NaN");
    assert_eq!(
        study.claim(7).unwrap_err().to_string(),
        format!("study `{}` has no trial 7; ask for one with `search ask`", study.dir().display())
    );
}

#[test]
fn the_best_model_follows_the_best_trial() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), small());
    for (value, expected) in [(0.8, "0.8"), (0.7, "0.8"), (0.9, "0.9")] {
        let lease = run(&study);
        fs::write(lease.folder().join("model.onnx"), value.to_string()).unwrap();
        lease.tell(Outcome::Complete { value }).unwrap();
        assert_eq!(fs::read_to_string(study.best_model()).unwrap(), expected);
    }
    assert_eq!(study.best().unwrap().unwrap().number, 2);
}

#[test]
fn the_first_training_decides_on_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), small());
    study.check_data("aa").unwrap();
    study.check_data("aa").unwrap();
    assert_eq!(
        study.check_data("bb").unwrap_err().to_string(),
        format!(
            "study `{}` was trained on other data (digest aa, these have bb); give the same split folder, or make a new study",
            study.dir().display()
        )
    );
}

#[test]
fn another_space_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), small());
    let mut other = small();
    other["n_filters"] = json!([8, 32]);
    other["dropout_rate"] = json!([0.1]);
    let error = Study::create(study.dir(), &config(other), &Options::default()).unwrap_err().to_string();
    let dir = study.dir().display();
    assert_eq!(
        error,
        format!(
            "study `{dir}` exists with another configuration:\n  space_options.n_filters: [8,16] → [8,32]\n  space_options.dropout_rate: null → [0.1]\nput the configuration back, or make a new study that starts from this one: `search create --from {dir}`"
        )
    );
}

#[test]
fn impossible_networks_are_never_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut space = small();
    space["n_conv_layers"] = json!([2, 6, 7]);
    let study = create(&folder.path().join("s"), space.clone());
    assert_eq!(study.ask(4).unwrap(), [0, 1]);
    assert!(study.trials().unwrap().iter().all(|trial| trial.params()["n_conv_layers"] == 2));
    assert_eq!(study.trials().unwrap().len(), 2);

    space["n_conv_layers"] = json!([6, 7]);
    let dir = folder.path().join("t");
    let error = Study::create(&dir, &config(space), &Options::default()).unwrap_err().to_string();
    assert!(
        error.starts_with("no network of this space can exist: layer `conv5`: pooling a map of"),
        "{error}"
    );

    let mut lacking = small();
    lacking.as_object_mut().unwrap().remove("kernel_size");
    let error = Study::create(&dir, &config(lacking), &Options::default()).unwrap_err().to_string();
    assert_eq!(
        error,
        "no network of this space can exist: parameter `kernel_size`: missing; add it to `space_options`"
    );
}

#[test]
fn half_lines_of_dead_writers_are_mended() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), small());
    let journal = study.dir().join("journal.log");
    let append = |text: &str| {
        let old = fs::read_to_string(&journal).unwrap();
        fs::write(&journal, old + text).unwrap();
    };
    append(r#"{"op_code":4,"worker_id":"x","stu"#);
    assert_eq!(study.trials().unwrap().len(), 0, "an unfinished line is not looked at");
    study.ask(1).unwrap();
    // Another program goes on behind a half line.
    append(
        "{\"op_code\":4,\"worker_id\":\"x\",\"stu{\"op_code\":9,\"worker_id\":\"y\",\"trial_id\":0,\"system_attr\":{\"a\":NaN}}\n",
    );
    assert_eq!(study.trials().unwrap()[0].system_attrs["a"], "NaN");
    study.ask(1).unwrap();
    for line in fs::read_to_string(&journal).unwrap().replace("NaN", "null").lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    assert_eq!(Study::open(study.dir()).unwrap().trials().unwrap().len(), 2);
}

#[test]
fn a_journal_is_read_to_its_end_however_long_its_lines_are() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("t"), small());
    assert_eq!(study.ask(1).unwrap(), [0]);
    let journal = study.dir().join("journal.log");
    let mut text = fs::read_to_string(&journal).unwrap();
    // A journal is read in pieces of 4 MB: short lines over some of them, one line over several, half a line at the end.
    let note = |key: usize, value: &str| {
        format!(
            "{{\"op_code\":8,\"worker_id\":\"x\",\"trial_id\":0,\"user_attr\":{{\"k{key}\":\"{value}\"}}}}\n"
        )
    };
    text.extend((0..90_000).map(|key| note(key % 100, "a note")));
    text += &note(100, &"long ".repeat(2_500_000));
    text += &note(101, "the last");
    text += &note(102, &"half ".repeat(1_000_000))[..5_000_000];
    fs::write(&journal, text).unwrap();
    for reader in [&study, &Study::open(study.dir()).unwrap()] {
        let notes = &reader.trials().unwrap()[0].user_attrs;
        assert_eq!(notes.len(), 102);
        assert_eq!(notes["k100"].as_str().map(str::len), Some(12_500_000));
        assert_eq!(notes["k101"], "the last");
    }
    assert_eq!(study.ask(1).unwrap(), [1], "the half line is mended");
}

#[test]
fn a_journal_of_a_newer_format_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), small());
    let journal = study.dir().join("journal.log");
    let old = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, format!("{old}{{\"op_code\":11,\"worker_id\":\"x\"}}\n")).unwrap();
    assert_eq!(
        Study::open(study.dir()).unwrap_err().to_string(),
        format!(
            "line 4 of journal `{}` has operation 11, which this program does not know; use a newer program",
            journal.display()
        )
    );
    fs::write(&journal, format!("{old}gibberish\n")).unwrap();
    assert_eq!(
        Study::open(study.dir()).unwrap_err().to_string(),
        format!("line 4 of journal `{}` is broken: expected value at line 1 column 1", journal.display())
    );
}

/// Make a lease look as if a process of another host held it, last touched so many seconds from now.
fn forge_lease(study: &Study, ahead: i64) {
    let path = study.folder_of(0).join("lease");
    let mut lease: Value = serde_json::from_slice(&fs::read(&path).expect("a lease")).expect("JSON");
    lease["process"] = json!("ffffffffffff.1.1");
    lease["worker"] = json!("elsewhere:1");
    let forged = path.with_file_name("forged");
    fs::write(&forged, lease.to_string()).expect("writable");
    touch(&forged, ahead);
    fs::rename(&forged, &path).expect("writable");
}

fn touch(path: &Path, ahead: i64) {
    let (now, by) = (SystemTime::now(), Duration::from_secs(ahead.unsigned_abs()));
    let time = if ahead < 0 { now - by } else { now + by };
    fs::File::options().write(true).open(path).expect("a lease").set_modified(time).expect("a time");
}

fn with_short_leases(folder: &Path, seconds: f64) -> Study {
    let options = Options { lease_seconds: Some(seconds), ..Options::default() };
    Study::create(folder, &config(small()), &options).expect("the config is good");
    Study::open(folder).expect("the study is there")
}

#[test]
fn a_clock_that_is_behind_does_not_kill_a_living_worker() {
    let folder = tempfile::tempdir().unwrap();
    let study = with_short_leases(&folder.path().join("s"), 0.9);
    let held = run(&study);
    forge_lease(&study, -3600);
    let lease = study.folder_of(0).join("lease");
    let beats = std::thread::spawn(move || {
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50));
            touch(&lease, -3600);
        }
    });
    let other = Study::open(study.dir()).unwrap();
    match other.claim(0).unwrap() {
        Claim::Busy { worker } => assert_eq!(worker, "elsewhere:1"),
        claim => panic!("{claim:?}"),
    }
    beats.join().unwrap();
    let silent = Instant::now();
    let lease = loop {
        match other.claim(0).unwrap() {
            Claim::Run(lease) => break lease,
            _ => assert!(silent.elapsed() < Duration::from_secs(10), "nobody touches the lease any more"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(silent.elapsed() >= Duration::from_millis(900), "it was seen alive");
    assert!(held.report(1, 0.5).unwrap_err().is_lost());
    lease.tell(Outcome::Complete { value: 0.7 }).unwrap();
    assert!(held.tell(Outcome::Complete { value: 0.5 }).unwrap_err().is_lost());
    assert_eq!(study.trials().unwrap()[0].value, Some(0.7));
}

#[test]
fn a_clock_that_is_ahead_does_not_keep_a_dead_worker_alive() {
    let folder = tempfile::tempdir().unwrap();
    let study = with_short_leases(&folder.path().join("s"), 0.4);
    let _held = run(&study);
    forge_lease(&study, 3600);
    let other = Study::open(study.dir()).unwrap();
    let start = Instant::now();
    let Claim::Run(lease) = other.claim(0).unwrap() else { panic!("nobody touches the lease") };
    assert!(start.elapsed() >= Duration::from_millis(400), "it was watched for a whole lease");
    assert_eq!(study.trials().unwrap()[0].retries(), 1);
    lease.tell(Outcome::Complete { value: 0.7 }).unwrap();
}

#[test]
fn what_a_killed_worker_left_is_removed_when_its_trial_is_claimed_again() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), small());
    study.ask(1).unwrap();
    let this = fs::read_dir(study.dir().join(".workers")).unwrap().next().unwrap().unwrap().file_name();
    let this = this.to_str().unwrap();
    let ended = format!("{}.1", this.rsplit_once('.').unwrap().0);
    let file = |process: &str| study.folder_of(0).join(format!(".checkpoint.safetensors.{process}.x.tmp"));
    let elsewhere = "0123456789ab.7.99";
    for process in [this, &ended, elsewhere] {
        fs::write(file(process), "half").unwrap();
    }
    let Claim::Run(lease) = study.claim(0).unwrap() else { panic!("the trial waits") };
    let left = [this, &ended, elsewhere].map(|process| file(process).exists());
    assert_eq!(left, [true, false, true], "only the writer that has ended is known to be gone");

    let old = fs::File::options().write(true).open(file(elsewhere)).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_hours(2)).unwrap();
    lease.give_back().unwrap();
    assert!(matches!(study.claim(0).unwrap(), Claim::Run(_)));
    assert!(!file(elsewhere).exists() && file(this).exists());
}
