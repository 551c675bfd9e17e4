//! Losses and gradients of a training on given weights and batches, for the comparison in `scripts/bench/exactness.py`.

use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Deserialize;
use shared::config::Training;
use shared::files;
use shared::network::SimpleCnn;
use shared::runtime::{DeviceChoice, Settings};
use shared::split::Images;
use train::engine::{Engine, Rows, Weights};
use train::loss::Loss;
use train::optimizer::{BETA_1, Optimizer};
use train::schedule::Schedule;
use train::step::{self, StepPlan};

/// Train on given weights and batches; write the loss of every step and the gradients at both ends
#[derive(Debug, Parser)]
struct Args {
    /// Folder with `request.json`, `images.f32`, `labels.f32` and `params.f32` (little endian)
    ///
    /// Written into it: `losses.f32` `[steps]`, `gradient_first.f32` `[P]` at the given weights, `last.f32` `[P]`, the weights
    /// after all steps, and `gradient_last.f32` `[P]` at these, both gradients over the first batch and after clipping.
    folder: PathBuf,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Device
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// `request.json`
#[derive(Debug, Deserialize)]
struct Request {
    network: SimpleCnn,
    normalization: f32,
    batch: usize,
    /// Optimiser steps; the rows are taken in their order, again and again
    steps: usize,
    learning_rate: f64,
    decay_rate: f64,
    /// Keys of `model_parameters`
    #[serde(default)]
    training: Training,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn read(path: &Path) -> Outcome<Vec<f32>> {
    let bytes = files::read_bytes(path)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn write(path: &Path, values: &[f32]) -> Outcome<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(files::write_bytes(path, &bytes)?)
}

/// Gradient over the first batch: from no memory, Adam's first moment is a tenth of it.
fn gradient(engine: &mut Engine, plan: &StepPlan, order: &[i64], params: &[f32]) -> Outcome<Vec<f32>> {
    engine.load(&Weights::start(params.to_vec()))?;
    engine.start_epoch(order, &vec![0.0; plan.rates()], (0, (0.0, 0.0)))?;
    engine.step()?;
    let m = engine.weights()?.m;
    Ok(m.iter().map(|&m| (f64::from(m) / (1.0 - BETA_1)) as f32).collect())
}

fn main() -> Outcome<()> {
    let args = Args::parse();
    let place = |name: &str| args.folder.join(name);
    let request: Request = files::read_json(&place("request.json"))?;
    let (images, labels, params) =
        (read(&place("images.f32"))?, read(&place("labels.f32"))?, read(&place("params.f32"))?);
    let layers = request.network.layers()?;
    let main = labels.iter().filter(|&&label| label > 0.5).count();
    let plan = StepPlan {
        normalization: request.normalization,
        batch: request.batch,
        rows: labels.len(),
        steps_per_epoch: labels.len() / request.batch,
        pieces: step::default_pieces(request.batch),
        loss: Loss::new(&request.training, main, labels.len()).ok_or("labels of one class only")?,
        optimizer: Optimizer::new(&request.training),
        seed: 1,
        trial: 0,
        precision: train::Precision::F32,
        network: request.network,
    };
    let schedule = Schedule {
        initial: request.learning_rate,
        decay: request.decay_rate,
        options: request.training.learning_rate_schedule,
    };
    let epochs = request.steps.div_ceil(plan.steps_per_epoch);
    let rates = schedule.over(plan.steps_per_epoch, epochs as u32);
    let order: Vec<i64> = (0..labels.len() as i64).collect();
    let settings = Settings::new(args.device.resolve()?, args.threads);
    let mut engine = Engine::new(
        &plan,
        &layers,
        &Rows::whole(Images::new(&images, plan.network.height * plan.network.width), labels),
        &settings,
    )?;

    write(&place("gradient_first.f32"), &gradient(&mut engine, &plan, &order, &params)?)?;
    engine.load(&Weights::start(params))?;
    let mut losses = Vec::new();
    for step in 0..request.steps {
        let of_epoch = step % plan.steps_per_epoch;
        // Sums from 0 at every step: the loss of this one.
        let inputs = rates.inputs((step - of_epoch) as i64, plan.steps_per_epoch, &plan.optimizer);
        engine.start_epoch(&order, &inputs, (of_epoch, (0.0, 0.0)))?;
        engine.step()?;
        losses.push((engine.sums()?.0 / plan.batch as f64) as f32);
    }
    write(&place("losses.f32"), &losses)?;
    let last = engine.weights()?.params;
    write(&place("gradient_last.f32"), &gradient(&mut engine, &plan, &order, &last)?)?;
    write(&place("last.f32"), &last)
}
