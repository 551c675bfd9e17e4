//! The training of one trial, from its checkpoint or from the start, to its last or best weights.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use shared::config::{EarlyStopping, Objective};
use shared::network::{Layers, SimpleCnn};
use shared::runtime::{Device, Settings};
use shared::{progress, signal};

use crate::args::Precision;
use crate::budget::{Residence, Room};
use crate::checkpoint::{Checkpoint, Identity, Partial, Progress};
use crate::data::Data;
use crate::diverged;
use crate::engine::calm::Calmly;
use crate::engine::{Engine, EngineError, Rows, Weights};
use crate::error::Error;
use crate::history::{self, Epoch};
use crate::keeper::{Keeper, checkpoint_of};
use crate::loss::Loss;
use crate::optimizer::Optimizer;
use crate::parameters;
use crate::schedule::{self, Rates, Schedule};
use crate::scorer::Scorer;
use crate::step::{self, StepPlan};
use crate::validation::{objective, validate, watched};

/// Everything that decides what a trial learns: nothing here depends on the threads, and the precision alone on the device.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The network
    pub network: SimpleCnn,
    /// Factor on ADC counts
    pub normalization: f32,
    /// Rows of an optimiser step
    pub batch_size: usize,
    /// Most epochs
    pub epochs: u32,
    /// Learning rates
    pub schedule: Schedule,
    /// What is minimised
    pub loss: Loss,
    /// Weight decay and clipping
    pub optimizer: Optimizer,
    /// When to stop
    pub early_stopping: EarlyStopping,
    /// What the study optimises
    pub objective: Objective,
    /// Seed of the study
    pub seed: u64,
    /// Number of the trial
    pub trial: u64,
    /// How products are rounded
    pub precision: Precision,
    /// The trial's file: a checkpoint of another one is refused
    pub identity: serde_json::Value,
}

/// A finished training.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Parameters to export
    pub params: Vec<f32>,
    /// Their logits of the validation rows
    pub logits: Vec<f32>,
    /// Counters and history
    pub progress: Progress,
    /// Whether a pruner ended it
    pub pruned: bool,
}

impl Setup {
    /// The graphs' plan for a data set of `rows` rows.
    ///
    /// # Errors
    /// [`Error::Network`] for a network that has no room.
    pub fn plan(&self, rows: usize) -> Result<StepPlan, Error> {
        self.network.layers()?;
        Ok(StepPlan {
            network: self.network.clone(),
            normalization: self.normalization,
            batch: self.batch_size,
            rows,
            steps_per_epoch: rows.div_ceil(self.batch_size),
            pieces: step::default_pieces(self.batch_size),
            loss: self.loss.clone(),
            optimizer: self.optimizer,
            seed: self.seed,
            trial: self.trial,
            precision: self.precision,
        })
    }
}

