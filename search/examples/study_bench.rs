//! Measures the study: `make DIR TRIALS`, `read DIR`, `ask-tell DIR`, `sampler FUNCTION SEEDS TRIALS SAMPLER`.
//!
//! `scripts/bench/search_optuna.py` does the same with Optuna.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value, json};
use shared::config::Config;
use shared::study::distribution::Distribution;
use shared::study::record::{Param, State, TrialRecord};
use shared::study::sampler::{History, Sampler, SamplerKind, params_of};
use shared::study::space::{Parameter, Space};
use shared::study::{Next, Options, Outcome, Study};

type Outcomes = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcomes {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<&str>>()[..] {
        ["make", dir, trials] => make(Path::new(dir), trials.parse()?),
        ["read", dir] => read(Path::new(dir)),
        ["ask-tell", dir] => ask_tell(Path::new(dir)),
        ["sampler", function, seeds, trials, sampler] => {
            sample(function, seeds.parse()?, trials.parse()?, sampler)
        }
        _ => Err("give make, read, ask-tell or sampler; see the source".into()),
    }
}

/// A study of v4's space with so many complete trials of 20 reported epochs.
fn make(dir: &Path, trials: u64) -> Outcomes {
    let options = Options { budget: Some(trials), sampler: Some(SamplerKind::Random), ..Options::default() };
    Study::create(dir, &Config::default(), &options)?;
    let study = Study::open(dir)?;
    while let Next::Run(lease) = study.next()? {
        let rate = lease.trial().learning_rate()?;
        for step in 1..=20 {
            lease.report(step, rate * f64::from(step as u32))?;
        }
        lease.tell(Outcome::Complete { value: rate })?;
    }
    let file = dir.join("study.json");
    let text = std::fs::read_to_string(&file)?.replace("\"random\"", "\"tpe\"");
    std::fs::write(&file, text.replace(&format!("\"budget\": {trials}"), "\"budget\": 1000000000"))?;
    Ok(())
}

fn read(dir: &Path) -> Outcomes {
    let size = std::fs::metadata(dir.join("journal.log"))?.len();
    let seconds = median(9, || {
        let start = Instant::now();
        black_box(Study::open(dir)?);
        Ok(start.elapsed().as_secs_f64())
    })?;
    report(&format!("read {:.1} MB: {:.1} ms", size as f64 / 1e6, seconds * 1e3))
}

fn ask_tell(dir: &Path) -> Outcomes {
    let study = Study::open(dir)?;
    let (mut asks, mut tells) = (Vec::new(), Vec::new());
    let both = median(101, || {
        let start = Instant::now();
        let Next::Run(lease) = study.next()? else { return Err("the budget is spent".into()) };
        asks.push(start.elapsed().as_secs_f64());
        lease.tell(Outcome::Complete { value: 0.5 })?;
        tells.push(start.elapsed().as_secs_f64() - asks[asks.len() - 1]);
        Ok(start.elapsed().as_secs_f64())
    })?;
    report(&format!(
        "ask {:.2} ms, tell {:.2} ms, both {:.2} ms (medians of 101, {} trials)",
        middle(&mut asks) * 1e3,
        middle(&mut tells) * 1e3,
        both * 1e3,
        study.trials()?.len()
    ))
}

fn median(
    times: usize,
    mut run: impl FnMut() -> Result<f64, Box<dyn std::error::Error>>,
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut seconds = (0..times).map(|_| run()).collect::<Result<Vec<f64>, _>>()?;
    Ok(middle(&mut seconds))
}

fn middle(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    if numbers.len() % 2 == 1 { numbers[half] } else { 0.5 * (numbers[half - 1] + numbers[half]) }
}

/// Print the best value after so many trials of each seed, as one JSON list.
fn sample(function: &str, seeds: u64, trials: u64, sampler: &str) -> Outcomes {
    let kind: SamplerKind = serde_json::from_value(json!(sampler))?;
    let (space, value) = function_of(function)?;
    let best: Vec<f64> = (0..seeds).map(|seed| minimum(kind, seed, trials, &space, value)).collect();
    report(&json!(best).to_string())
}

