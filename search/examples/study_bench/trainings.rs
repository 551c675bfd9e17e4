//! The recorded trainings in `scripts/bench`: a function of their parameters, and halving replayed on them.

use std::path::Path;

use serde_json::{Map, Value, json};
use shared::study::journal::replay::StudyRecord;
use shared::study::pruner::Pruner;
use shared::study::record::{State, TrialRecord};
use shared::study::space::Space;

use crate::functions::Params;

/// Columns with parameters; `val_f1` and the `val_f1` of each epoch follow.
const NAMES: [&str; 8] = [
    "n_conv_layers",
    "n_dense_layers",
    "n_filters",
    "kernel_size",
    "n_dense_units",
    "dropout_rate",
    "learning_rate",
    "decay_rate",
];

/// Its options.
fn options() -> Value {
    json!({
        "n_conv_layers": [2, 3, 4], "n_dense_layers": [2, 3], "n_filters": [8, 12, 16, 24, 32],
        "kernel_size": [3, 5], "n_dense_units": [16, 32, 64], "dropout_rate": { "uniform": [0.0, 0.4] },
        "learning_rate": { "log_uniform": [0.0001, 0.02] }, "decay_rate": { "uniform": [0.95, 0.98] },
    })
}

/// The space that the trainings were drawn from.
pub fn space() -> Result<Space, String> {
    let options = options();
    let options = options.as_object().ok_or("no object")?;
    Space::from_options(options).map_err(|error| error.to_string())
}

/// The space of the trainings of v4.
pub fn space_v4() -> Result<Space, String> {
    let mut options = options();
    options["n_filters"] = json!([16, 24, 32]);
    options["dropout_rate"] = json!([0.1, 0.2, 0.3, 0.4]);
    options["learning_rate"] = json!({ "uniform": [0.0001, 0.005] });
    let options = options.as_object().ok_or("no object")?;
    Space::from_options(options).map_err(|error| error.to_string())
}

/// One training.
struct Row {
    /// Parameters in `0.0..=1.0`
    at: [f64; 8],
    f1: f64,
    epochs: Vec<f64>,
}

/// All trainings.
pub struct Table(Vec<Row>);

impl Table {
    /// Read a table of the repository.
    pub fn read(file: &str) -> Result<Self, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/bench").join(file);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("`{}`: {e}", path.display()))?;
        let rows = text.lines().skip(1).map(Self::row).collect::<Result<Vec<Row>, String>>()?;
        Ok(Self(rows))
    }

    fn row(line: &str) -> Result<Row, String> {
        let cells: Result<Vec<f64>, _> =
            line.split(',').filter(|cell| !cell.is_empty()).map(str::parse).collect();
        let cells = cells.map_err(|error| format!("`{line}`: {error}"))?;
        let params: Map<String, Value> =
            NAMES.iter().zip(&cells).map(|(name, cell)| ((*name).to_owned(), json!(cell))).collect();
        Ok(Row { at: position(&Params(params)), f1: cells[8], epochs: cells[9..].to_vec() })
    }

    /// F1 at any point of the space: the mean of the trainings, each with the weight exp(-d²/(2·0.2²)), where d is the
    /// distance after every parameter was mapped to 0..1. As in `search_optuna.py`.
    pub fn value_at(&self, params: &Params) -> f64 {
        let at = position(params);
        let distance = |row: &Row| row.at.iter().zip(at).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        let nearest = self.0.iter().map(distance).fold(f64::INFINITY, f64::min);
        let (mut sum, mut weights) = (0.0, 0.0);
        for row in &self.0 {
            let weight = (-(distance(row) - nearest) / (2.0 * 0.2 * 0.2)).exp();
            sum += weight * row.f1;
            weights += weight;
        }
        sum / weights
    }
}

/// Parameters mapped to 0..1; sizes and the rate by their logarithm.
fn position(p: &Params) -> [f64; 8] {
    [
        (p.get("n_conv_layers") - 2.0) / 2.0,
        p.get("n_dense_layers") - 2.0,
        (p.get("n_filters") / 8.0).log2() / 2.0,
        (p.get("kernel_size") - 3.0) / 2.0,
        (p.get("n_dense_units") / 16.0).log2() / 2.0,
        p.get("dropout_rate") / 0.4,
        (p.get("learning_rate") / 0.0001).ln() / 200_f64.ln(),
        (p.get("decay_rate") - 0.95) / 0.03,
    ]
}

