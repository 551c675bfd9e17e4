//! Samplers, importance and warm start against what is known about them.

use std::fs;

use serde_json::{Map, Value, json};
use shared::config::Config;
use shared::study::distribution::Distribution;
use shared::study::importance::fanova;
use shared::study::record::{Param, State, TrialRecord};
use shared::study::sampler::{History, Sampler, SamplerKind, params_of};
use shared::study::space::{Condition, Parameter, Space};
use shared::study::{Created, Next, Options, Outcome, Study};

fn parameter(name: &str, distribution: Distribution) -> Parameter {
    Parameter { name: name.into(), distribution, when: None }
}

fn float(name: &str) -> Parameter {
    parameter(name, Distribution::Float { low: 0.0, high: 1.0, log: false, step: None })
}

fn choice(name: &str, choices: &[i64]) -> Parameter {
    parameter(name, Distribution::Categorical { choices: choices.iter().map(|&c| json!(c)).collect() })
}

/// Trials of a study in memory that minimises a function.
fn minimise(
    kind: SamplerKind,
    space: &Space,
    trials: u64,
    value: impl Fn(&Map<String, Value>) -> f64,
) -> Vec<TrialRecord> {
    let mut records: Vec<TrialRecord> = Vec::new();
    for number in 0..trials {
        let history = History { trials: &records, maximise: false };
        let sampler = Sampler { kind, seed: 5, space, check: &|_| Ok(()) };
        let Ok(point) = sampler.draw(number, &history) else { break };
        let value = value(&params_of(space, &point));
        let params = space.parameters.iter().zip(&point).filter_map(|(parameter, internal)| {
            let distribution = parameter.distribution.clone().into();
            Some(Param { name: parameter.name.as_str().into(), distribution, internal: (*internal)? })
        });
        records.push(TrialRecord {
            number,
            state: State::Complete,
            params: params.collect(),
            value: Some(value),
            intermediate_values: Vec::new(),
            started: None,
            completed: None,
            user_attrs: Map::new(),
            system_attrs: Map::new(),
            owner: None,
        });
    }
    records
}

fn get(params: &Map<String, Value>, name: &str) -> f64 {
    params[name].as_f64().expect("a number")
}

#[test]
fn tpe_closes_in_on_the_minimum_and_random_does_not() {
    let space = Space { parameters: vec![float("x"), float("y"), choice("c", &[0, 1, 2])] };
    let bowl = |p: &Map<String, Value>| {
        (get(p, "x") - 0.3).powi(2) + (get(p, "y") - 0.8).powi(2) + 0.1 * (get(p, "c") - 1.0).abs()
    };
    let best = |kind: SamplerKind| {
        let trials = minimise(kind, &space, 80, bowl);
        trials.iter().filter_map(|trial| trial.value).fold(f64::INFINITY, f64::min)
    };
    let (tpe, random) = (best(SamplerKind::Tpe), best(SamplerKind::Random));
    assert!(tpe < 0.1 * random, "best of 80: TPE {tpe}, random {random}");
}

#[test]
fn conditional_parameters_are_drawn_only_when_they_matter() {
    let mut extra = float("extra");
    extra.when = Some(Condition { parameter: "c".into(), values: vec![json!(2)] });
    let space = Space { parameters: vec![float("x"), choice("c", &[1, 2]), extra] };
    let value = |p: &Map<String, Value>| {
        get(p, "x") + p.get("extra").map_or(0.5, |extra| (extra.as_f64().unwrap() - 0.2).abs())
    };
    for kind in [SamplerKind::Random, SamplerKind::Tpe, SamplerKind::Sobol] {
        let trials = minimise(kind, &space, 60, value);
        for trial in &trials {
            let params = trial.params();
            assert_eq!(params.contains_key("extra"), params["c"] == 2, "{kind:?}: {params:?}");
        }
        assert!(trials.iter().any(|trial| trial.params.len() == 3));
        assert!(trials.iter().any(|trial| trial.params.len() == 2));
    }
}

#[test]
fn a_range_of_one_number_is_always_that_number() {
    let fixed = parameter("fixed", Distribution::Float { low: 0.1, high: 0.1, log: true, step: None });
    let space = Space { parameters: vec![float("x"), fixed] };
    for kind in [SamplerKind::Random, SamplerKind::Tpe, SamplerKind::Sobol] {
        let trials = minimise(kind, &space, 30, |p| (get(p, "x") - 0.3).powi(2));
        assert_eq!(trials.len(), 30);
        assert!(trials.iter().all(|trial| trial.params()["fixed"] == 0.1), "{kind:?}");
    }
}

#[test]
fn the_grid_has_every_point_once_with_five_levels_of_a_range() {
    let space = Space { parameters: vec![choice("c", &[1, 2, 3]), float("x")] };
    let trials = minimise(SamplerKind::Grid, &space, 100, |_| 0.0);
    assert_eq!(trials.len(), 15);
    let xs: Vec<f64> = trials[..5].iter().map(|trial| get(&trial.params(), "x")).collect();
    assert_eq!(xs, [0.0, 0.25, 0.5, 0.75, 1.0]);
}

