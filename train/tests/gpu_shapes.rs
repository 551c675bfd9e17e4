//! CUDA steps against CPU steps at random shapes, on memory full of NaN; skipped, with a word, where there is no GPU.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use cudarc::driver::{CudaContext, CudaSlice};
use rand::{Rng, RngExt};
use shared::network::SimpleCnn;
use shared::runtime::{Device, DeviceChoice, Settings};
use shared::split::Images;
use train::Precision;
use train::budget::Residence;
use train::engine::{Engine, Rows, Weights};
use train::parameters;
use train::schedule::CHUNK_ROWS;
use train::step::{StepPlan, default_pieces};

/// Random shapes; more or fewer of them with this variable.
const SHAPES: usize = 24;
const SHAPES_VARIABLE: &str = "MTID_GPU_SHAPES";
/// For tools that make a GPU slow (`scripts/bench/sanitize.sh`): only shapes of at most so many filters, of batches of at most
/// so many rows, of this precision (`f32` or `fp16`); and `0` leaves the free memory as it is.
const FILTERS_VARIABLE: &str = "MTID_GPU_FILTERS";
const BATCH_VARIABLE: &str = "MTID_GPU_BATCH";
const PRECISION_VARIABLE: &str = "MTID_GPU_PRECISION";
const POISON_VARIABLE: &str = "MTID_GPU_POISON";
/// Largest distance: rounding may turn which of four nearly equal elements is the largest, and with it a row's gradient.
const FAR: f64 = 1e-3;
/// Largest distance of most shapes, in which that does not happen.
const NEAR: f64 = 1e-5;
/// Largest distance in half precision, whose numbers have 11 bits: there choices of pools and relus turn often.
const HALF: f64 = 0.25;
/// Free memory that is left as it is.
const SPARED: usize = 4 << 30;

/// The GPU, or none and a message.
fn gpu() -> Option<u32> {
    if let Ok(Device::Cuda(number)) = DeviceChoice::Auto.resolve() {
        return Some(number);
    }
    eprintln!("SKIPPED: no GPU with a CUDA build of ONNX Runtime here");
    None
}

/// The number in a variable.
fn number_in(variable: &str) -> Option<usize> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, which is no number")))
}

/// Whether the network can be and the variables want this shape.
fn wanted(plan: &StepPlan) -> bool {
    let most = |variable, value| number_in(variable).is_none_or(|most| value <= most);
    plan.network.layers().is_ok()
        && most(FILTERS_VARIABLE, plan.network.filters)
        && most(BATCH_VARIABLE, plan.batch)
        && std::env::var(PRECISION_VARIABLE).map_or(true, |name| name == plan.precision.name())
}

/// Fill the GPU's free memory with NaN, so that what a kernel forgets to write shows.
fn poison(number: u32) {
    if number_in(POISON_VARIABLE) == Some(0) {
        return;
    }
    let context = CudaContext::new(number as usize).unwrap();
    let stream = context.default_stream();
    let (free, _) = context.mem_get_info().unwrap();
    let block = vec![0xFF_u8; 1 << 28];
    let filled: Vec<CudaSlice<u8>> = (0..free.saturating_sub(SPARED) / block.len())
        .map_while(|_| stream.clone_htod(&block).ok())
        .collect();
    assert!(!filled.is_empty(), "no free memory to poison");
    stream.synchronize().unwrap();
}

/// A plan, and images: mostly sparse, some empty, some full.
fn random_case(random: &mut impl Rng) -> (StepPlan, Rows) {
    let filters = [8, 10, 16, 21, 32, 42, 64, 85, 128, 256][random.random_range(0..10_usize)];
    let kernel = [3, 5][random.random_range(0..2_usize)];
    let network = SimpleCnn {
        height: 128,
        width: [16, 32][random.random_range(0..2_usize)],
        filters,
        kernel,
        conv_layers: random.random_range(1..=if kernel == 5 { 4 } else { 5 }),
        dense_layers: random.random_range(1..=3),
        units: [10, 32, 64, 85, 128, 256][random.random_range(0..6_usize)],
        dropout: [0.0, 0.1, 0.4][random.random_range(0..3_usize)],
    };
    // Batches of 1 to 4096 rows, small ones as often as large ones; wide networks get fewer, for the CPU's sake.
    let most = if filters > 64 { 512.0_f64 } else { 4096.0 };
    let batch = most.powf(random.random_range(0.0..1.0)).round() as usize;
    let rows = batch + random.random_range(0..=batch);
    let pixels = network.height * network.width;
    let mut images = Images::default();
    for row in 0..rows {
        let density = match row % 50 {
            7 => 0.0,
            13 => 1.0,
            _ => random.random_range(0.002..0.06),
        };
        let occupied: Vec<u16> = (0..pixels as u16).filter(|_| random.random_bool(density)).collect();
        images.push(occupied.into_iter().map(|place| (place, random.random_range(60.0..2000.0))));
    }
    let plan = StepPlan {
        network,
        normalization: 0.001,
        batch,
        rows,
        steps_per_epoch: rows.div_ceil(batch),
        pieces: default_pieces(batch),
        loss: train::loss::Loss::default(),
        optimizer: train::optimizer::Optimizer::default(),
        precision: if random.random_bool(0.5) { Precision::F32 } else { Precision::Fp16 },
        seed: 4,
        trial: 1,
    };
    let labels = (0..rows).map(|_| f32::from(u8::from(random.random_bool(0.3)))).collect();
    (plan, Rows::whole(images, labels))
}