/// Studies of some trainings in random orders, with and without asynchronous successive halving.
pub struct Replay {
    table: Table,
    trials: usize,
    pruner: Pruner,
}

/// What one study of a replay came to.
struct Run {
    epochs: usize,
    best: f64,
}

impl Replay {
    /// - `file`: the table
    /// - `trials`: how many trainings a study has
    /// - `first_rung`: epochs that every trial trains
    /// - `factor`: one trial of so many goes on
    pub fn new(file: &str, trials: usize, first_rung: u64, factor: u64) -> Result<Self, String> {
        let pruner = Pruner::Asha { min_steps: first_rung, factor };
        Ok(Self { table: Table::read(file)?, trials, pruner })
    }

    /// Keep one half of the trainings: the even rows (0) or the odd ones (1).
    pub fn keep_every_other(&mut self, first: usize) {
        let rows = std::mem::take(&mut self.table.0);
        self.table.0 = rows.into_iter().skip(first).step_by(2).collect();
    }

    /// Replay so many orders; says how many epochs were saved and what it did to the best F1.
    pub fn describe(&self, orders: u64) -> String {
        let (mut saved, mut lost, mut within) = (Vec::new(), Vec::new(), 0);
        for order in 0..orders {
            let chosen = self.choose(order);
            let (full, halved) = (run(&chosen, &Pruner::None), run(&chosen, &self.pruner));
            saved.push(1.0 - halved.epochs as f64 / full.epochs as f64);
            lost.push(full.best - halved.best);
            within += u64::from(full.best - halved.best <= 0.003);
        }
        let mean = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len() as f64;
        let (saved, mean_lost, median_lost) = (mean(&saved), mean(&lost), super::middle(&mut lost));
        format!(
            "epochs saved {:.1} %; best F1 lower by {mean_lost:.4} in the mean, {median_lost:.4} in the median, at most 0.003 in {within} of {orders}",
            100.0 * saved
        )
    }

    fn choose(&self, order: u64) -> Vec<&Row> {
        let mut keyed: Vec<(u64, &Row)> = (0_u64..)
            .zip(&self.table.0)
            .map(|(i, row)| (shared::random::hash(order, "order", &i.to_le_bytes()), row))
            .collect();
        keyed.sort_unstable_by_key(|(key, _)| *key);
        keyed.into_iter().take(self.trials).map(|(_, row)| row).collect()
    }
}

/// One worker trains one training after the other.
fn run(rows: &[&Row], pruner: &Pruner) -> Run {
    let mut study = StudyRecord {
        name: "replay".into(),
        maximise: true,
        user_attrs: Map::new(),
        system_attrs: Map::new(),
        trials: Vec::new(),
        trial_ids: Vec::new(),
        id: 0,
    };
    let mut run = Run { epochs: 0, best: f64::NEG_INFINITY };
    for (number, row) in (0_u64..).zip(rows) {
        study.trial_ids.push(number);
        study.trials.push(fresh(number));
        let mut stopped = false;
        for (step, f1) in (1_u64..).zip(&row.epochs) {
            run.epochs += 1;
            study.trials[number as usize].intermediate_values.push((step, *f1));
            // After the last epoch there is nothing to stop.
            let is_last = step as usize == row.epochs.len();
            if !is_last && pruner.wants_stop(&study, &study.trials[number as usize]) {
                stopped = true;
                break;
            }
        }
        let trial = &mut study.trials[number as usize];
        if stopped {
            trial.state = State::Pruned;
        } else {
            (trial.state, trial.value) = (State::Complete, Some(row.f1));
            run.best = run.best.max(row.f1);
        }
    }
    run
}

fn fresh(number: u64) -> TrialRecord {
    TrialRecord {
        number,
        state: State::Running,
        params: Vec::new(),
        value: None,
        intermediate_values: Vec::new(),
        started: None,
        completed: None,
        user_attrs: Map::new(),
        system_attrs: Map::new(),
        owner: None,
    }
}
