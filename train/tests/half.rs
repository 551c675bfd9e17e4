//! Steps in half precision on the CPU, where ONNX Runtime rounds to halves between operators of f32: the arithmetic of the loss
//! scale and of mixed precision without a GPU.

#![expect(clippy::unwrap_used, reason = "a test may fail")]
#![expect(clippy::float_cmp, reason = "powers of two and counts are exact")]

use rand::RngExt;
use shared::network::SimpleCnn;
use shared::runtime::{Device, Settings};
use shared::split::Images;
use train::Precision;
use train::engine::{Engine, Rows, Weights};
use train::optimizer::{Clip, Optimizer};
use train::parameters;
use train::step::StepPlan;

const HEIGHT: usize = 128;

fn plan(filters: usize, kernel: usize, conv_layers: usize, width: usize) -> StepPlan {
    let network = SimpleCnn {
        height: HEIGHT,
        width,
        filters,
        kernel,
        conv_layers,
        dense_layers: 2,
        units: 24,
        dropout: 0.2,
    };
    let rows = 24;
    StepPlan {
        network,
        normalization: 0.001,
        batch: rows,
        rows,
        steps_per_epoch: 1,
        pieces: 3,
        loss: train::loss::Loss::default(),
        optimizer: Optimizer::default(),
        seed: 4,
        trial: 1,
        precision: Precision::Fp16,
    }
}

/// An engine on the CPU, and weights with biases away from 0.
fn engine(plan: &StepPlan) -> (Engine, Weights) {
    let layers = plan.network.layers().unwrap();
    let mut random = shared::random::stream(3, "half test", &[]);
    let pixels = HEIGHT * plan.network.width;
    let mut pixel = || if random.random_bool(0.03) { random.random_range(60.0..2000.0) } else { 0.0 };
    let images: Vec<f32> = (0..plan.rows * pixels).map(|_| pixel()).collect();
    let rows = Rows::whole(
        Images::new(&images, pixels),
        (0..plan.rows).map(|row| f32::from(u8::from(row % 3 == 0))).collect(),
    );
    let engine = Engine::new(plan, &layers, &rows, &Settings::new(Device::Cpu, 2)).unwrap();
    let parameters = parameters::parameters(&layers, plan.network.kernel);
    let mut start = parameters::initial_weights(&parameters, 4, 1);
    let biases = start.iter_mut().filter(|p| **p == 0.0);
    biases.enumerate().for_each(|(i, p)| *p = (i % 7) as f32 * 0.02 - 0.05);
    (engine, Weights::start(start))
}

/// Weights after one more step at this rate, and the loss of the batch.
fn step(engine: &mut Engine, plan: &StepPlan, from: &Weights, rate: f32) -> (Weights, f64) {
    engine.load(from).unwrap();
    let mut rates = vec![rate; plan.steps_per_epoch];
    rates.resize(plan.rates(), rate * plan.optimizer.weight_decay as f32);
    engine.start_epoch(&(0..plan.batch as i64).collect::<Vec<i64>>(), &rates, (0, (0.0, 0.0))).unwrap();
    engine.step().unwrap();
    (engine.weights().unwrap(), engine.sums().unwrap().0)
}

/// |a - b| / |b|
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b)))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn gradients_in_halves_agree_with_those_in_f32() {
    // Rounding turns a pool or a relu whose candidates are near each other: the more layers, the more. Without pools it's 1e-3.
    let cases = [(10, 3, 0, 16, 2e-3), (20, 4, 2, 16, 3e-2), (12, 3, 2, 18, 3e-2), (21, 5, 3, 16, 2e-1)];
    for (filters, kernel, conv_layers, width, tolerance) in cases {
        let half = plan(filters, kernel, conv_layers, width);
        let full = StepPlan { precision: Precision::F32, ..half.clone() };
        let ((mut halves, start), (mut floats, _)) = (engine(&half), engine(&full));
        let (found, loss) = step(&mut halves, &half, &start, 0.0);
        let (expected, expected_loss) = step(&mut floats, &full, &start, 0.0);
        let layers = half.network.layers().unwrap();
        for p in parameters::parameters(&layers, kernel) {
            // Adam's first moment is a tenth of the gradient.
            let of = |weights: &Weights| weights.m[p.start..p.start + p.len()].to_vec();
            let d = distance(&of(&found), &of(&expected));
            let tolerance = if p.name.starts_with("output") { 2e-3 } else { tolerance };
            assert!(d < tolerance, "F {filters} k {kernel} conv {conv_layers}: {} differs by {d}", p.name);
            assert!(d > 1e-6, "F {filters}: {} shows no rounding to halves", p.name);
        }
        assert!((loss / expected_loss - 1.0).abs() < 1e-3, "{loss} against {expected_loss}");
        assert_eq!(found.scale, [65_536.0, 1.0, 1.0]);
        assert_eq!(expected.scale, start.scale, "f32 has no use for a scale");
    }
}

