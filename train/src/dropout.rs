//! Dropout masks from a counter-based generator inside the graph.

use rand::RngExt;
use shared::network::Layers;

use crate::graph::{Graph, GraphError, Id, Op};
use crate::step::StepPlan;

/// Modulus of the dropout generator, a Mersenne prime for which x ↦ x⁵ is a permutation.
const PRIME: i64 = (1 << 31) - 1;
/// Rounds of the dropout generator.
const ROUNDS: usize = 4;

/// The dropout masks of one step, for all hidden layers at once.
///
/// The generator is counter-based, as graphs that are captured need it: element number x (row · hidden units + unit + 1,
/// over the units of all layers) goes through four rounds x ↦ (x + kᵣ)⁵ mod 2³¹-1 (the `MiMC` permutation, Albrecht et al.
/// 2016, in a small field), with round keys derived from the step number and the stream `dropout` of (seed, trial).
pub(crate) struct Dropout {
    /// 1 / (1 - rate) where a unit is kept, else 0: `[count, hidden units]`; none without dropout
    mask: Option<Id>,
    /// First and end column of each layer
    columns: Vec<(usize, usize)>,
}

impl Dropout {
    /// Masks of the rows `first..first + count` of the batch.
    pub fn new(
        g: &mut Graph,
        plan: &StepPlan,
        layers: &Layers,
        step: Id,
        first: Id,
        count: usize,
    ) -> Result<Self, GraphError> {
        let mut columns: Vec<(usize, usize)> = Vec::new();
        for layer in &layers.denses[..layers.denses.len() - 1] {
            let start = columns.last().map_or(0, |&(_, end)| end);
            columns.push((start, start + layer.outputs));
        }
        let units = columns.last().map_or(0, |&(_, end)| end);
        let rate = plan.network.dropout;
        if rate == 0.0 || units == 0 {
            return Ok(Self { mask: None, columns });
        }
        let (numbers, kept) = numbers(plan);
        let (bound, kept_factor) = (numbers[2 * ROUNDS], vec![kept]);
        if g.for_gpu {
            // The whole batch: its first row is row 0.
            let numbers = g.integers(&[numbers.len()], numbers.to_vec());
            let factor = g.floats_of(plan.kind(), &[1], kept_factor);
            let mask = g.apply(Op::DropoutMask { rows: count, units }, &[step, numbers, factor])?;
            return Ok(Self { mask: Some(mask), columns });
        }
        let prime = g.integer(PRIME);
        let local = g.integers(&[count, units], (1..=(count * units) as i64).collect());
        let width = g.integer(units as i64);
        let offset = g.mul(first, width)?;
        let mut h = g.add(local, offset)?;
        for &[times, plus] in numbers[..2 * ROUNDS].as_chunks().0 {
            let (times, plus) = (g.integer(times), g.integer(plus));
            let moved = g.mul(step, times)?;
            let moved = g.add(moved, plus)?;
            let key = g.modulo(moved, prime)?;
            let sum = g.add(h, key)?;
            let base = g.modulo(sum, prime)?;
            let second = product(g, base, base, prime)?;
            let fourth = product(g, second, second, prime)?;
            h = product(g, fourth, base, prime)?;
        }
        let bound = g.integer(bound);
        let kept = g.at_least(h, bound)?;
        let factor = g.floats(&[1], kept_factor);
        let mask = g.mul(kept, factor)?;
        Ok(Self { mask: Some(g.cast(mask, plan.kind())), columns })
    }

    /// x `[count, units]` of a layer with dropped elements 0 and the others divided by 1 - rate.
    pub fn apply(&self, g: &mut Graph, x: Id, layer: usize) -> Result<Id, GraphError> {
        let Some(mask) = self.mask else { return Ok(x) };
        let (start, end) = self.columns[layer];
        let mask = g.apply(Op::Slice { axis: 1, start, end }, &[mask])?;
        g.mul(x, mask)
    }
}

