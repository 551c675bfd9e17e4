//! The CUDA step against the CPU step; skipped, with a word, where there is no GPU.

#![expect(clippy::unwrap_used, reason = "a test may fail")]
#![expect(clippy::float_cmp, reason = "powers of two and counts are exact")]

use std::sync::Arc;

use prost::Message;
use rand::RngExt;
use shared::network::SimpleCnn;
use shared::runtime::{Device, DeviceChoice, OnCpu, Settings};
use shared::split::Images;
use train::Precision;
use train::budget::Residence;
use train::engine::{Engine, Rows, Weights};
use train::forward::MapRows;
use train::graph::lower::{Target, lower};
use train::optimizer::Optimizer;
use train::parameters;
use train::scorer::Scorer;
use train::step::StepPlan;

/// The GPU, or none and a message.
fn gpu() -> Option<Device> {
    if let Ok(device @ Device::Cuda(_)) = DeviceChoice::Auto.resolve() {
        return Some(device);
    }
    eprintln!("SKIPPED: no GPU with a CUDA build of ONNX Runtime here");
    None
}

fn plan(filters: usize, kernel: usize, conv_layers: usize, width: usize, batch: usize) -> StepPlan {
    let network = SimpleCnn {
        height: 128,
        width,
        filters,
        kernel,
        conv_layers,
        dense_layers: 2,
        units: 64,
        dropout: 0.2,
    };
    let rows = 100;
    StepPlan {
        network,
        normalization: 0.001,
        batch,
        rows,
        steps_per_epoch: rows.div_ceil(batch),
        pieces: 8.min(batch),
        loss: train::loss::Loss::default(),
        optimizer: train::optimizer::Optimizer::default(),
        seed: 4,
        trial: 1,
        precision: Precision::F32,
    }
}

/// Images of random pixels, one in twenty occupied; every third row is a main track.
fn random_rows(plan: &StepPlan) -> (Vec<f32>, Vec<f32>) {
    let mut random = shared::random::stream(3, "gpu test", &[]);
    let pixels = plan.rows * plan.network.height * plan.network.width;
    let mut pixel = || if random.random_bool(0.05) { random.random_range(60.0..2000.0) } else { 0.0 };
    let images = (0..pixels).map(|_| pixel()).collect();
    (images, (0..plan.rows).map(|row| f32::from(u8::from(row % 3 == 0))).collect())
}

/// An engine with these rows and its first weights.
fn engine(plan: &StepPlan, images: &Images, labels: &[f32], device: Device) -> Engine {
    let layers = plan.network.layers().unwrap();
    let rows = Rows::whole(images.clone(), labels.to_vec());
    let tf32 = plan.precision == Precision::Tf32;
    let settings = Settings { tf32, ..Settings::new(device, 2) };
    let mut engine = Engine::new(plan, &layers, &rows, &settings).unwrap();
    let parameters = parameters::parameters(&layers, plan.network.kernel);
    engine.load(&Weights::start(parameters::initial_weights(&parameters, 4, 1))).unwrap();
    engine
}

fn start_epoch(engine: &mut Engine, plan: &StepPlan, rate: f32) {
    let order: Vec<i64> =
        (0..plan.steps_per_epoch * plan.batch).map(|slot| (slot % plan.rows) as i64).collect();
    engine.start_epoch(&order, &vec![rate; plan.steps_per_epoch], (0, (0.0, 0.0))).unwrap();
}

