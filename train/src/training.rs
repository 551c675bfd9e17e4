//! The training of one trial, from its checkpoint or from the start, to `model.onnx` and `result.json`.

use std::path::Path;
use std::time::Instant;

use shared::config::{EarlyStopping, Monitor, Objective};
use shared::metrics;
use shared::network::{Layers, SimpleCnn};
use shared::runtime::Settings;
use shared::{files, progress, signal};

use crate::checkpoint::{Checkpoint, Progress};
use crate::data::Data;
use crate::engine::{Engine, Rows, Weights};
use crate::error::Error;
use crate::history::{self, Epoch};
use crate::schedule::{self, Schedule};
use crate::scorer::Scorer;
use crate::step::{self, StepPlan};

/// Everything that decides what a trial learns: nothing here depends on the device or the threads.
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
    /// When to stop
    pub early_stopping: EarlyStopping,
    /// What the study optimises
    pub objective: Objective,
    /// Seed of the study
    pub seed: u64,
    /// Number of the trial
    pub trial: u64,
    /// Digest of the trial's file: a checkpoint of another one is not used
    pub identity: String,
}

/// A finished training.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Parameters to export
    pub params: Vec<f32>,
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
        let parameters = self.network.layers()?.parameters(self.network.kernel);
        Ok(StepPlan {
            network: self.network.clone(),
            normalization: self.normalization,
            batch: self.batch_size,
            rows,
            steps_per_epoch: rows.div_ceil(self.batch_size),
            pieces: step::default_pieces(self.batch_size, parameters),
            seed: self.seed,
            trial: self.trial,
        })
    }
}