/// Train until the last epoch, until early stopping, or until `report` says so.
///
/// - `folder`: the trial's, where the checkpoint and `history.csv` go after every epoch
/// - `room`: for the tables of the data; the result does not depend on it
/// - `report`: told (epoch, its numbers in words, value of the objective) after every epoch; `true` prunes the trial
///
/// # Errors
/// [`Error::Stopped`] after a signal, with a checkpoint of that moment: started again, the training goes on from there.
/// [`Error::Diverged`] for a loss that is not finite.
pub fn train(
    setup: &Setup,
    data: &Data,
    folder: &Path,
    settings: &Settings,
    room: Room,
    mut report: impl FnMut(u32, &str, f64) -> Result<bool, Error>,
) -> Result<Trained, Error> {
    let layers = setup.network.layers()?;
    let plan = setup.plan(data.train.rows())?;
    let checkpoint_path = checkpoint_of(folder);
    let mut checkpoint = resume(setup, data, &plan, &layers, &checkpoint_path)?;
    history::write(folder, &checkpoint.progress.history)?;
    // Scores decide the threshold: exact products, whatever the training's are.
    let exact = Settings { tf32: false, ..settings.clone() };
    let (images, validation) = (&data.train.images, &data.validation.images);
    let residence = Residence::of(room, &plan.geometry(&layers), images, validation, settings.device)
        .map_err(EngineError::from)?;
    let shelves = &data.shelves;
    let scorer = Scorer::sharing(&shelves.validation, &plan, &layers, validation, residence, &exact)?;
    let mut scorer = Calmly::new(settings.device, scorer);
    if checkpoint.progress.ended {
        return finished(setup, checkpoint, false, &mut scorer);
    }
    let shelf = Arc::clone(&shelves.train);
    let rows = Rows { images: Arc::clone(images), labels: data.train.labels(), residence, shelf };
    let mut engine = Calmly::new(settings.device, Engine::new(&plan, &layers, &rows, settings)?);
    let rates = setup.schedule.over(plan.steps_per_epoch, setup.epochs);

    let mut keeper = Keeper::new(folder);

    for epoch in checkpoint.progress.history.len() as u32 + 1..=setup.epochs {
        let begin = Instant::now();
        let before = checkpoint.progress.partial.unwrap_or_default();
        let stop = |engine: &Engine, checkpoint: &mut Checkpoint, keeper: &mut Keeper, steps: usize| {
            let (loss, correct) = engine.sums()?;
            let seconds = before.seconds + begin.elapsed().as_secs_f64();
            checkpoint.last = engine.weights()?;
            checkpoint.progress.partial = Some(Partial { steps, loss, correct, seconds });
            keeper.keep(checkpoint)?;
            keeper.wait()?;
            Err(Error::Stopped { trial: setup.trial, epoch, step: steps })
        };
        let diverged = |engine: &mut Engine, checkpoint: &Checkpoint| {
            diverged::explain(engine, setup, &plan, &layers, &rates, checkpoint, epoch)
        };
        let bar = progress::bar(plan.rows as u64, &headline(setup, &checkpoint.progress, epoch), "samples");
        start_epoch(&mut engine, setup, &plan, &rates, &checkpoint, epoch)?;
        for step in before.steps..plan.steps_per_epoch {
            engine.step()?;
            bar.set_position(plan.rows.min((step + 1) * plan.batch) as u64);
            if signal::stop_requested() {
                return stop(&engine, &mut checkpoint, &mut keeper, step + 1);
            }
            // On a GPU this would wait for the step to end.
            if settings.device == Device::Cpu && !engine.sums()?.0.is_finite() {
                break;
            }
        }
        let (loss, correct) = engine.sums()?;
        if !loss.is_finite() {
            return Err(diverged(&mut engine, &checkpoint)?);
        }
        let trained = before.seconds + begin.elapsed().as_secs_f64();
        let weights = engine.weights()?;
        let logits = scorer.score(&weights.params)?;
        if signal::stop_requested() {
            return stop(&engine, &mut checkpoint, &mut keeper, plan.steps_per_epoch);
        }
        let validation = validate(&logits, &data.validation.is_main_track);
        if !validation.loss.is_finite() {
            return Err(diverged(&mut engine, &checkpoint)?);
        }
        checkpoint.last = weights;
        let row = Epoch {
            epoch,
            step: checkpoint.last.step,
            seconds: before.seconds + begin.elapsed().as_secs_f64(),
            samples_per_second: plan.rows as f64 / trained,
            learning_rate: rates.rate(checkpoint.last.step - 1),
            loss: loss / plan.rows as f64,
            accuracy: correct / plan.rows as f64,
            val_loss: validation.loss,
            val_accuracy: validation.accuracy,
            val_f1: validation.f1,
            time: history::now(),
        };
        let value = objective(setup.objective, &row);
        let words = describe(setup, &row);
        advance(setup, &mut checkpoint, row);
        bar.finish_and_clear();
        let pruned = report(epoch, &words, value)?;
        keeper.keep(&checkpoint)?;
        if pruned {
            keeper.wait()?;
            return finished(setup, checkpoint, true, &mut scorer);
        }
        if checkpoint.progress.ended {
            break;
        }
    }
    keeper.wait()?;
    finished(setup, checkpoint, false, &mut scorer)
}

