//! The network at its active sites against the same network on whole images, and any number of threads against one.

use ort::value::{DynValue, Tensor};
use prost::Message;
use rand::RngExt;
use shared::network::{Layers, SimpleCnn};
use shared::onnx::DataType;
use shared::runtime::{self, Device, Settings};
use shared::split::Images;

use super::{Target, lower};
use crate::engine::{Engine, Rows, Weights};
use crate::forward;
use crate::graph::{Graph, Id};
use crate::loss::Loss;
use crate::parameters::{self, initial_weights, parameters};
use crate::step::StepPlan;

/// Images as the detector gives them: a few short tracks each; the first one is empty, the second one is full.
fn images(rows: usize, height: usize, width: usize) -> Vec<f32> {
    let mut random = shared::random::stream(7, "sites test", &[]);
    let mut images = vec![0.0; rows * height * width];
    for (row, image) in images.chunks_exact_mut(height * width).enumerate().skip(1) {
        if row == 1 {
            image.fill_with(|| random.random_range(60.0..2000.0));
            continue;
        }
        for _ in 0..3 {
            let (start, channel) = (random.random_range(0..height - 6), random.random_range(0..width));
            for tick in start..start + 6 {
                image[tick * width + channel] = random.random_range(60.0..2000.0);
            }
        }
        // Corners and edges, where taps and cells end.
        image[[0, width - 1, (height - 1) * width, height * width - 1][row % 4]] = 500.0;
    }
    images
}

fn plan(filters: usize, kernel: usize, conv_layers: usize, width: usize, batch: usize) -> StepPlan {
    StepPlan {
        network: SimpleCnn {
            height: 128,
            width,
            filters,
            kernel,
            conv_layers,
            dense_layers: 2,
            units: 64,
            dropout: 0.1,
        },
        normalization: 0.001,
        batch,
        rows: batch,
        steps_per_epoch: 1,
        pieces: 1,
        loss: crate::loss::Loss::default(),
        optimizer: crate::optimizer::Optimizer::default(),
        seed: 3,
        trial: 0,
        precision: crate::Precision::F32,
    }
}

/// Gradient `[P]` and loss of one batch on whole images, as Keras and PyTorch compute it.
fn on_images(plan: &StepPlan, layers: &Layers, flat: &[f32], images: &[f32]) -> (Vec<Vec<f32>>, f32) {
    let mut g = Graph::default();
    let SimpleCnn { height, width, .. } = plan.network;
    let x = g.input("images", DataType::F32, &[plan.batch, height, width]);
    let y = g.input("labels", DataType::F32, &[plan.batch]);
    let plain = parameters::plain(layers, &parameters(layers, plan.network.kernel), flat);
    let weights: Vec<Id> = plain
        .iter()
        .enumerate()
        .map(|(number, (shape, _))| g.input(&format!("w{number}"), DataType::F32, shape))
        .collect();
    let logits = forward::on_images(&mut g, layers, &weights, x, plan.normalization, None).unwrap();
    let ones = g.floats(&[plan.batch], vec![1.0; plan.batch]);
    let loss = Loss::default().sum(&mut g, logits, y, ones).unwrap();
    let rows = g.float(plan.batch as f32);
    let mean = g.div(loss, rows).unwrap();
    let gradients = g.gradients(mean, &weights).unwrap();
    let names: Vec<String> = (0..gradients.len()).map(|number| format!("g{number}")).collect();
    let mut outputs: Vec<(&str, Id)> =
        names.iter().map(String::as_str).zip(gradients.iter().copied()).collect();
    outputs.push(("loss", loss));
    let model = lower(&g, &outputs, Target::Stock).encode_to_vec();
    let mut session = runtime::session(&model, &Settings::new(Device::Cpu, 1)).unwrap();
    let tensor =
        |shape: Vec<usize>, values: Vec<f32>| Tensor::from_array((shape, values)).unwrap().into_dyn();
    let mut feeds: Vec<(String, DynValue)> = vec![
        ("images".into(), tensor(vec![plan.batch, height, width], images.to_vec())),
        ("labels".into(), tensor(vec![plan.batch], labels(plan.batch))),
    ];
    for (number, (shape, values)) in plain.into_iter().enumerate() {
        feeds.push((format!("w{number}"), tensor(shape, values)));
    }
    let results = session.run(feeds).unwrap();
    let values = |name: &str| results[name].try_extract_tensor::<f32>().unwrap().1.to_vec();
    (names.iter().map(|name| values(name)).collect(), values("loss")[0])
}

fn labels(rows: usize) -> Vec<f32> {
    (0..rows).map(|row| (row % 2) as f32).collect()
}

