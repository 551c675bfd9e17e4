//! Every gradient rule against finite differences, and against values derived by hand.

use std::collections::BTreeSet;

use ort::value::Tensor;
use prost::Message;
use rand::RngExt;
use shared::onnx::DataType;
use shared::runtime::{self, Device, Settings};

use super::lower::{Target, lower};
use super::{Graph, GraphError, Id, Op};

/// Values of `outputs` for the inputs given.
fn evaluate(graph: &Graph, outputs: &[(&str, Id)], inputs: &[(&str, &[usize], &[f32])]) -> Vec<Vec<f32>> {
    let model = lower(graph, outputs, Target::Stock).encode_to_vec();
    let mut session = runtime::session(&model, &Settings::new(Device::Cpu, 1)).expect("a session opens");
    let named: BTreeSet<String> = session.inputs().iter().map(|input| input.name().to_owned()).collect();
    let feeds: Vec<(String, Tensor<f32>)> = inputs
        .iter()
        .filter(|(name, ..)| named.contains(*name))
        .map(|(name, shape, values)| {
            let tensor = Tensor::from_array((shape.to_vec(), values.to_vec())).expect("a tensor is made");
            ((*name).to_owned(), tensor)
        })
        .collect();
    let results = session.run(feeds).expect("the graph runs");
    outputs
        .iter()
        .map(|(name, _)| results[*name].try_extract_tensor::<f32>().expect("f32 comes out").1.to_vec())
        .collect()
}

/// Random values in ±1 but at least 0.1 from 0 and from each other's sign change, so that kinks are far.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut random = shared::random::stream(seed, "gradient test", &[]);
    (0..count)
        .map(|_| {
            let size = random.random_range(0.1..1.0_f32);
            if random.random_bool(0.5) { size } else { -size }
        })
        .collect()
}

/// Compare the gradients of a random weighting of `build`'s output with central differences.
fn check(
    shapes: &[&[usize]],
    step: f32,
    tolerance: f32,
    prepare: impl Fn(usize, Vec<f32>) -> Vec<f32>,
    build: impl Fn(&mut Graph, &[Id]) -> Result<Id, GraphError>,
) {
    let mut g = Graph::default();
    let names: Vec<String> = (0..shapes.len()).map(|i| format!("x{i}")).collect();
    let inputs: Vec<Id> =
        names.iter().zip(shapes).map(|(name, shape)| g.input(name, DataType::F32, shape)).collect();
    let output = build(&mut g, &inputs).unwrap();
    let shape = g.shape(output).to_vec();
    let weights = values(99, shape.iter().product());
    let weights = g.floats(&shape, weights);
    let weighted = g.mul(output, weights).unwrap();
    let loss = g.sum_all(weighted).unwrap();
    let gradients = g.gradients(loss, &inputs).unwrap();
    let data: Vec<Vec<f32>> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| prepare(i, values(i as u64 + 1, shape.iter().product())))
        .collect();
    let run = |data: &[Vec<f32>], outputs: &[(&str, Id)]| {
        let feeds: Vec<(&str, &[usize], &[f32])> = names
            .iter()
            .zip(shapes)
            .zip(data)
            .map(|((name, shape), values)| (name.as_str(), *shape, values.as_slice()))
            .collect();
        evaluate(&g, outputs, &feeds)
    };
    for (i, &gradient) in gradients.iter().enumerate() {
        let found = run(&data, &[("gradient", gradient)]).remove(0);
        for at in 0..data[i].len() {
            let moved = |by: f32| {
                let mut data = data.clone();
                data[i][at] += by;
                f64::from(run(&data, &[("loss", loss)])[0][0])
            };
            let expected = ((moved(step) - moved(-step)) / f64::from(2.0 * step)) as f32;
            assert!(
                (found[at] - expected).abs() <= tolerance * (1.0 + expected.abs()),
                "input {i} element {at}: rule says {}, differences say {expected}",
                found[at]
            );
        }
    }
}

fn as_is(_: usize, values: Vec<f32>) -> Vec<f32> {
    values
}

fn positive(_: usize, values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|x| x.abs() + 0.5).collect()
}

/// Distinct values a quarter apart, in random order: no ties, and no pool winner changes within a step of 0.1.
#[expect(clippy::needless_pass_by_value, reason = "all preparations have one signature")]
fn distinct(_: usize, values: Vec<f32>) -> Vec<f32> {
    let mut ranks: Vec<usize> = (0..values.len()).collect();
    ranks.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut spread = vec![0.0; values.len()];
    for (rank, at) in ranks.into_iter().enumerate() {
        spread[at] = rank as f32 * 0.25 - 3.1;
    }
    spread
}

