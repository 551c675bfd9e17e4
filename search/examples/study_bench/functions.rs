//! Functions to minimise: three made-up ones, and the recorded trainings.

use std::f64::consts::{E, PI};

use serde_json::{Map, Value};
use shared::config::Config;
use shared::study::distribution::Distribution;
use shared::study::space::{Parameter, Space};

use crate::trainings::{self, Table};

/// Parameters by name.
pub struct Params(pub Map<String, Value>);

impl Params {
    /// A number; NaN if there is none of this name.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }
}

/// What to minimise, and where.
pub struct Function {
    pub space: Space,
    pub value: Box<dyn Fn(&Params) -> f64>,
}

/// The same functions as in `scripts/bench/search_optuna.py`.
pub fn function_of(name: &str) -> Result<Function, String> {
    let float = |low: f64, high: f64, log: bool| Distribution::Float { low, high, log, step: None };
    let space = |parameters: Vec<(&str, Distribution)>| Space {
        parameters: parameters
            .into_iter()
            .map(|(name, distribution)| Parameter { name: name.into(), distribution, when: None })
            .collect(),
    };
    let cube = |n: usize, low: f64, high: f64| {
        space(
            ["x0", "x1", "x2", "x3", "x4"][..n].iter().map(|name| (*name, float(low, high, false))).collect(),
        )
    };
    let function = |space, value: fn(&Params) -> f64| Ok(Function { space, value: Box::new(value) });
    match name {
        "hartmann6" => {
            let names = ["x0", "x1", "x2", "x3", "x4", "x5"];
            function(space(names.map(|name| (name, float(0.0, 1.0, false))).to_vec()), hartmann6)
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
            function(space(parameters), mixed)
        }
        "network" => {
            let options = Config::default().model_parameters.space_options;
            function(Space::from_options(&options).map_err(|error| error.to_string())?, network)
        }
        "rosenbrock" => function(cube(5, -2.0, 2.0), rosenbrock),
        "ackley" => function(cube(5, -20.0, 30.0), ackley),
        "rastrigin" => function(cube(4, -4.0, 6.0), rastrigin),
        "kinds" => {
            let choice = |n: i64| Distribution::Categorical { choices: (0..n).map(Into::into).collect() };
            let parameters = vec![
                ("a", choice(4)),
                ("b", choice(3)),
                ("c", choice(5)),
                ("units", Distribution::Int { low: 8, high: 512, log: true, step: 1 }),
                ("rate", float(1e-5, 1.0, true)),
                ("share", float(0.0, 1.0, false)),
            ];
            function(space(parameters), kinds)
        }
        "trainings_v4" => {
            let table = Table::read("trainings_v4.csv")?;
            Ok(Function {
                space: trainings::space_v4()?,
                value: Box::new(move |params| -table.value_at(params)),
            })
        }
        "trainings" => {
            let table = Table::read("trainings.csv")?;
            Ok(Function {
                space: trainings::space()?,
                value: Box::new(move |params| -table.value_at(params)),
            })
        }
        _ => Err(format!("`{name}` is no function; see the source")),
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

/// The coordinates `x0`, `x1`, ….
fn coordinates(p: &Params, n: usize) -> Vec<f64> {
    (0..n).map(|i| p.get(&format!("x{i}"))).collect()
}

fn rosenbrock(p: &Params) -> f64 {
    let x = coordinates(p, 5);
    x.windows(2).map(|w| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2)).sum()
}

fn ackley(p: &Params) -> f64 {
    let x = coordinates(p, 5);
    let squares = x.iter().map(|x| x * x).sum::<f64>() / 5.0;
    let waves = x.iter().map(|x| (2.0 * PI * x).cos()).sum::<f64>() / 5.0;
    -20.0 * (-0.2 * squares.sqrt()).exp() - waves.exp() + 20.0 + E
}

fn rastrigin(p: &Params) -> f64 {
    coordinates(p, 4).iter().map(|x| x * x - 10.0 * (2.0 * PI * x).cos() + 10.0).sum()
}

fn kinds(p: &Params) -> f64 {
    let (a, b, c) = (p.get("a") as usize, p.get("b") as usize, p.get("c") as usize);
    let rate = p.get("rate").log10() + [2.0, 3.0, 2.5, 1.5][a];
    let units = (p.get("units") / 100.0).log2();
    let share = p.get("share") - [0.2, 0.7, 0.5][b];
    0.5 * rate * rate
        + 0.2 * units * units
        + 3.0 * share * share
        + [0.5, 0.0, 0.3, 0.8][a]
        + [0.1, 0.0, 0.4][b]
        + [0.6, 0.4, 0.0, 0.2, 0.5][c]
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