/// Weights after three steps, the epoch's sums, and the scores of the rows.
fn three_steps(plan: &StepPlan, device: Device) -> (Weights, (f64, f64), Vec<f32>) {
    let (images, labels) = random_rows(plan);
    let images = Images::new(&images, 128 * plan.network.width);
    let mut engine = engine(plan, &images, &labels, device);
    // A loss scale with which no step of these overflows.
    let start = Weights { scale: [4096.0, 0.0, 1.0], ..engine.weights().unwrap() };
    engine.load(&start).unwrap();
    start_epoch(&mut engine, plan, 1e-4);
    for _ in 0..3.min(plan.steps_per_epoch) {
        engine.step().unwrap();
    }
    let weights = engine.weights().unwrap();
    let layers = plan.network.layers().unwrap();
    let images = Arc::new(images.into());
    let settings = Settings::new(device, 2);
    let mut scorer = Scorer::new(plan, &layers, &images, Residence::Whole, &settings).unwrap();
    let scores = scorer.score(&weights.params).unwrap();
    (weights, engine.sums().unwrap(), scores)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// |a - b| / |a|
fn distance(a: &[f32], b: &[f32]) -> f64 {
    norm(a.iter().zip(b).map(|(a, b)| f64::from(a - b))) / norm(a.iter().map(|&a| f64::from(a)))
}

#[test]
fn the_gpu_takes_the_cpus_steps() {
    let Some(device) = gpu() else { return };
    let mut near = 0;
    for plan in
        [plan(32, 3, 2, 16, 32), plan(85, 3, 2, 16, 33), plan(64, 5, 4, 16, 48), plan(32, 3, 3, 32, 25)]
    {
        let (cpu, cpu_sums, cpu_scores) = three_steps(&plan, Device::Cpu);
        let (gpu, gpu_sums, gpu_scores) = three_steps(&plan, device);
        assert_eq!(cpu.step, gpu.step);
        let found = [
            distance(&cpu.m, &gpu.m),
            distance(&cpu.params, &gpu.params),
            distance(&cpu_scores, &gpu_scores),
        ];
        eprintln!(
            "{:?}: m, params, scores differ by {found:?}, sums {cpu_sums:?} {gpu_sums:?}",
            plan.network
        );
        // Rounding may turn which of four nearly equal elements is the largest, and with it a row's gradient.
        assert!(found.iter().all(|&d| d < 1e-3), "{:?}: {found:?}", plan.network);
        near += usize::from(found.iter().all(|&d| d < 1e-5));
        assert!((cpu_sums.0 - gpu_sums.0).abs() < 1e-4 * cpu_sums.0);
    }
    assert!(near >= 3, "only {near} of 4 networks agree to rounding");
}

#[test]
fn the_gpu_scores_as_the_cpu() {
    let Some(device) = gpu() else { return };
    // The last two are not for our blocks: no conv layer after the first, no dense layer before the last.
    let plans = [
        plan(32, 3, 2, 16, 32),
        plan(85, 3, 2, 16, 33),
        plan(64, 5, 4, 16, 48),
        plan(42, 3, 3, 32, 25),
        plan(16, 3, 0, 16, 20),
        StepPlan {
            network: SimpleCnn { dense_layers: 0, units: 1, ..plan(16, 3, 2, 16, 20).network },
            ..plan(16, 3, 2, 16, 20)
        },
    ];
    for plan in plans {
        // More rows than two runs have, and not a multiple of them.
        let plan = StepPlan { rows: 2_500, precision: Precision::Fp16, ..plan };
        let (images, _) = random_rows(&plan);
        let layers = plan.network.layers().unwrap();
        let images = Arc::new(Images::new(&images, 128 * plan.network.width).into());
        let parameters = parameters::parameters(&layers, plan.network.kernel);
        let weights = parameters::initial_weights(&parameters, 4, 1);
        let scores = |device, residence| {
            let settings = Settings::new(device, 2);
            Scorer::new(&plan, &layers, &images, residence, &settings).unwrap().score(&weights).unwrap()
        };
        let expected = scores(Device::Cpu, Residence::Whole);
        for residence in [Residence::Whole, Residence::Parts] {
            let found = scores(device, residence);
            let apart = distance(&expected, &found);
            eprintln!("{:?}: scores differ by {apart:.1e}", plan.network);
            assert!(apart < 1e-5, "{:?}: {apart}", plan.network);
        }
    }
}

#[test]
fn steps_in_half_precision_are_near_the_cpus_in_f32() {
    let Some(device) = gpu() else { return };
    // Filters of the layers: 32 16 10, 85 42 28, 64 32 21 16 12, 42 21 14 10 (width 32), 21 10.
    for full in [
        plan(32, 3, 2, 16, 32),
        plan(85, 3, 2, 16, 33),
        plan(64, 5, 4, 16, 48),
        plan(42, 3, 3, 32, 25),
        plan(21, 5, 1, 16, 100),
    ] {
        let half = StepPlan { precision: Precision::Fp16, ..full.clone() };
        let (cpu, cpu_sums, cpu_scores) = three_steps(&full, Device::Cpu);
        let (gpu, gpu_sums, gpu_scores) = three_steps(&half, device);
        // The same arithmetic on the CPU: what rounding to halves does to these networks.
        let (like, ..) = three_steps(&half, Device::Cpu);
        let found = [
            distance(&cpu.m, &gpu.m),
            distance(&cpu.params, &gpu.params),
            distance(&cpu_scores, &gpu_scores),
        ];
        let alike = distance(&cpu.m, &like.m);
        eprintln!(
            "{:?}: m, params, scores differ by {found:?} (m in halves on the CPU by {alike:.1e}), sums {cpu_sums:?} {gpu_sums:?}, \
             scale {:?}",
            half.network, gpu.scale
        );
        assert_eq!(gpu.scale, [4096.0, gpu.step as f32, 1.0], "no step is left out");
        assert_eq!(gpu.step, cpu.step);
        // Pools and relus near their edges turn, which moves single gradients and, by Adam, single weights by their rate.
        assert!(found[0] < 0.2 && found[1] < 5e-3 && found[2] < 5e-2, "{:?}: {found:?}", half.network);
        assert!((cpu_sums.0 - gpu_sums.0).abs() < 5e-3 * cpu_sums.0);
    }
}

#[test]
fn the_gpus_loss_scale_leaves_out_what_overflows_and_rises_again() {
    let Some(device) = gpu() else { return };
    let plan = StepPlan {
        steps_per_epoch: 8,
        precision: Precision::Fp16,
        optimizer: Optimizer { weight_decay: 0.1, ..Optimizer::default() },
        ..plan(85, 3, 2, 16, 33)
    };
    let (images, labels) = random_rows(&plan);
    let images = Images::new(&images, 128 * plan.network.width);
    let mut engine = engine(&plan, &images, &labels, device);
    let mut go = |from: &Weights, steps: usize| {
        engine.load(from).unwrap();
        let order: Vec<i64> = (0..8 * plan.batch).map(|slot| (slot % plan.rows) as i64).collect();
        let rates: Vec<f32> = [[1e-4; 8], [1e-5; 8]].concat();
        engine.start_epoch(&order, &rates, (0, (0.0, 0.0))).unwrap();
        for _ in 0..steps {
            engine.step().unwrap();
        }
        assert!(engine.sums().unwrap().0.is_finite());
        engine.weights().unwrap()
    };
    let layers = plan.network.layers().unwrap();
    let start = Weights::start(parameters::initial_weights(&parameters::parameters(&layers, 3), 4, 1));
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let before = go(&start, 1);
    assert_eq!(before.scale, [65_536.0, 1.0, 1.0]);
    let huge = Weights { scale: [2.0_f32.powi(40), 7.0, 1.0], ..before.clone() };
    let after = go(&huge, 5);
    assert_eq!(after.scale, [2.0_f32.powi(35), 0.0, 0.0]);
    for (after, before) in [(&after.params, &before.params), (&after.m, &before.m), (&after.v, &before.v)] {
        assert!(bits(after) == bits(before), "a step that is left out changes nothing");
    }
    assert_eq!(after.step, before.step + 5);
    let full = Weights { scale: [1024.0, 1997.0, 0.0], ..before.clone() };
    let after = go(&full, 4);
    assert_eq!(after.scale, [2048.0, 1.0, 1.0]);
    assert!(bits(&after.params) != bits(&before.params));
}

/// Loss of a row, over the last 50 of 300 steps on tracks of a class each, and the state at the end.
fn last_loss(precision: Precision, filters: usize, device: Device) -> (f64, Weights) {
    let base = plan(filters, 3, 2, 16, 64);
    let rows = 64 * 100;
    let plan = StepPlan { rows, steps_per_epoch: 100, precision, ..base };
    let mut random = shared::random::stream(5, "gpu test", &[]);
    let mut images = vec![0.0; rows * 128 * 16];
    for (row, image) in images.chunks_exact_mut(128 * 16).enumerate() {
        let (tick, channel) = (random.random_range(4..110), random.random_range(0..6));
        for i in 0..10 {
            let (t, c) = if row % 3 == 0 { (tick + i, channel + i / 5) } else { (tick + i / 5, channel + i) };
            image[t * 16 + c] = random.random_range(200.0..900.0);
        }
        // What has nothing to do with the class.
        for _ in 0..40 {
            image[random.random_range(0..128 * 16)] = random.random_range(60.0..400.0);
        }
    }
    // One label in seven is wrong, so that the loss has somewhere to end: some 0.41.
    let mut label = |row: usize| f32::from(u8::from(row.is_multiple_of(3) != random.random_bool(1.0 / 7.0)));
    let labels: Vec<f32> = (0..rows).map(&mut label).collect();
    let images = Images::new(&images, 128 * 16);
    let mut engine = engine(&plan, &images, &labels, device);
    let mut last = 0.0;
    for epoch in 0..3 {
        start_epoch(&mut engine, &plan, 1e-3);
        for step in 0..plan.steps_per_epoch {
            engine.step().unwrap();
            if epoch == 2 && step == 49 {
                last = engine.sums().unwrap().0;
            }
        }
    }
    let loss = (engine.sums().unwrap().0 - last) / (50.0 * 64.0);
    (loss, engine.weights().unwrap())
}

#[test]
fn a_loss_goes_down_in_half_precision_as_in_tf32() {
    let Some(device) = gpu() else { return };
    for filters in [32, 85] {
        let (expected, _) = last_loss(Precision::Tf32, filters, device);
        let (found, weights) = last_loss(Precision::Fp16, filters, device);
        eprintln!("F {filters}: loss {found} in fp16, {expected} in tf32, scale {:?}", weights.scale);
        assert!(expected < 0.5, "tf32 learns: {expected}");
        assert!((found / expected - 1.0).abs() < 0.03, "{found} against {expected}");
        assert!(weights.scale[0] >= 256.0, "{:?}", weights.scale);
    }
}

/// `output = operator(-input)` of two 2 × 2 matrices.
fn one_node(operator: &str) -> Vec<u8> {
    use shared::onnx::{
        DataType, GraphProto, IR_VERSION, ModelProto, NodeProto, OPSET, OperatorSetIdProto, ValueInfoProto,
    };
    let node = |operator: &str, name: &str, input: &str, output: &str| NodeProto {
        input: vec![input.to_owned()],
        output: vec![output.to_owned()],
        name: name.to_owned(),
        op_type: operator.to_owned(),
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![node("Neg", "first", "input", "n"), node(operator, "second", "n", "output")],
        name: "test".to_owned(),
        initializer: Vec::new(),
        input: vec![ValueInfoProto::tensor("input", DataType::F32, &[2, 2, 2])],
        output: vec![ValueInfoProto::tensor("output", DataType::F32, &[2])],
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: OPSET }];
    ModelProto { ir_version: IR_VERSION, graph: Some(graph), opset_import, ..ModelProto::default() }
        .encode_to_vec()
}