/// Factor and summand of each round and the bound below which a unit is dropped, and the factor of what is kept: 0 without
/// dropout.
pub(crate) fn numbers(plan: &StepPlan) -> ([i64; 2 * ROUNDS + 1], f32) {
    let rate = plan.network.dropout;
    let mut random = shared::random::stream(plan.seed, "dropout", &[plan.trial]);
    let mut numbers = [0; 2 * ROUNDS + 1];
    for [times, plus] in numbers.as_chunks_mut().0 {
        (*times, *plus) = (random.random_range(1..PRIME), random.random_range(0..PRIME));
    }
    numbers[2 * ROUNDS] = (rate * PRIME as f64).round() as i64;
    (numbers, if rate == 0.0 { 0.0 } else { (1.0 / (1.0 - rate)) as f32 })
}

/// a · b mod `prime`
fn product(g: &mut Graph, a: Id, b: Id, prime: Id) -> Result<Id, GraphError> {
    let product = g.mul(a, b)?;
    g.modulo(product, prime)
}

#[cfg(test)]
mod tests {
    use ort::value::Tensor;
    use prost::Message;
    use shared::network::SimpleCnn;
    use shared::onnx::DataType;
    use shared::runtime::{self, Device, Settings};

    use super::*;
    use crate::graph::lower::{Target, lower};

    const UNITS: usize = 64;

    /// The mask of the first dense layer for 128 rows from row `first` on, at a step.
    fn mask(step: i64, first: i64, trial: u64) -> Vec<f32> {
        let network = SimpleCnn {
            height: 16,
            width: 16,
            filters: 8,
            kernel: 3,
            conv_layers: 1,
            dense_layers: 1,
            units: UNITS,
            dropout: 0.3,
        };
        let layers = network.layers().unwrap();
        let plan = StepPlan {
            network,
            normalization: 1.0,
            batch: 256,
            rows: 256,
            steps_per_epoch: 1,
            pieces: 1,
            loss: crate::loss::Loss::default(),
            optimizer: crate::optimizer::Optimizer::default(),
            seed: 9,
            trial,
            precision: crate::Precision::F32,
        };
        let mut g = Graph::default();
        let step_id = g.input("step", DataType::I64, &[1]);
        let first_id = g.input("first", DataType::I64, &[1]);
        let dropout = Dropout::new(&mut g, &plan, &layers, step_id, first_id, 128).unwrap();
        let ones = g.floats(&[128, UNITS], vec![1.0; 128 * UNITS]);
        let mask = dropout.apply(&mut g, ones, 0).unwrap();
        let model = lower(&g, &[("mask", mask)], Target::Stock).encode_to_vec();
        let mut session = runtime::session(&model, &Settings::new(Device::Cpu, 1)).unwrap();
        let scalar = |value: i64| Tensor::from_array(([1], vec![value])).unwrap();
        let outputs = session.run(ort::inputs!["step" => scalar(step), "first" => scalar(first)]).unwrap();
        outputs["mask"].try_extract_tensor::<f32>().unwrap().1.to_vec()
    }

    #[test]
    fn dropout_keeps_the_expected_share_and_the_mean() {
        let mask = mask(5, 0, 0);
        let kept = mask.iter().filter(|&&m| m > 0.0).count() as f64 / mask.len() as f64;
        // 8192 draws at 0.7: the standard deviation is 0.005.
        assert!((kept - 0.7).abs() < 0.02, "{kept}");
        assert!(mask.iter().all(|&m| m == 0.0 || (m - 1.0 / 0.7).abs() < 1e-6));
        for unit in 0..UNITS {
            let kept = (0..128).filter(|row| mask[row * UNITS + unit] > 0.0).count();
            assert!((64..116).contains(&kept), "unit {unit} is kept {kept} times of 128");
        }
    }

    #[test]
    fn dropout_differs_by_step_and_trial_and_agrees_between_pieces() {
        let base = mask(5, 0, 0);
        let share = |other: &[f32]| {
            base.iter().zip(other).filter(|(a, b)| a.to_bits() == b.to_bits()).count() as f64
                / base.len() as f64
        };
        // Independent masks agree at 0.7² + 0.3² = 0.58 of the places.
        for other in [mask(6, 0, 0), mask(5, 0, 1), mask(5, 128, 0), mask(1_000_005, 0, 0)] {
            assert!((share(&other) - 0.58).abs() < 0.03, "{}", share(&other));
        }
        // Row 64 of the batch has one mask, whichever piece it lies in.
        assert_eq!(mask(5, 64, 0)[..UNITS], base[64 * UNITS..65 * UNITS]);
    }
}
