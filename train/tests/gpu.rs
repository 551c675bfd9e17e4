//! The CUDA step against the CPU step; skipped, with a word, where there is no GPU.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use prost::Message;
use rand::RngExt;
use shared::network::SimpleCnn;
use shared::runtime::{Device, DeviceChoice, OnCpu, Settings};
use shared::split::Images;
use train::engine::{Engine, Rows, Weights};
use train::forward::MapRows;
use train::graph::lower::{Target, lower};
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
    }
}

/// Weights after three steps, the epoch's sums, and the scores of the rows.
fn three_steps(plan: &StepPlan, device: Device) -> (Weights, (f64, f64), Vec<f32>) {
    let layers = plan.network.layers().unwrap();
    let mut random = shared::random::stream(3, "gpu test", &[]);
    let pixels = plan.rows * plan.network.height * plan.network.width;
    let mut pixel = || if random.random_bool(0.05) { random.random_range(60.0..2000.0) } else { 0.0 };
    let images: Vec<f32> = (0..pixels).map(|_| pixel()).collect();
    let rows = Rows {
        images: &Images::new(&images, 128 * plan.network.width),
        labels: (0..plan.rows).map(|row| f32::from(u8::from(row % 3 == 0))).collect(),
    };
    let settings = Settings::new(device, 2);
    let mut engine = Engine::new(plan, &layers, &rows, &settings).unwrap();
    let parameters = parameters::parameters(&layers, plan.network.kernel);
    engine.load(&Weights::start(parameters::initial_weights(&parameters, 4, 1))).unwrap();
    let order: Vec<i64> =
        (0..plan.steps_per_epoch * plan.batch).map(|slot| (slot % plan.rows) as i64).collect();
    let rates = vec![1e-4; plan.steps_per_epoch];
    engine.start_epoch(&order, &rates).unwrap();
    for _ in 0..3.min(plan.steps_per_epoch) {
        engine.step().unwrap();
    }
    let weights = engine.weights().unwrap();
    let mut scorer = Scorer::new(plan, &layers, rows.images, &settings).unwrap();
    let scores = scorer.score(&weights.params).unwrap();
    (weights, engine.sums().unwrap(), scores)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn the_gpu_takes_the_cpus_steps() {
    let Some(device) = gpu() else { return };
    for plan in
        [plan(32, 3, 2, 16, 32), plan(85, 3, 2, 16, 33), plan(64, 5, 4, 16, 48), plan(32, 3, 3, 32, 25)]
    {
        let (cpu, cpu_sums, cpu_scores) = three_steps(&plan, Device::Cpu);
        let (gpu, gpu_sums, gpu_scores) = three_steps(&plan, device);
        assert_eq!(cpu.step, gpu.step);
        let distance = |a: &[f32], b: &[f32]| {
            norm(a.iter().zip(b).map(|(a, b)| f64::from(a - b))) / norm(a.iter().map(|&a| f64::from(a)))
        };
        let found = [
            distance(&cpu.m, &gpu.m),
            distance(&cpu.params, &gpu.params),
            distance(&cpu_scores, &gpu_scores),
        ];
        eprintln!(
            "{:?}: m, params, scores differ by {found:?}, sums {cpu_sums:?} {gpu_sums:?}",
            plan.network
        );
        assert!(found.iter().all(|&d| d < 1e-4), "{:?}: {found:?}", plan.network);
        assert!((cpu_sums.0 - gpu_sums.0).abs() < 1e-4 * cpu_sums.0);
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