#[test]
fn what_falls_to_the_cpu_is_an_error_that_names_the_node() {
    let Some(device) = gpu() else { return };
    let model = one_node("Det");
    for cuda_graph in [false, true] {
        let settings = Settings { cuda_graph, ..Settings::new(device, 1) };
        let error = shared::runtime::session(&model, &settings).unwrap_err().to_string();
        let start = format!("{device} was asked for, but ONNX Runtime computes on the CPU: Det `second`; ");
        assert!(error.starts_with(&start), "{error}");
    }
    let settings = Settings { on_cpu: OnCpu::Warned, ..Settings::new(device, 1) };
    let session = shared::runtime::session(&model, &settings).unwrap();
    let mut nodes = shared::runtime::nodes(&session).unwrap();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let found: Vec<_> = nodes.iter().map(|n| (n.name.as_str(), n.provider.as_str())).collect();
    assert_eq!(found, [("first", "CUDAExecutionProvider"), ("second", "CPUExecutionProvider")]);
}

#[test]
fn a_training_leaves_nothing_but_shapes_to_the_cpu() {
    // The whole step is opened the same way by the test of steps above.
    let Some(device) = gpu() else { return };
    let plan = plan(32, 3, 2, 16, 32);
    let layers = plan.network.layers().unwrap();
    let maps = MapRows::open(&plan.geometry(&layers));
    let settings = Settings { on_cpu: OnCpu::Warned, ..Settings::new(device, 1) };
    for (name, (graph, outputs)) in [
        ("scoring", train::step::scoring(&plan, &layers, &maps, 100).unwrap()),
        ("gradient", train::step::piece_gradient(&plan, &layers).unwrap()),
    ] {
        let model = lower(&graph, &outputs, Target::Stock).encode_to_vec();
        let session = shared::runtime::open_session(&model, &settings).unwrap();
        let nodes = shared::runtime::nodes(&session).unwrap();
        let on_cpu: Vec<_> = nodes.iter().filter(|node| node.provider == "CPUExecutionProvider").collect();
        eprintln!("{name}: {} of {} nodes on the CPU: {on_cpu:?}", on_cpu.len(), nodes.len());
        shared::runtime::check_nodes(&session, &model, &Settings::new(device, 1)).unwrap();
    }
}
