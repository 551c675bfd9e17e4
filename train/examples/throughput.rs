//! Training throughput of one network on the clusters of a split folder, for the comparisons in `scripts/bench`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use ort::value::Tensor;
use prost::Message;
use shared::network::{Layers, SimpleCnn};
use shared::onnx::DataType;
use shared::runtime::{self, DeviceChoice, Settings};
use shared::split::{Images, Split, SplitFolder};
use train::Precision;
use train::engine::{Engine, Rows, Weights};
use train::graph::lower::{Target, lower};
use train::graph::{Graph, Op};
use train::parameters;
use train::sites::{Geometry, Sites};
use train::step::{self, StepPlan};

/// Time training steps of one network
#[derive(Debug, Parser)]
struct Args {
    /// Filters of the first convolution
    #[arg(long, default_value_t = 32)]
    filters: usize,
    /// Kernel height
    #[arg(long, default_value_t = 3)]
    kernel: usize,
    /// Convolutions after the first
    #[arg(long, default_value_t = 2)]
    conv_layers: usize,
    /// Dense layers
    #[arg(long, default_value_t = 2)]
    dense_layers: usize,
    /// Units of the first dense layer
    #[arg(long, default_value_t = 64)]
    units: usize,
    /// Rows of a step
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Split folder whose training rows are used, from the first on and again from the first
    #[arg(long)]
    data: Option<PathBuf>,
    /// Dropout rate
    #[arg(long, default_value_t = 0.1)]
    dropout: f64,
    /// Rows of the data set
    #[arg(long, default_value_t = 4096)]
    rows: usize,
    /// Steps timed
    #[arg(long, default_value_t = 30)]
    steps: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Pieces of a batch on the CPU; what a training takes by default
    #[arg(long)]
    pieces: Option<usize>,
    /// Device
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// How products are rounded; tf32 and fp16 need a GPU
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Time a product of two matrices of this many rows and columns instead
    #[arg(long, value_name = "ROWS")]
    matmul: Option<usize>,
}

/// Rate of ONNX Runtime's product of two square matrices, in GFLOP/s: the best of ten.
fn product_rate(rows: usize, settings: &Settings) -> Result<f64, Box<dyn std::error::Error>> {
    let mut g = Graph::default();
    let a = g.input("a", DataType::F32, &[rows, rows]);
    let b = g.input("b", DataType::F32, &[rows, rows]);
    let product = g.matmul(a, b)?;
    let first = g.apply(Op::Slice { axis: 0, start: 0, end: 1 }, &[product])?;
    let model = lower(&g, &[("first", first)], Target::Stock).encode_to_vec();
    let mut session = runtime::session(&model, settings)?;
    let values: Vec<f32> = (0..rows * rows).map(|at| (at % 7) as f32 - 3.0).collect();
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let tensor = || Tensor::from_array(([rows, rows], values.clone()));
        let feeds = ort::inputs!["a" => tensor()?, "b" => tensor()?];
        let start = Instant::now();
        session.run(feeds)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (rows as f64).powi(3) / best / 1e9)
}

/// Floating-point operations of a training step for one row: the mean of `images`, at their active sites.
///
/// A product of `[n, k]` and `[k, m]` takes 2 n k m. Each layer has three of them: forward, and the gradients of its weights
/// and of what comes in; the images need none. A stage computes four members for each of its cells, and the gradient
/// of what comes in has a row for each site there. Backgrounds (a row of each map for a whole batch) and biases don't count.
fn operations(layers: &Layers, kernel: usize, images: &Images, threads: usize) -> f64 {
    let sites = Sites::new(&Geometry::new(layers, kernel), images, 1.0, threads);
    let mut totals = vec![0_usize; layers.convs.len()];
    for image in 0..images.rows() {
        totals.iter_mut().zip(sites.counts(image)).for_each(|(total, count)| *total += count);
    }
    let sites: Vec<f64> = totals.iter().map(|&total| total as f64 / images.rows() as f64).collect();
    let size = |inputs: usize, outputs: usize| 2.0 * (inputs * outputs) as f64;
    let mut sum = 2.0 * sites[0] * size(kernel, layers.convs[0].outputs);
    for (layer, map) in layers.convs.iter().zip(0..).skip(1) {
        sum += (8.0 * sites[map] + sites[map - 1]) * size(kernel * layer.inputs, layer.outputs);
    }
    sum + layers.denses.iter().map(|layer| 3.0 * size(layer.inputs, layer.outputs)).sum::<f64>()
}