/// Weights and sums after the steps of an epoch.
fn epoch(plan: &StepPlan, rows: &Rows, device: Device) -> (Weights, (f64, f64)) {
    let layers = plan.network.layers().unwrap();
    let mut engine = Engine::new(plan, &layers, rows, &Settings::new(device, 0)).unwrap();
    let parameters = parameters::parameters(&layers, plan.network.kernel);
    // A loss scale with which no step of these overflows.
    let start = Weights::start(parameters::initial_weights(&parameters, 4, 1));
    engine.load(&Weights { scale: [1024.0, 0.0, 1.0], ..start }).unwrap();
    let slots = plan.steps_per_epoch * plan.batch;
    let order: Vec<i64> = (0..slots).map(|slot| (slot * 7919 % plan.rows) as i64).collect();
    engine.start_epoch(&order, &vec![1e-5; plan.steps_per_epoch], (0, (0.0, 0.0))).unwrap();
    for _ in 0..plan.steps_per_epoch {
        engine.step().unwrap();
    }
    (engine.weights().unwrap(), engine.sums().unwrap())
}

/// ‖a - b‖ / ‖a‖; NaN is far from everything.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b))) / norm(&mut a.iter().map(|&a| f64::from(a)))
}

#[test]
fn random_shapes_take_the_cpus_steps_on_poisoned_memory() {
    let Some(number) = gpu() else { return };
    poison(number);
    let shapes = number_in(SHAPES_VARIABLE).unwrap_or(SHAPES);
    let mut random = shared::random::stream(11, "gpu shapes", &[]);
    let (mut drawn, mut tried, mut in_f32, mut near) = (0, 0, 0, 0);
    while tried < shapes {
        drawn += 1;
        assert!(drawn < 1000 + 100 * shapes, "the variables leave only {tried} shapes");
        let (plan, rows) = random_case(&mut random);
        if !wanted(&plan) {
            continue;
        }
        tried += 1;
        let exact = StepPlan { precision: Precision::F32, ..plan.clone() };
        let (cpu, cpu_sums) = epoch(&exact, &rows, Device::Cpu);
        let (gpu, gpu_sums) = epoch(&plan, &rows, Device::Cuda(number));
        let found = [distance(&cpu.m, &gpu.m), distance(&cpu.params, &gpu.params)];
        eprintln!(
            "{:?}, batch {} of {} rows, {:?}: m, params differ by {found:?}",
            plan.precision, plan.batch, plan.rows, plan.network
        );
        if plan.precision == Precision::Fp16 {
            let taken = gpu.scale[2] > 0.0;
            assert!(found[0] < HALF && taken, "batch {}, {:?}: {found:?}", plan.batch, plan.network);
            continue;
        }
        assert!(found.iter().all(|&d| d < FAR), "batch {}, {:?}: {found:?}", plan.batch, plan.network);
        in_f32 += 1;
        near += usize::from(found.iter().all(|&d| d < NEAR));
        assert!((cpu_sums.0 - gpu_sums.0).abs() < 1e-4 * cpu_sums.0, "{cpu_sums:?} {gpu_sums:?}");
    }
    assert!(near * 4 >= in_f32 * 3, "only {near} of {in_f32} shapes in f32 agree to rounding");
}

#[test]
fn parts_of_an_epoch_take_the_same_steps_as_everything_on_the_gpu() {
    let Some(number) = gpu() else { return };
    poison(number);
    let mut random = shared::random::stream(12, "gpu shapes", &[]);
    let count = CHUNK_ROWS + 2001;
    let mut images = Images::default();
    for _ in 0..count {
        let occupied: Vec<u16> = (0..2048).filter(|_| random.random_bool(0.01)).collect();
        images.push(occupied.into_iter().map(|place| (place, random.random_range(60.0..2000.0))));
    }
    let network = SimpleCnn {
        height: 128,
        width: 16,
        filters: 8,
        kernel: 3,
        conv_layers: 2,
        dense_layers: 2,
        units: 16,
        dropout: 0.1,
    };
    let plan = StepPlan {
        network,
        normalization: 0.001,
        batch: 200,
        rows: count,
        steps_per_epoch: count.div_ceil(200),
        pieces: 8,
        loss: train::loss::Loss::default(),
        optimizer: train::optimizer::Optimizer::default(),
        precision: Precision::F32,
        seed: 4,
        trial: 1,
    };
    let labels = (0..count).map(|_| f32::from(u8::from(random.random_bool(0.3)))).collect();
    let rows = Rows::whole(images, labels);
    let whole = epoch(&plan, &rows, Device::Cuda(number));
    let parts = epoch(&plan, &Rows { residence: Residence::Parts, ..rows }, Device::Cuda(number));
    let found = distance(&whole.0.params, &parts.0.params);
    eprintln!("parts against everything: params differ by {found:e}, sums {:?} {:?}", whole.1, parts.1);
    // Rooms for other numbers of rows make for products that are summed in another order.
    assert!(found < 1e-4, "{found}");
    assert!((whole.1.0 - parts.1.0).abs() < 1e-5 * whole.1.0);
}
