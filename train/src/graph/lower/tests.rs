//! Both layouts of the CPU against each other over whole networks, and any number of threads against one.

use ort::value::{DynValue, Tensor};
use prost::Message;
use rand::RngExt;
use shared::network::SimpleCnn;
use shared::runtime::{self, Device, Settings};

use super::{Target, block, lower_with};
use crate::engine::{Engine, Rows, Weights};
use crate::step::{self, StepPlan};

/// Images as the detector gives them: 3 % of the pixels occupied.
fn images(count: usize) -> Vec<f32> {
    let mut random = shared::random::stream(7, "layout test", &[]);
    (0..count)
        .map(|_| if random.random_bool(0.03) { random.random_range(60.0..2000.0) } else { 0.0 })
        .collect()
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
        seed: 3,
        trial: 0,
    }
}

/// The gradient of one batch and its loss, with blocks of this many channels.
fn gradient(plan: &StepPlan, params: &[f32], block: Option<usize>) -> (Vec<f32>, f32) {
    let layers = plan.network.layers().expect("the network has shapes");
    let (graph, outputs) = step::piece_gradient(plan, &layers).expect("the graph is built");
    let model = lower_with(&graph, &outputs, Target::Cpu, block).encode_to_vec();
    let mut session = runtime::session(&model, &Settings::new(Device::Cpu, 1)).expect("a session opens");
    let SimpleCnn { height, width, .. } = plan.network;
    let floats = |shape: Vec<usize>, values: Vec<f32>| -> DynValue {
        Tensor::from_array((shape, values)).expect("a tensor is made").into_dyn()
    };
    let integers = |values: Vec<i64>| -> DynValue {
        Tensor::from_array(([values.len()], values)).expect("a tensor is made").into_dyn()
    };
    let feeds: Vec<(&str, DynValue)> = vec![
        ("params", floats(vec![params.len()], params.to_vec())),
        ("images", floats(vec![plan.rows, height, width], images(plan.rows * height * width))),
        ("labels", floats(vec![plan.rows], (0..plan.rows).map(|row| (row % 2) as f32).collect())),
        ("order", integers((0..plan.batch as i64).collect())),
        ("step", integers(vec![5])),
        ("batch", integers(vec![0])),
        ("piece", integers(vec![0])),
    ];
    let results = session.run(feeds).expect("the graph runs");
    let values = |name: &str| results[name].try_extract_tensor::<f32>().expect("f32 comes out").1.to_vec();
    (values("gradient"), values("sums")[0])
}

#[test]
fn both_layouts_give_the_same_gradients_over_all_networks() {
    let block = block();
    assert!(block.is_some() || !cfg!(target_arch = "x86_64"), "x86-64 has the blocked layout");
    let cases = [
        (32, 3, 2, 16, 130),
        (32, 5, 4, 16, 7),
        (32, 3, 3, 32, 16),
        (64, 3, 3, 16, 9),
        (64, 5, 4, 32, 3),
        (128, 3, 2, 16, 8),
        (128, 5, 3, 32, 1),
        (256, 3, 4, 16, 2),
        (256, 5, 4, 32, 1),
        (256, 5, 4, 16, 3),
        // Widths and heights that no pool halves evenly, and fewer filters than a block has.
        (20, 4, 2, 16, 5),
        (12, 3, 2, 18, 5),
        (2, 3, 2, 16, 3),
    ];
    for (filters, kernel, conv_layers, width, batch) in cases {
        let plan = plan(filters, kernel, conv_layers, width, batch);
        let layers = plan.network.layers().unwrap();
        let parameters = step::parameters(&layers, kernel);
        let mut params = step::initial_weights(&parameters, 11, 0);
        // Biases away from 0, so that theirs are not the same at every pixel.
        params
            .iter_mut()
            .filter(|p| **p == 0.0)
            .enumerate()
            .for_each(|(i, p)| *p = (i % 7) as f32 * 0.02 - 0.06);
        let (plain, loss) = gradient(&plan, &params, None);
        let (blocked, loss_blocked) = gradient(&plan, &params, block);
        let case = format!("F {filters} k {kernel} conv {conv_layers} W {width} batch {batch}");
        assert!((loss - loss_blocked).abs() <= 1e-5 * loss.abs(), "{case}: loss {loss} and {loss_blocked}");
        for parameter in &parameters {
            let range = parameter.start..parameter.start + parameter.len();
            let largest = plain[range.clone()].iter().fold(0.0_f32, |most, g| most.max(g.abs()));
            assert!(largest > 0.0, "{case}: {} has a gradient", parameter.name);
            for at in range {
                let difference = (plain[at] - blocked[at]).abs();
                assert!(
                    difference <= 1e-5 * largest,
                    "{case}: {} element {}: plain {}, blocked {}, largest {largest}",
                    parameter.name,
                    at - parameter.start,
                    plain[at],
                    blocked[at],
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
        let images = images(plan.rows * 128 * 16);
        let rows = Rows { images: &images, labels: (0..plan.rows).map(|row| (row % 2) as f32).collect() };
        let start = step::initial_weights(&step::parameters(&layers, kernel), 2, 0);
        let train = |threads: usize| {
            let mut engine =
                Engine::new(&plan, &layers, &rows, &Settings::new(Device::Cpu, threads)).unwrap();
            engine.load(&Weights::start(start.clone())).unwrap();
            engine.start_epoch(&(0..72).collect::<Vec<i64>>(), &[0.001; 3]).unwrap();
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