/// Put the engine where the checkpoint stands: at the start of an epoch, or at the step in it where a signal came.
pub(crate) fn start_epoch(
    engine: &mut Engine,
    setup: &Setup,
    plan: &StepPlan,
    rates: &Rates,
    checkpoint: &Checkpoint,
    epoch: u32,
) -> Result<(), EngineError> {
    let Partial { steps, loss, correct, .. } = checkpoint.progress.partial.unwrap_or_default();
    let slots = plan.steps_per_epoch * plan.batch;
    let order = schedule::order(plan.rows, slots, setup.seed, setup.trial, epoch);
    let first = checkpoint.last.step - steps as i64;
    engine.load(&checkpoint.last)?;
    let rates = rates.inputs(first, plan.steps_per_epoch, &plan.optimizer);
    engine.start_epoch(&order, &rates, (steps, (loss, correct)))
}

/// The checkpoint to go on from: the folder's, or fresh weights.
fn resume(
    setup: &Setup,
    data: &Data,
    plan: &StepPlan,
    layers: &Layers,
    path: &Path,
) -> Result<Checkpoint, Error> {
    let identity = Identity::new(setup.identity.clone(), &data.digest);
    if let Some(found) = Checkpoint::read(path, &identity)? {
        let after = found.progress.history.len();
        let steps = found.progress.partial.map_or(0, |partial| partial.steps);
        tracing::info!("trial {}: going on after epoch {after} and {steps} steps", setup.trial);
        return Ok(found);
    }
    let parameters = parameters::parameters(layers, plan.network.kernel);
    let params = parameters::initial_weights(&parameters, setup.seed, setup.trial);
    let best = params.clone();
    Ok(Checkpoint { identity, last: Weights::start(params), best, progress: Progress::default() })
}

/// Enter an epoch's numbers: history, best weights, patience.
fn advance(setup: &Setup, checkpoint: &mut Checkpoint, row: Epoch) {
    let EarlyStopping { monitor, patience, min_delta, .. } = setup.early_stopping;
    let progress = &mut checkpoint.progress;
    let best = progress.best_epoch.checked_sub(1).map(|at| watched(monitor, &progress.history[at as usize]));
    progress.partial = None;
    progress.seconds += row.seconds;
    if best.is_none_or(|best| watched(monitor, &row) > best + min_delta) {
        progress.best_epoch = row.epoch;
        progress.waited = 0;
        checkpoint.best.clone_from(&checkpoint.last.params);
    } else {
        progress.waited += 1;
    }
    progress.ended = progress.waited > 0 && progress.waited >= patience || row.epoch >= setup.epochs;
    progress.history.push(row);
}

fn finished(
    setup: &Setup,
    checkpoint: Checkpoint,
    pruned: bool,
    scorer: &mut Scorer,
) -> Result<Trained, Error> {
    let Checkpoint { last, best, progress, .. } = checkpoint;
    let params = if setup.early_stopping.restore_best_weights { best } else { last.params };
    let logits = scorer.score(&params)?;
    if signal::stop_requested() {
        return Err(Error::Stopped { trial: setup.trial, epoch: progress.history.len() as u32, step: 0 });
    }
    Ok(Trained { params, logits, progress, pruned })
}

/// What stands before the bar of an epoch: where the training is, the last epoch's numbers, and the time left at most.
fn headline(setup: &Setup, progress: &Progress, epoch: u32) -> String {
    let place = format!("trial {} epoch {epoch}/{}", setup.trial, setup.epochs);
    let Some(last) = progress.history.last() else { return place };
    let each = progress.seconds / progress.history.len() as f64;
    let left = (each * f64::from(setup.epochs + 1 - epoch)).ceil() as u64;
    let left = if left < 120 { format!("{left} s") } else { format!("{} min", left.div_ceil(60)) };
    format!("{place} · loss {:.4} · val_f1 {:.4} · at most {left} left", last.loss, last.val_f1)
}

fn describe(setup: &Setup, row: &Epoch) -> String {
    format!(
        "trial {} epoch {}/{}: loss {:.4}, val_loss {:.4}, val_accuracy {:.4}, val_f1 {:.4}, {:.0} samples/s",
        setup.trial,
        row.epoch,
        setup.epochs,
        row.loss,
        row.val_loss,
        row.val_accuracy,
        row.val_f1,
        row.samples_per_second
    )
}