#[test]
fn a_step_that_overflows_is_left_out_and_halves_the_scale() {
    let optimizer = Optimizer { weight_decay: 0.1, clip: Clip::GlobalNorm(1.0) };
    for optimizer in [Optimizer::default(), optimizer] {
        let plan = StepPlan { optimizer, ..plan(12, 3, 2, 16) };
        let (mut engine, start) = engine(&plan);
        // Moments of an earlier step, which would move the weights even without a gradient.
        let (mut before, expected_loss) = step(&mut engine, &plan, &start, 0.001);
        assert_ne!(bits(&before.params), bits(&start.params));
        let scale = 2.0_f32.powi(30);
        before.scale = [scale, 7.0, 1.0];
        let (after, loss) = step(&mut engine, &plan, &before, 0.001);
        assert_eq!(after.scale, [scale / 2.0, 0.0, 0.0]);
        assert_eq!(bits(&after.params), bits(&before.params));
        assert_eq!(bits(&after.m), bits(&before.m));
        assert_eq!(bits(&after.v), bits(&before.v));
        assert_eq!(after.step, before.step + 1, "the step counts all the same");
        assert!((loss / expected_loss - 1.0).abs() < 0.1, "its loss is a number: {loss}");
        // Halving goes on until a step counts again.
        let mut now = after;
        let mut left_out = 1;
        while now.scale[2] == 0.0 {
            left_out += 1;
            now = step(&mut engine, &plan, &now, 0.001).0;
        }
        assert!((5..20).contains(&left_out), "{left_out} steps were left out");
        assert_eq!(now.scale[1], 1.0);
        assert!(now.params.iter().all(|p| p.is_finite()) && bits(&now.params) != bits(&before.params));
    }
}

#[test]
fn good_steps_in_a_row_double_the_scale() {
    let plan = plan(12, 3, 1, 16);
    let (mut engine, mut weights) = engine(&plan);
    weights.scale = [1024.0, 1998.0, 1.0];
    let (weights, _) = step(&mut engine, &plan, &weights, 0.001);
    assert_eq!(weights.scale, [1024.0, 1999.0, 1.0]);
    let (weights, _) = step(&mut engine, &plan, &weights, 0.001);
    assert_eq!(weights.scale, [2048.0, 0.0, 1.0]);
}

#[test]
fn the_gradient_does_not_depend_on_the_scale() {
    let plan = plan(16, 3, 2, 16);
    let (mut engine, start) = engine(&plan);
    let mut gradient = |scale: f32| {
        let from = Weights { scale: [scale, 0.0, 1.0], ..start.clone() };
        step(&mut engine, &plan, &from, 0.0).0.m
    };
    let expected = gradient(4096.0);
    for scale in [256.0, 16_384.0, 65_536.0] {
        // A power of two moves exponents only, but for the smallest elements, which have fewer digits.
        let d = distance(&gradient(scale), &expected);
        assert!(d < 2e-4, "scale {scale}: {d}");
    }
    // What a scale is for: small elements lose their digits or vanish.
    let d = distance(&gradient(2.0_f32.powi(-12)), &expected);
    assert!(d > 1e-3, "a scale far too small: {d}");
}

#[test]
fn activations_past_the_largest_half_leave_the_loss_a_number() {
    let half = plan(20, 3, 2, 16);
    let full = StepPlan { precision: Precision::F32, ..half.clone() };
    let ((mut halves, start), (mut floats, _)) = (engine(&half), engine(&full));
    // Weights with which products of some layers end beyond 65,504, with both signs.
    let huge = Weights { params: start.params.iter().map(|p| p * 500.0).collect(), ..start };
    let (_, expected) = step(&mut floats, &full, &huge, 0.0);
    let (found, loss) = step(&mut halves, &half, &huge, 1e-3);
    assert!(expected.is_finite() && expected > 1e8, "the test is about large activations: {expected}");
    assert!(loss.is_finite() && loss > 1e3, "{loss}");
    assert!(found.params.iter().chain(&found.m).all(|value| value.is_finite()));
}