#[test]
fn sobol_points_are_spread_more_evenly_than_random_ones() {
    let space = Space { parameters: vec![float("x"), float("y")] };
    let cells = |kind: SamplerKind| {
        let mut cells: Vec<u64> = minimise(kind, &space, 64, |_| 0.0)
            .iter()
            .map(|t| (get(&t.params(), "x") * 8.0) as u64 * 8 + (get(&t.params(), "y") * 8.0) as u64)
            .collect();
        cells.sort_unstable();
        cells.dedup();
        cells.len()
    };
    assert_eq!(cells(SamplerKind::Sobol), 64, "each cell of 8 x 8 has one point");
    assert!(cells(SamplerKind::Random) < 52);
}

#[test]
fn importance_is_the_share_of_the_variance() {
    let space = Space { parameters: vec![float("x"), float("y"), choice("c", &[0, 1])] };
    let value = |p: &Map<String, Value>| 3.0 * get(p, "x") + get(p, "y");
    let importances = fanova(&space, &minimise(SamplerKind::Random, &space, 300, value), 0);
    let share = |name: &str| importances.iter().find(|(of, _)| of == name).unwrap().1;
    // Variances of 3x and y are as 9 to 1.
    assert!((share("x") - 0.9).abs() < 0.03, "{importances:?}");
    assert!((share("y") - 0.1).abs() < 0.03, "{importances:?}");
    assert!(share("c") < 0.01, "{importances:?}");
    assert_eq!(importances[0].0, "x");
    assert!(fanova(&space, &[], 0).is_empty());
}

fn create(dir: &std::path::Path, options: &Options) -> Study {
    match Study::create(dir, &Config::default(), options).expect("the config is good") {
        Created::New(study) => study,
        Created::Exists(..) => panic!("the folder was fresh"),
    }
}

#[test]
fn a_warm_start_teaches_the_sampler_and_counts_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let old = create(&folder.path().join("old"), &Options { budget: Some(12), ..Options::default() });
    while let Next::Run(lease) = old.next().unwrap() {
        let value = 0.9 - lease.trial().learning_rate().unwrap();
        lease.tell(Outcome::Complete { value }).unwrap();
    }
    let new = create(&folder.path().join("new"), &Options { budget: Some(2), ..Options::default() });
    let sum = new.import_study(old.dir()).unwrap();
    assert_eq!((sum.finished, sum.waiting, sum.left_out), (12, 0, 0));
    assert_eq!(new.import_study(old.dir()).unwrap().finished, 0, "not twice");
    assert!(new.best().unwrap().is_none());
    assert_eq!(new.ask(5).unwrap(), [12, 13]);

    let cold = create(&folder.path().join("cold"), &Options { budget: Some(20), ..Options::default() });
    cold.ask(14).unwrap();
    let params = |study: &Study| study.trials().unwrap()[12].params();
    assert_ne!(params(&new), params(&cold), "the sampler has learnt");
}

#[test]
fn peoples_own_lists_are_tried_first_or_learnt_from() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), &Options::default());
    let csv = folder.path().join("trials.csv");
    fs::write(
        &csv,
        "n_conv_layers,n_dense_layers,n_filters,kernel_size,n_dense_units,dropout_rate,learning_rate,decay_rate,loss\n\
         2,2,128,3,64,0.1,0.000522,0.9581,-0.917\n\
         2,2,128,3,64,0.1,0.0006,0.9581,\n\
         2,2,999,3,64,0.1,0.0006,0.9581,-0.9\n",
    )
    .unwrap();
    let sum = study.import_rows(&csv).unwrap();
    assert_eq!((sum.finished, sum.waiting, sum.left_out), (1, 1, 1));
    let trials = study.trials().unwrap();
    assert_eq!((trials[0].state, trials[0].value), (State::Complete, Some(0.917)));
    let Next::Run(lease) = study.next().unwrap() else { panic!("a trial waits") };
    assert_eq!(lease.number(), 1);
    assert!((lease.trial().learning_rate().unwrap() - 0.0006).abs() < 1e-12);

    let list = folder.path().join("trials.json");
    fs::write(&list, r#"[{"params": {"n_filters": 64, "kernel_size": 5}}]"#).unwrap();
    assert_eq!(study.import_rows(&list).unwrap().waiting, 1);
    let params = study.trials().unwrap()[2].params();
    assert_eq!((&params["n_filters"], &params["kernel_size"]), (&json!(64), &json!(5)));
    assert_eq!(params.len(), 8, "the rest is drawn");
}