/// The gradient of one batch, taken from Adam's first moment after one step, and the batch's loss.
fn at_sites(plan: &StepPlan, layers: &Layers, flat: &[f32], images: &[f32]) -> (Vec<f32>, f32) {
    let pixels = plan.network.height * plan.network.width;
    let rows = Rows::whole(Images::new(images, pixels), labels(plan.batch));
    let mut engine = Engine::new(plan, layers, &rows, &Settings::new(Device::Cpu, 1)).unwrap();
    engine.load(&Weights::start(flat.to_vec())).unwrap();
    engine.start_epoch(&(0..plan.batch as i64).collect::<Vec<i64>>(), &[0.0], (0, (0.0, 0.0))).unwrap();
    engine.step().unwrap();
    // m = 0.1 · gradient
    let m = engine.weights().unwrap().m;
    (m.into_iter().map(|m| m * 10.0).collect(), engine.sums().unwrap().0 as f32)
}

#[test]
fn active_sites_give_the_gradients_of_whole_images_over_all_networks() {
    let cases = [
        (32, 3, 2, 16, 13, 4),
        (32, 5, 4, 16, 7, 1),
        (32, 3, 3, 32, 6, 2),
        (64, 3, 3, 16, 5, 5),
        (64, 5, 4, 32, 3, 1),
        (128, 3, 2, 16, 4, 2),
        (256, 3, 4, 16, 3, 1),
        // Widths and heights that no pool halves evenly, few filters, and no pool at all.
        (20, 4, 2, 16, 5, 1),
        (12, 3, 2, 18, 5, 2),
        (2, 3, 2, 17, 3, 1),
        (4, 2, 1, 15, 4, 1),
        (3, 3, 0, 16, 4, 2),
    ];
    for (filters, kernel, conv_layers, width, batch, pieces) in cases {
        let mut plan = plan(filters, kernel, conv_layers, width, batch);
        plan.network.dropout = 0.0;
        plan.pieces = pieces;
        let layers = plan.network.layers().unwrap();
        let parameters = parameters(&layers, kernel);
        let mut flat = initial_weights(&parameters, 11, 0);
        // Biases away from 0: the background is what they make it.
        flat.iter_mut()
            .filter(|p| **p == 0.0)
            .enumerate()
            .for_each(|(i, p)| *p = (i % 7) as f32 * 0.02 - 0.05);
        let images = images(batch, plan.network.height, width);
        let (whole, loss) = on_images(&plan, &layers, &flat, &images);
        let (found, loss_found) = at_sites(&plan, &layers, &flat, &images);
        let found = parameters::plain(&layers, &parameters, &found);
        let case = format!("F {filters} k {kernel} conv {conv_layers} W {width} batch {batch}");
        assert!((loss - loss_found).abs() <= 1e-5 * loss.abs(), "{case}: loss {loss} and {loss_found}");
        for ((parameter, whole), (_, found)) in parameters.iter().zip(&whole).zip(&found) {
            let largest = whole.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
            assert!(largest > 0.0, "{case}: {} has a gradient", parameter.name);
            for (at, (whole, found)) in whole.iter().zip(found).enumerate() {
                assert!(
                    (whole - found).abs() <= 1e-5 * largest,
                    "{case}: {} element {at}: {whole} on images, {found} at sites, largest {largest}",
                    parameter.name,
                );
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (filters, kernel, conv_layers) in [(32, 3, 2), (64, 5, 4)] {
        let plan = StepPlan {
            rows: 72,
            steps_per_epoch: 3,
            pieces: 8,
            ..plan(filters, kernel, conv_layers, 16, 24)
        };
        let layers = plan.network.layers().unwrap();
        let images = images(plan.rows, 128, 16);
        let images = Images::new(&images, 128 * 16);
        let rows = Rows::whole(images.clone(), (0..plan.rows).map(|row| (row % 2) as f32).collect());
        let start = initial_weights(&parameters(&layers, kernel), 2, 0);
        let train = |threads: usize| {
            let mut engine =
                Engine::new(&plan, &layers, &rows, &Settings::new(Device::Cpu, threads)).unwrap();
            engine.load(&Weights::start(start.clone())).unwrap();
            engine.start_epoch(&(0..72).collect::<Vec<i64>>(), &[0.001; 3], (0, (0.0, 0.0))).unwrap();
            for _ in 0..3 {
                engine.step().unwrap();
            }
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let Weights { params, m, v, .. } = engine.weights().unwrap();
            (bits(params), bits(m), bits(v))
        };
        let one = train(1);
        assert_ne!(one.0, start.iter().map(|p| p.to_bits()).collect::<Vec<_>>(), "the weights move");
        for threads in 2..=4 {
            assert!(train(threads) == one, "F {filters}: {threads} threads and 1 differ");
        }
    }
}