/// Train until the last epoch, until early stopping, or until `report` says so.
///
/// - `folder`: the trial's, where the checkpoint and `history.csv` go after every epoch
/// - `report`: told (epoch, its numbers in words, value of the objective) after every epoch; `true` prunes the trial
///
/// # Errors
/// [`Error::Stopped`] after a signal: started again, the training goes on from the last epoch.
pub fn train(
    setup: &Setup,
    data: &Data,
    folder: &Path,
    settings: &Settings,
    mut report: impl FnMut(u32, &str, f64) -> Result<bool, Error>,
) -> Result<Trained, Error> {
    let layers = setup.network.layers()?;
    let plan = setup.plan(data.train.rows())?;
    let checkpoint_path = folder.join("checkpoint.safetensors");
    let mut checkpoint = resume(setup, data, &plan, &layers, &checkpoint_path)?;
    history::write(&folder.join("history.csv"), &checkpoint.progress.history)?;
    if checkpoint.progress.ended {
        return Ok(finished(setup, checkpoint, false));
    }
    let rows = Rows {
        images: &data.train.images,
        labels: data.train.is_main_track.iter().map(|&main| f32::from(u8::from(main))).collect(),
    };
    let mut engine = Engine::new(&plan, &layers, &rows, settings)?;
    let mut scorer = Scorer::new(&plan, &layers, &data.validation.images, settings)?;
    engine.load(&checkpoint.last)?;
    let first = checkpoint.progress.history.len() as u32 + 1;
    let steps = plan.steps_per_epoch as u64;
    let bar = progress::bar(u64::from(setup.epochs) * steps, &format!("trial {}", setup.trial), "steps");
    bar.set_position(u64::from(first - 1) * steps);

    for epoch in first..=setup.epochs {
        let begin = Instant::now();
        let order =
            schedule::order(plan.rows, plan.steps_per_epoch * plan.batch, setup.seed, setup.trial, epoch);
        let before = checkpoint.last.step;
        engine.start_epoch(&order, &setup.schedule.corrected(before, plan.steps_per_epoch))?;
        for _ in 0..plan.steps_per_epoch {
            engine.step()?;
            bar.inc(1);
            if signal::stop_requested() {
                return Err(Error::Stopped { trial: setup.trial, epoch: epoch - 1 });
            }
        }
        let (loss, correct) = engine.sums()?;
        let trained = begin.elapsed().as_secs_f64();
        if !loss.is_finite() {
            return Err(Error::Diverged { trial: setup.trial, epoch });
        }
        checkpoint.last = engine.weights()?;
        let validation = validate(&scorer.score(&checkpoint.last.params)?, &data.validation.is_main_track);
        let seconds = begin.elapsed().as_secs_f64();
        let row = Epoch {
            epoch,
            step: checkpoint.last.step,
            seconds,
            samples_per_second: plan.rows as f64 / trained,
            learning_rate: setup.schedule.rate(checkpoint.last.step - 1),
            loss: loss / plan.rows as f64,
            accuracy: correct / plan.rows as f64,
            val_loss: validation.loss,
            val_accuracy: validation.accuracy,
            val_f1: validation.f1,
        };
        let value = objective(setup.objective, &row);
        let words = describe(setup, &row);
        advance(setup, &mut checkpoint, row);
        let pruned = report(epoch, &words, value)?;
        checkpoint.write(&checkpoint_path)?;
        history::write(&folder.join("history.csv"), &checkpoint.progress.history)?;
        if pruned {
            return Ok(finished(setup, checkpoint, true));
        }
        if checkpoint.progress.ended {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(finished(setup, checkpoint, false))
}

/// The checkpoint to go on from: the folder's, or fresh weights.
fn resume(
    setup: &Setup,
    data: &Data,
    plan: &StepPlan,
    layers: &Layers,
    path: &Path,
) -> Result<Checkpoint, Error> {
    let identity = files::digest(format!("{} {}", setup.identity, data.digest).as_bytes());
    if let Some(found) = Checkpoint::read(path)? {
        if found.progress.identity == identity {
            tracing::info!("trial {}: going on after epoch {}", setup.trial, found.progress.history.len());
            return Ok(found);
        }
        tracing::warn!(
            "`{}` belongs to another configuration or other data: starting afresh",
            path.display()
        );
    }
    let parameters = step::parameters(layers, plan.network.kernel);
    let params = step::initial_weights(&parameters, setup.seed, setup.trial);
    let best = params.clone();
    Ok(Checkpoint {
        last: Weights::start(params),
        best,
        progress: Progress { identity, ..Progress::default() },
    })
}

/// Enter an epoch's numbers: history, best weights, patience.
fn advance(setup: &Setup, checkpoint: &mut Checkpoint, row: Epoch) {
    let EarlyStopping { monitor, patience, min_delta, .. } = setup.early_stopping;
    let progress = &mut checkpoint.progress;
    let best = progress.best_epoch.checked_sub(1).map(|at| watched(monitor, &progress.history[at as usize]));
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

fn finished(setup: &Setup, checkpoint: Checkpoint, pruned: bool) -> Trained {
    let Checkpoint { last, best, progress } = checkpoint;
    let params = if setup.early_stopping.restore_best_weights { best } else { last.params };
    Trained { params, progress, pruned }
}

/// What early stopping watches, as a number that is better when larger.
fn watched(monitor: Monitor, row: &Epoch) -> f64 {
    match monitor {
        Monitor::ValLoss => -row.val_loss,
        Monitor::ValAccuracy => row.val_accuracy,
        Monitor::ValF1 => row.val_f1,
    }
}

/// The study's objective at an epoch.
pub fn objective(objective: Objective, row: &Epoch) -> f64 {
    match objective {
        Objective::ValF1 => row.val_f1,
        Objective::ValAccuracy => row.val_accuracy,
        Objective::ValLoss => row.val_loss,
    }
}

/// Numbers of a validation.
struct Validation {
    loss: f64,
    accuracy: f64,
    f1: f64,
}

/// Mean cross-entropy in nats, accuracy at 0.5, and F1 at the best threshold.
fn validate(logits: &[f32], labels: &[bool]) -> Validation {
    let rows = labels.len() as f64;
    let (mut loss, mut correct) = (0.0, 0_u64);
    for (&logit, &main) in logits.iter().zip(labels) {
        let z = f64::from(logit);
        // softplus(z) - y·z without overflow
        loss += z.max(0.0) + (-z.abs()).exp().ln_1p() - if main { z } else { 0.0 };
        correct += u64::from((logit >= 0.0) == main);
    }
    // F1 depends on the order of the scores only, so logits do as well as probabilities.
    let f1 = metrics::best_f1_threshold(logits, labels).map_or(0.0, |best| best.f1);
    Validation { loss: loss / rows, accuracy: correct as f64 / rows, f1 }
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