#[test]
fn add_and_sub_undo_broadcasting() {
    check(&[&[2, 3], &[3]], 0.5, 1e-4, as_is, |g, x| g.add(x[0], x[1]));
    check(&[&[2, 3], &[1]], 0.5, 1e-4, as_is, |g, x| g.sub(x[0], x[1]));
    check(&[&[3], &[2, 3]], 0.5, 1e-4, as_is, |g, x| g.sub(x[0], x[1]));
}

#[test]
fn mul_and_div() {
    check(&[&[2, 3], &[2, 1]], 0.5, 1e-4, as_is, |g, x| g.mul(x[0], x[1]));
    check(&[&[2, 3], &[3]], 0.02, 2e-3, positive, |g, x| g.div(x[0], x[1]));
}

#[test]
fn elementwise_functions() {
    check(&[&[7]], 0.05, 1e-3, as_is, |g, x| g.relu(x[0]));
    check(&[&[7]], 0.05, 1e-3, as_is, |g, x| g.sigmoid(x[0]));
    check(&[&[7]], 0.05, 1e-3, as_is, |g, x| g.softplus(x[0]));
    check(&[&[7]], 0.02, 1e-3, positive, |g, x| g.sqrt(x[0]));
}

#[test]
fn shapes_and_sums() {
    check(&[&[2, 6]], 0.5, 1e-4, as_is, |g, x| g.reshape(x[0], &[3, 4]));
    check(&[&[2, 6]], 0.5, 1e-4, as_is, |g, x| g.apply(Op::Slice { axis: 1, start: 1, end: 4 }, &[x[0]]));
    check(&[&[2, 2], &[2, 3]], 0.5, 1e-4, as_is, |g, x| g.apply(Op::Concat { axis: 1 }, x));
    check(&[&[2, 3], &[2, 3], &[2, 3]], 0.5, 1e-4, as_is, |g, x| g.apply(Op::Sum, x));
    check(&[&[2, 3, 2]], 0.5, 1e-4, as_is, |g, x| g.apply(Op::ReduceSum { axes: vec![0, 2] }, &[x[0]]));
}

#[test]
fn matrix_products() {
    check(&[&[3, 4], &[4, 2]], 0.5, 1e-4, as_is, |g, x| g.matmul(x[0], x[1]));
}

#[test]
fn convolutions_of_every_kernel() {
    check(&[&[2, 2, 6, 2], &[3, 2, 3, 1], &[3]], 0.5, 1e-3, as_is, |g, x| g.conv(x[0], x[1], x[2]));
    check(&[&[1, 1, 7, 3], &[2, 1, 5, 1], &[2]], 0.5, 1e-3, as_is, |g, x| g.conv(x[0], x[1], x[2]));
    check(&[&[2, 3, 4, 1], &[2, 3, 1, 1], &[2]], 0.5, 1e-3, as_is, |g, x| g.conv(x[0], x[1], x[2]));
}

#[test]
fn pools_with_even_and_odd_sizes() {
    check(&[&[1, 2, 4, 2]], 0.1, 1e-3, distinct, |g, x| g.max_pool(x[0]));
    check(&[&[2, 1, 5, 3]], 0.1, 1e-3, distinct, |g, x| g.max_pool(x[0]));
}

#[test]
fn a_convolution_and_its_pool() {
    let kernel = |g: &mut Graph, o: usize, i: usize, k: usize| {
        let count = o * i * k;
        let kernel = (0..count).map(|at| (at as f32 + 0.7).sin()).collect();
        let bias = (0..o).map(|at| at as f32 * 0.25).collect();
        (g.floats(&[o, i, k, 1], kernel), g.floats(&[o], bias))
    };
    for shape in [[1, 1, 6, 2], [2, 2, 6, 4], [1, 3, 7, 2], [1, 2, 6, 3]] {
        check(&[&shape], 0.002, 1e-2, distinct, |g, x| {
            let (w, b) = kernel(g, 3, shape[1], 3);
            let y = g.conv(x[0], w, b)?;
            g.max_pool(y)
        });
    }
    // Two layers with a relu between them, as in the network.
    check(&[&[2, 2, 12, 4]], 0.002, 1e-2, distinct, |g, x| {
        let (w, b) = kernel(g, 4, 2, 3);
        let y = g.conv(x[0], w, b)?;
        let y = g.max_pool(y)?;
        let y = g.relu(y)?;
        let (w, b) = kernel(g, 2, 4, 2);
        let y = g.conv(y, w, b)?;
        let y = g.max_pool(y)?;
        g.relu(y)
    });
}

#[test]
fn a_value_used_twice_gets_both_gradients() {
    check(&[&[3]], 0.05, 1e-3, as_is, |g, x| {
        let square = g.mul(x[0], x[0])?;
        g.add(square, x[0])
    });
}