#[test]
fn a_study_without_progress_stops_and_one_with_a_full_house_waits() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), &Options { stop_after: Some(3), ..Options::default() });
    for value in [0.5, 0.7, 0.6, 0.6, 0.6] {
        let Next::Run(lease) = study.next().unwrap() else { panic!("there is room") };
        lease.tell(Outcome::Complete { value }).unwrap();
    }
    assert!(matches!(study.next().unwrap(), Next::Spent));

    let study = create(&folder.path().join("t"), &Options { max_in_flight: Some(1), ..Options::default() });
    let Next::Run(lease) = study.next().unwrap() else { panic!("there is room") };
    assert!(matches!(study.next().unwrap(), Next::Wait));
    lease.tell(Outcome::Pruned).unwrap();
    assert!(matches!(study.next().unwrap(), Next::Run(_)));
}

#[test]
fn hyperopts_own_documents_teach_the_sampler() {
    let folder = tempfile::tempdir().unwrap();
    let study = create(&folder.path().join("s"), &Options::default());
    let document = |filters: Value, result: Value| {
        json!({ "state": 2, "tid": 0, "spec": null, "result": result, "book_time": "2026-01-02 03:04:05",
                "misc": { "tid": 0, "cmd": ["domain_attachment", "FMinIter_Domain"], "vals": {
                    "n_conv_layers": [0], "n_dense_layers": [1], "n_filters": filters, "kernel_size": [0],
                    "n_dense_units": ["2"], "dropout_rate": [3], "learning_rate": [0.000_522],
                    "decay_rate": [0.9581], "of_another_search": [7] } } })
    };
    let list = folder.path().join("hyperopt.json");
    let documents = json!([
        document(json!([2]), json!({ "loss": -0.917, "status": "ok" })),
        document(json!([4]), json!({ "loss": -0.9, "status": "ok" })),
        document(json!([1]), json!({ "loss": -0.9, "status": "fail" })),
        document(json!([]), json!({ "loss": -0.9, "status": "ok" })),
    ]);
    fs::write(&list, documents.to_string()).unwrap();
    let sum = study.import_rows(&list).unwrap();
    assert_eq!((sum.finished, sum.waiting, sum.left_out), (1, 0, 3), "no fifth choice, a failure, a gap");
    let trial = &study.trials().unwrap()[0];
    assert_eq!(trial.value, Some(0.917));
    assert_eq!(
        Value::from(trial.params()),
        json!({ "n_conv_layers": 2, "n_dense_layers": 3, "n_filters": 128, "kernel_size": 3, "n_dense_units": 256,
                "dropout_rate": 0.4, "learning_rate": 0.000_522, "decay_rate": 0.9581 }),
        "choices are indices"
    );
}

const FANOVA_OF_OPTUNA: &str = r"
import json, sys, warnings, optuna
warnings.simplefilter('ignore')
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(sys.argv[1]))
study = optuna.load_study(study_name=None, storage=storage)
of = optuna.importance.FanovaImportanceEvaluator
print(json.dumps([of(seed=seed).evaluate(study) for seed in range(8)]))
";

/// Mean of some numbers, and the variance of the mean.
fn mean(numbers: &[f64]) -> (f64, f64) {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    (mean, numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n)
}

#[test]
fn importance_is_what_optuna_finds_in_the_same_journal() {
    let Some(python) = std::env::var_os("MTID_TEST_PYTHON") else {
        assert!(std::env::var_os("CI").is_none(), "MTID_TEST_PYTHON must name a Python with optuna");
        eprintln!("skipped the comparison with Optuna: MTID_TEST_PYTHON is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let options =
        Options { budget: Some(60), sampler: Some(SamplerKind::Random), seed: Some(3), ..Options::default() };
    let study = create(&folder.path().join("s"), &options);
    while let Next::Run(lease) = study.next().unwrap() {
        let params = &lease.trial().params;
        let value = 100.0 * get(params, "learning_rate")
            + 0.1 * (get(params, "n_filters") / 32.0).log2() * (get(params, "kernel_size") - 4.0)
            + 5.0 * get(params, "decay_rate");
        lease.tell(Outcome::Complete { value }).unwrap();
    }
    let script = ["-c", FANOVA_OF_OPTUNA];
    let output = std::process::Command::new(python)
        .args(script)
        .arg(study.dir().join("journal.log"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<Map<String, Value>> = serde_json::from_slice(&output.stdout).unwrap();
    let trials = study.trials().unwrap();
    let ours: Vec<Vec<(String, f64)>> = (0..8).map(|seed| fanova(study.space(), &trials, seed)).collect();
    for parameter in &study.space().parameters {
        let name = parameter.name.as_str();
        let of_ours = |forest: &Vec<(String, f64)>| forest.iter().find(|(of, _)| of == name).unwrap().1;
        let (a, a_variance) = mean(&ours.iter().map(of_ours).collect::<Vec<f64>>());
        let (b, b_variance) = mean(&theirs.iter().map(|forest| get(forest, name)).collect::<Vec<f64>>());
        // Both are means over random forests: four standard errors of their difference, and a little.
        let tolerance = 4.0 * (a_variance + b_variance).sqrt() + 0.004;
        assert!((a - b).abs() < tolerance, "{name}: {a:.4} here, {b:.4} in Optuna, tolerance {tolerance:.4}");
    }
}