#[cfg(test)]
mod tests {
    use shared::config::Monitor;

    use super::*;

    fn setup(early_stopping: EarlyStopping) -> Setup {
        let network = SimpleCnn {
            height: 16,
            width: 4,
            filters: 2,
            kernel: 3,
            conv_layers: 1,
            dense_layers: 0,
            units: 0,
            dropout: 0.0,
        };
        Setup {
            network,
            normalization: 1.0,
            batch_size: 8,
            epochs: 80,
            schedule: Schedule::exponential(0.001, 0.96),
            loss: Loss::default(),
            optimizer: Optimizer::default(),
            early_stopping,
            objective: Objective::ValF1,
            seed: 1,
            trial: 3,
            precision: Precision::F32,
            identity: serde_json::Value::Null,
        }
    }

    /// Epochs whose monitored value is one of these (the other two say the opposite); returns epochs run and the best.
    fn stops(early_stopping: EarlyStopping, values: &[f64]) -> (u32, u32) {
        let setup = setup(early_stopping);
        let mut checkpoint = Checkpoint {
            identity: Identity::new(serde_json::Value::Null, ""),
            last: Weights::start(vec![0.0]),
            best: vec![0.0],
            progress: Progress::default(),
        };
        for (epoch, &value) in (1..).zip(values) {
            let opposite = 1.0 - value;
            let mut row = Epoch { epoch, seconds: 2.0, ..Epoch::default() };
            (row.val_loss, row.val_accuracy, row.val_f1) = match setup.early_stopping.monitor {
                Monitor::ValLoss => (value, value, value),
                Monitor::ValAccuracy => (value, value, opposite),
                Monitor::ValF1 => (value, opposite, value),
            };
            checkpoint.last.params = vec![epoch as f32];
            advance(&setup, &mut checkpoint, row);
            if checkpoint.progress.ended {
                break;
            }
        }
        assert_eq!(checkpoint.best, [checkpoint.progress.best_epoch as f32]);
        (checkpoint.progress.history.len() as u32, checkpoint.progress.best_epoch)
    }

    #[test]
    fn training_stops_when_what_is_monitored_gets_no_better() {
        let patience = |monitor, patience| EarlyStopping { monitor, patience, ..EarlyStopping::default() };
        let falling = [0.5, 0.4, 0.45, 0.3, 0.35, 0.32, 0.31, 0.2];
        assert_eq!(stops(patience(Monitor::ValLoss, 3), &falling), (7, 4));
        assert_eq!(stops(patience(Monitor::ValLoss, 4), &falling), (8, 8));
        for monitor in [Monitor::ValAccuracy, Monitor::ValF1] {
            let rising = falling.map(|value| 1.0 - value);
            assert_eq!(stops(patience(monitor, 3), &rising), (7, 4));
            assert_eq!(stops(patience(monitor, 3), &falling), (4, 1));
        }
    }

    #[test]
    fn a_change_below_min_delta_is_no_improvement() {
        let stopping = EarlyStopping { patience: 2, min_delta: 0.05, ..EarlyStopping::default() };
        // 0.46 and 0.451 are less than 0.05 below 0.5, 0.4 is more.
        assert_eq!(stops(stopping.clone(), &[0.5, 0.46, 0.4, 0.36, 0.3]), (5, 5));
        assert_eq!(stops(stopping, &[0.5, 0.46, 0.451, 0.1]), (3, 1));
    }

    #[test]
    fn the_bar_says_where_the_training_is() {
        let setup = setup(EarlyStopping::default());
        let mut progress = Progress::default();
        assert_eq!(headline(&setup, &progress, 1), "trial 3 epoch 1/80");
        progress.history = vec![Epoch { loss: 0.5, val_f1: 0.75, ..Epoch::default() }; 2];
        progress.seconds = 20.0;
        let expected = "trial 3 epoch 3/80 · loss 0.5000 · val_f1 0.7500 · at most 13 min left";
        assert_eq!(headline(&setup, &progress, 3), expected);
        assert!(headline(&setup, &progress, 80).ends_with("at most 10 s left"));
    }
}