fn minimum(kind: SamplerKind, seed: u64, trials: u64, space: &Space, value: fn(&Params) -> f64) -> f64 {
    let mut records: Vec<TrialRecord> = Vec::new();
    for number in 0..trials {
        let history = History { trials: &records, maximise: false };
        let sampler = Sampler { kind, seed, space, check: &|_| Ok(()) };
        let Ok(point) = sampler.draw(number, &history) else { break };
        let params = params_of(space, &point);
        let drawn = space.parameters.iter().zip(point);
        let params_drawn = drawn.filter_map(|(parameter, internal)| {
            let distribution = parameter.distribution.clone().into();
            Some(Param { name: parameter.name.as_str().into(), distribution, internal: internal? })
        });
        records.push(TrialRecord {
            number,
            state: State::Complete,
            params: params_drawn.collect(),
            value: Some(value(&Params(params))),
            intermediate_values: Vec::new(),
            started: None,
            completed: None,
            user_attrs: Map::new(),
            system_attrs: Map::new(),
            owner: None,
        });
    }
    records.iter().filter_map(|record| record.value).fold(f64::INFINITY, f64::min)
}

/// Parameters by name.
struct Params(Map<String, Value>);

impl Params {
    fn get(&self, name: &str) -> f64 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }
}

type Function = (Space, fn(&Params) -> f64);

/// The same three functions as in `scripts/bench/search_optuna.py`.
fn function_of(name: &str) -> Result<Function, String> {
    let float = |low: f64, high: f64, log: bool| Distribution::Float { low, high, log, step: None };
    let space = |parameters: Vec<(&str, Distribution)>| Space {
        parameters: parameters
            .into_iter()
            .map(|(name, distribution)| Parameter { name: name.into(), distribution, when: None })
            .collect(),
    };
    match name {
        "hartmann6" => {
            let names = ["x0", "x1", "x2", "x3", "x4", "x5"];
            Ok((space(names.map(|name| (name, float(0.0, 1.0, false))).to_vec()), hartmann6))
        }
        "mixed" => {
            let depth = Distribution::Int { low: 1, high: 12, log: false, step: 1 };
            let kind = Distribution::Categorical { choices: vec![0.into(), 1.into(), 2.into()] };
            let parameters = vec![
                ("rate", float(1e-5, 1e-1, true)),
                ("depth", depth),
                ("share", float(0.0, 1.0, false)),
                ("kind", kind),
            ];
            Ok((space(parameters), mixed))
        }
        "network" => {
            let options = Config::default().model_parameters.space_options;
            Ok((Space::from_options(&options).map_err(|error| error.to_string())?, network))
        }
        _ => Err(format!("`{name}` is no function; give hartmann6, mixed or network")),
    }
}

#[rustfmt::skip]
fn hartmann6(p: &Params) -> f64 {
    const ALPHA: [f64; 4] = [1.0, 1.2, 3.0, 3.2];
    const A: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0], [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0], [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const P: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886], [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650], [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    let x: Vec<f64> = (0..6).map(|i| p.get(&format!("x{i}"))).collect();
    let term = |k: usize| {
        let sum: f64 = (0..6).map(|i| A[k][i] * (x[i] - P[k][i]).powi(2)).sum();
        ALPHA[k] * (-sum).exp()
    };
    -(0..4).map(term).sum::<f64>()
}

fn mixed(p: &Params) -> f64 {
    let rate = p.get("rate").log10() + 3.2;
    let depth = (p.get("depth") - 7.0) / 3.0;
    let share = p.get("share") - 0.3;
    let kind = [0.4, 0.0, 0.2][p.get("kind") as usize];
    rate * rate + depth * depth + 0.8 * rate * depth + 5.0 * share * share + kind * (1.0 + share.abs())
}

/// A guess at how the loss of the network depends on its parameters.
fn network(p: &Params) -> f64 {
    let rate = (p.get("learning_rate") / 1.1e-3).log10();
    let width = (p.get("n_filters") / 128.0).log2();
    let depth = p.get("n_conv_layers") - 3.0;
    let decay = (p.get("decay_rate") - 0.962) / 0.03;
    let dropout = (p.get("dropout_rate") - 0.2) / 0.1;
    0.08 * rate * rate
        + 0.004 * width * width
        + 0.006 * depth * depth
        + 0.004 * rate * width
        + 0.003 * decay * decay
        + 0.002 * dropout * dropout
        + if p.get("kernel_size") < 4.0 { 0.003 } else { 0.0 }
        + if p.get("n_dense_layers") > 2.5 { 0.002 } else { 0.0 }
        + 0.002 * (p.get("n_dense_units") / 64.0 - 2.0).abs()
}

#[expect(clippy::print_stdout, reason = "the measurement is the result")]
#[expect(clippy::unnecessary_wraps, reason = "every command ends with it")]
fn report(text: &str) -> Outcomes {
    println!("{text}");
    Ok(())
}