#[expect(clippy::print_stdout, reason = "the measurement is the result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    if let Some(rows) = args.matmul {
        let settings = Settings::new(args.device.resolve()?, args.threads);
        let rate = product_rate(rows, &settings)?;
        println!(
            "ONNX Runtime's product of two {rows}×{rows} matrices on {}: {rate:.1} GFLOP/s",
            settings.device
        );
        return Ok(());
    }
    let folder = args.data.as_deref().ok_or("--data DIR is missing")?;
    let clusters = SplitFolder::open(folder)?.clusters(Split::Train)?;
    let network = SimpleCnn {
        height: clusters.height,
        width: clusters.width,
        filters: args.filters,
        kernel: args.kernel,
        conv_layers: args.conv_layers,
        dense_layers: args.dense_layers,
        units: args.units,
        dropout: args.dropout,
    };
    let layers = network.layers()?;
    let plan = StepPlan {
        normalization: 0.001,
        batch: args.batch,
        rows: args.rows,
        steps_per_epoch: args.rows.div_ceil(args.batch),
        pieces: args.pieces.unwrap_or_else(|| step::default_pieces(args.batch)),
        loss: train::loss::Loss::default(),
        optimizer: train::optimizer::Optimizer::default(),
        seed: 1,
        trial: 0,
        precision: args.precision,
        network,
    };
    let labels = (0..args.rows).map(|row| f32::from(u8::from(clusters.is_main_track[row % clusters.rows()])));
    let images = clusters.images.select((0..args.rows).map(|row| row % clusters.rows()));
    let operations = operations(&layers, args.kernel, &images, args.threads);
    let rows = Rows::whole(images, labels.collect());
    let settings = Settings {
        tf32: args.precision == Precision::Tf32,
        ..Settings::new(args.device.resolve()?, args.threads)
    };
    let mut engine = Engine::new(&plan, &layers, &rows, &settings)?;
    let parameters = parameters::parameters(&layers, plan.network.kernel);
    engine.load(&Weights::start(parameters::initial_weights(&parameters, 1, 0)))?;
    let slots = plan.steps_per_epoch * plan.batch;
    let order: Vec<i64> = (0..slots).map(|slot| (slot % args.rows) as i64).collect();
    let rates = vec![0.0005; plan.steps_per_epoch];
    engine.start_epoch(&order, &rates, (0, (0.0, 0.0)))?;
    let steps = args.steps.min(plan.steps_per_epoch.saturating_sub(3));
    for _ in 0..3 {
        engine.step()?;
    }
    engine.sums()?;
    let start = Instant::now();
    for _ in 0..steps {
        engine.step()?;
    }
    let (loss, _) = engine.sums()?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = (steps * args.batch) as f64 / seconds;
    println!(
        "mt-identifier F {} k {} conv {} dense {} U {} batch {} on {}: {rate:.0} samples/s, {:.3} ms/step, loss {:.4}",
        args.filters,
        args.kernel,
        args.conv_layers,
        args.dense_layers,
        args.units,
        args.batch,
        settings.device,
        seconds * 1e3 / steps as f64,
        loss / ((steps + 3) * args.batch) as f64,
    );
    println!(
        "arithmetic at active sites, forward and backward: {:.3} MFLOP a sample, {:.3} TFLOP/s",
        operations / 1e6,
        operations * rate / 1e12
    );
    Ok(())
}