#[test]
fn the_first_of_equal_pixels_takes_the_whole_pool_gradient() {
    // Sparse images make most windows ties; PyTorch and Keras pass the gradient to the first element alone.
    let mut g = Graph::default();
    let x = g.input("x", DataType::F32, &[1, 1, 2, 4]);
    let y = g.max_pool(x).unwrap();
    let scale = g.floats(&[1, 1, 1, 2], vec![5.0, 7.0]);
    let scaled = g.mul(y, scale).unwrap();
    let loss = g.sum_all(scaled).unwrap();
    let dx = g.gradients(loss, &[x]).unwrap()[0];
    let image = [2.0_f32, 2.0, 1.0, 3.0, 2.0, 2.0, 3.0, 3.0];
    let found = evaluate(&g, &[("dx", dx)], &[("x", &[1, 1, 2, 4], &image)]);
    assert_eq!(found[0], [5.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn the_first_of_equal_members_takes_the_whole_gradient_of_a_cell() {
    check(&[&[8, 3], &[3]], 0.1, 1e-3, distinct, |g, x| g.apply(Op::CellPool, &[x[0], x[1]]));
    let mut g = Graph::default();
    let x = g.input("x", DataType::F32, &[8, 1]);
    let b = g.floats(&[1], vec![0.5]);
    let y = g.apply(Op::CellPool, &[x, b]).unwrap();
    let scale = g.floats(&[2, 1], vec![5.0, 7.0]);
    let scaled = g.mul(y, scale).unwrap();
    let loss = g.sum_all(scaled).unwrap();
    let dx = g.gradients(loss, &[x]).unwrap()[0];
    let members = [2.0_f32, 2.0, 2.0, 2.0, 1.0, 3.0, 3.0, 3.0];
    let found = evaluate(&g, &[("dx", dx)], &[("x", &[8, 1], &members)]);
    assert_eq!(found[0], [5.0, 0.0, 0.0, 0.0, 0.0, 7.0, 0.0, 0.0]);
}

#[test]
fn gradients_derived_by_hand() {
    // z = w · x with x = (1, 2), w = (0.5, -0.25): z = 0; label 1: loss = softplus(0) - 0, d loss/dz = 0.5 - 1.
    let mut g = Graph::default();
    let w = g.input("w", DataType::F32, &[2, 1]);
    let x = g.floats(&[1, 2], vec![1.0, 2.0]);
    let z = g.matmul(x, w).unwrap();
    let softplus = g.softplus(z).unwrap();
    let loss = g.sub(softplus, z).unwrap();
    let loss = g.sum_all(loss).unwrap();
    let dw = g.gradients(loss, &[w]).unwrap()[0];
    let found = evaluate(&g, &[("dw", dw), ("loss", loss)], &[("w", &[2, 1], &[0.5, -0.25])]);
    assert_eq!(found[0], [-0.5, -1.0]);
    assert!((found[1][0] - std::f32::consts::LN_2).abs() < 1e-6);
}

#[test]
fn gradients_flow_through_halves_and_their_long_sums_are_products() {
    for (rows, products) in [(600, 0), (1500, 1)] {
        let mut g = Graph::default();
        let (x, b) = (g.input("x", DataType::F32, &[rows, 2]), g.input("b", DataType::F32, &[2]));
        let (x16, b16) = (g.cast(x, DataType::F16), g.cast(b, DataType::F16));
        let y = g.add(x16, b16).unwrap();
        let factors = g.floats_of(DataType::F16, &[1, 2], vec![0.25, -0.5]);
        let y = g.mul(y, factors).unwrap();
        let y = g.cast(y, DataType::F32);
        let loss = g.sum_all(y).unwrap();
        let gradients = g.gradients(loss, &[x, b]).unwrap();
        let count = g.nodes().iter().filter(|node| matches!(node.op, Op::MatMul { .. })).count();
        assert_eq!(count, products);
        let x = vec![1.0; rows * 2];
        let inputs: [(&str, &[usize], &[f32]); 2] = [("x", &[rows, 2], &x), ("b", &[2], &[0.0, 0.0])];
        let found = evaluate(&g, &[("dx", gradients[0]), ("db", gradients[1])], &inputs);
        assert!(found[0].chunks(2).all(|dx| dx == [0.25, -0.5]));
        assert_eq!(found[1], [0.25 * rows as f32, -0.5 * rows as f32]);
    }
}

#[test]
fn floats_of_two_kinds_are_an_error() {
    let mut g = Graph::default();
    let x = g.input("x", DataType::F32, &[1]);
    let half = g.cast(x, DataType::F16);
    let message = g.add(x, half).unwrap_err().to_string();
    assert_eq!(message, "operation Add can't take element types [F32, F16]");
}

#[test]
fn an_operation_without_a_rule_is_an_error() {
    let mut g = Graph::default();
    let x = g.input("x", DataType::F32, &[1]);
    let y = g.modulo(x, x).unwrap();
    let message = g.gradients(y, &[x]).unwrap_err().to_string();
    assert_eq!(message, "operation Mod has no gradient rule");
}
