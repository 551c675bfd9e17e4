//! Measures the study: `make DIR TRIALS`, `read DIR`, `ask-tell DIR`, `sampler FUNCTION FIRST_SEED SEEDS TRIALS SAMPLER`,
//! `halving TABLE ORDERS TRIALS FIRST_RUNG FACTOR [even|odd]`, the last for every other row.
//!
//! `scripts/bench/search_optuna.py` does the same with Optuna.

mod functions;
mod trainings;

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use functions::{Function, Params};
use serde_json::{Map, json};
use shared::config::Config;
use shared::study::record::{Param, State, TrialRecord};
use shared::study::sampler::{History, Sampler, SamplerKind, params_of};
use shared::study::{Next, Options, Outcome, Study};

type Outcomes = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcomes {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<&str>>()[..] {
        ["make", dir, trials] => make(Path::new(dir), trials.parse()?),
        ["read", dir] => read(Path::new(dir)),
        ["ask-tell", dir] => ask_tell(Path::new(dir)),
        ["sampler", function, first, seeds, trials, sampler] => {
            let first: u64 = first.parse()?;
            sample(function, first..first + seeds.parse::<u64>()?, trials.parse()?, sampler)
        }
        ["halving", table, orders, trials, first_rung, factor, ref half @ ..] => {
            let mut replay =
                trainings::Replay::new(table, trials.parse()?, first_rung.parse()?, factor.parse()?)?;
            match half {
                [] => {}
                ["even"] => replay.keep_every_other(0),
                ["odd"] => replay.keep_every_other(1),
                _ => return Err("a half is even or odd".into()),
            }
            report(&replay.describe(orders.parse()?))
        }
        _ => Err("give make, read, ask-tell, sampler or halving; see the source".into()),
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
fn sample(function: &str, seeds: std::ops::Range<u64>, trials: u64, sampler: &str) -> Outcomes {
    let kind: SamplerKind = serde_json::from_value(json!(sampler))?;
    let function = functions::function_of(function)?;
    let best: Vec<f64> = seeds.map(|seed| minimum(kind, seed, trials, &function)).collect();
    report(&json!(best).to_string())
}

fn minimum(kind: SamplerKind, seed: u64, trials: u64, function: &Function) -> f64 {
    let space = &function.space;
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
            value: Some((function.value)(&Params(params))),
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

#[expect(clippy::print_stdout, reason = "the measurement is the result")]
#[expect(clippy::unnecessary_wraps, reason = "every command ends with it")]
fn report(text: &str) -> Outcomes {
    println!("{text}");
    Ok(())
}
