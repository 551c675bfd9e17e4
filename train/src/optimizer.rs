//! The optimiser's step, as a part of a step's graph: clipping, weight decay, Adam.

use shared::config::Training;
use shared::onnx::DataType;

use crate::graph::{Graph, GraphError, Id, Op};
use crate::parameters::Parameter;
use crate::scale;
use crate::step::StepPlan;

/// First-moment decay of Adam.
pub const BETA_1: f64 = 0.9;
/// Second-moment decay of Adam.
pub const BETA_2: f64 = 0.999;
/// Added to the root of the second moment, outside the bias correction, as Keras has it.
pub const EPSILON: f32 = 1e-7;

/// What happens around Adam's step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Optimizer {
    /// Weights, not biases, are first multiplied by 1 - rate · this; the rate is without Adam's bias correction
    pub weight_decay: f64,
    /// What is done to a gradient that is too large
    pub clip: Clip,
}

/// What is done to the gradient of a batch's mean loss before the step, as Keras has it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Clip {
    /// Nothing
    #[default]
    None,
    /// Each element is brought into -c to c
    Value(f64),
    /// The gradient of each weight or bias is scaled down to norm c
    Norm(f64),
    /// All gradients together are scaled down to norm c
    GlobalNorm(f64),
}

impl Optimizer {
    /// What a config asks for.
    pub fn new(training: &Training) -> Self {
        let clip = match (training.clipvalue, training.clipnorm, training.global_clipnorm) {
            (Some(value), _, _) => Clip::Value(value),
            (_, Some(norm), _) => Clip::Norm(norm),
            (_, _, Some(norm)) => Clip::GlobalNorm(norm),
            _ => Clip::None,
        };
        Self { weight_decay: training.weight_decay.unwrap_or(0.0), clip }
    }

    /// Whether weights decay, for which a step needs a second rate.
    pub fn decays(&self) -> bool {
        self.weight_decay != 0.0
    }
}

/// What a step starts from.
pub(crate) struct Start {
    /// `[P]`
    pub params: Id,
    /// Gradient of the whole batch, `[P]`
    pub gradient: Id,
    /// See [`StepPlan::rates`]
    pub rates: Id,
    /// Number of the step in the epoch, `[1]` i64
    pub batch: Id,
    /// Next state of the loss scale, which says whether the step is taken (see [`crate::scale`]); without one it always is
    pub scale: Option<Id>,
}

/// Clipping, weight decay and Adam; returns params, m, v.
pub(crate) fn step(
    g: &mut Graph,
    plan: &StepPlan,
    parameters: &[Parameter],
    start: &Start,
) -> Result<(Id, Id, Id), GraphError> {
    let gradient = clipped(g, plan.optimizer.clip, parameters, start.gradient)?;
    let rate = g.gather(start.rates, start.batch)?;
    let mut params = start.params;
    if plan.optimizer.decays() {
        let steps = g.integer(plan.steps_per_epoch as i64);
        let second = g.add(start.batch, steps)?;
        let mut share = g.gather(start.rates, second)?;
        if let Some(scale) = start.scale {
            let taken = scale::taken(g, scale)?;
            share = g.mul(share, taken)?;
        }
        params = decayed(g, parameters, params, share)?;
    }
    adam(g, params, gradient, rate, start.scale)
}

/// The gradient `[P]`, not too large.
fn clipped(g: &mut Graph, clip: Clip, parameters: &[Parameter], gradient: Id) -> Result<Id, GraphError> {
    match clip {
        Clip::None => Ok(gradient),
        Clip::Value(most) => clamp(g, gradient, most as f32),
        Clip::GlobalNorm(most) => shortened(g, gradient, most as f32),
        Clip::Norm(most) => {
            let mut parts = Vec::new();
            for p in parameters {
                let part =
                    g.apply(Op::Slice { axis: 0, start: p.start, end: p.start + p.len() }, &[gradient])?;
                parts.push(shortened(g, part, most as f32)?);
            }
            g.apply(Op::Concat { axis: 0 }, &parts)
        }
    }
}

/// x between `-most` and `most`; an element that is not finite becomes none.
fn clamp(g: &mut Graph, x: Id, most: f32) -> Result<Id, GraphError> {
    // Selecting by 0 and 1 keeps elements inside to the bit, which sums such as x - relu(x - most) don't.
    let (high, low, one) = (g.float(most), g.float(-most), g.float(1.0));
    let above = g.at_least(x, high)?;
    let below = g.at_least(low, x)?;
    let outside = g.add(above, below)?;
    let inside = g.sub(one, outside)?;
    let kept = g.mul(x, inside)?;
    let sign = g.sub(above, below)?;
    let bounds = g.mul(sign, high)?;
    g.add(kept, bounds)
}

/// x times min(1, most / |x|).
fn shortened(g: &mut Graph, x: Id, most: f32) -> Result<Id, GraphError> {
    let square = g.mul(x, x)?;
    let sum = g.sum_all(square)?;
    let norm = g.sqrt(sum)?;
    // max(norm, most) = most + relu(norm - most), so the factor is exactly 1 for what is short enough.
    let most = g.float(most);
    let excess = g.sub(norm, most)?;
    let excess = g.relu(excess)?;
    let larger = g.add(most, excess)?;
    let factor = g.div(most, larger)?;
    g.mul(x, factor)
}

/// Weights times 1 - `share` `[1]`, biases as they are.
fn decayed(g: &mut Graph, parameters: &[Parameter], params: Id, share: Id) -> Result<Id, GraphError> {
    // A bias is a parameter without fans.
    let of_each = |p: &Parameter| std::iter::repeat_n(f32::from(u8::from(p.fans.is_some())), p.len());
    let which: Vec<f32> = parameters.iter().flat_map(of_each).collect();
    let which = g.floats(&[which.len()], which);
    let lost = g.mul(params, share)?;
    let lost = g.mul(lost, which)?;
    g.sub(params, lost)
}

/// One step of Adam (Kingma & Ba 2015) as Keras computes it; returns params, m, v.
///
/// `rate` `[1]` is `learning rate · √(1 - β₂ᵗ) / (1 - β₁ᵗ)` with t from 1. All three stay as they are where `scale` says that the
/// step is not taken.
fn adam(
    g: &mut Graph,
    params: Id,
    gradient: Id,
    rate: Id,
    scale: Option<Id>,
) -> Result<(Id, Id, Id), GraphError> {
    let shape = g.shape(params).to_vec();
    let m = g.input("m", DataType::F32, &shape);
    let v = g.input("v", DataType::F32, &shape);
    if g.for_gpu {
        let inputs: Vec<Id> = [params, m, v, gradient, rate].into_iter().chain(scale).collect();
        let params = g.apply(Op::Adam, &inputs)?;
        return Ok((params, g.apply(Op::Further(1), &[params])?, g.apply(Op::Further(2), &[params])?));
    }
    let towards = |g: &mut Graph, old: Id, new: Id, share: f64| {
        let share = g.float(share as f32);
        let difference = g.sub(new, old)?;
        let part = g.mul(difference, share)?;
        g.add(old, part)
    };
    let m_next = towards(g, m, gradient, 1.0 - BETA_1)?;
    let square = g.mul(gradient, gradient)?;
    let v_next = towards(g, v, square, 1.0 - BETA_2)?;
    let epsilon = g.float(EPSILON);
    let root = g.sqrt(v_next)?;
    let denominator = g.add(root, epsilon)?;
    let scaled = g.mul(m_next, rate)?;
    let change = g.div(scaled, denominator)?;
    let params_next = g.sub(params, change)?;
    let Some(scale) = scale else { return Ok((params_next, m_next, v_next)) };
    let taken = scale::taken(g, scale)?;
    Ok((g.select(taken, params_next, params)?, g.select(taken, m_next, m)?, g.select(taken, v_next, v)?))
}

#[cfg(test)]
mod tests {
    use ort::value::Tensor;
    use prost::Message;
    use shared::network::SimpleCnn;
    use shared::runtime::{self, Device, Settings};

    use super::*;
    use crate::graph::lower::{Target, lower};
    use crate::loss::Loss;

    const PARAMS: [f32; 5] = [0.5, -1.0, 2.0, 0.25, -0.75];
    const GRADIENT: [f32; 5] = [3.0, -4.0, 12.0, 0.001, -0.5];
    const RATE: f32 = 0.01;

    /// A weight of three elements, a bias of one, and another weight.
    fn parameters() -> Vec<Parameter> {
        let one = |name: &str, start, length, fans| Parameter {
            name: name.into(),
            shape: vec![length],
            start,
            fans,
        };
        vec![
            one("a.weight", 0, 3, Some((1, 1))),
            one("a.bias", 3, 1, None),
            one("b.weight", 4, 1, Some((1, 1))),
        ]
    }

    /// One step from zero moments, the second of an epoch of two: params, m.
    fn step_once(optimizer: Optimizer, gradient: &[f32; 5]) -> (Vec<f32>, Vec<f32>) {
        let network = SimpleCnn {
            height: 8,
            width: 4,
            filters: 1,
            kernel: 3,
            conv_layers: 0,
            dense_layers: 0,
            units: 0,
            dropout: 0.0,
        };
        let plan = StepPlan {
            network,
            normalization: 1.0,
            batch: 1,
            rows: 2,
            steps_per_epoch: 2,
            pieces: 1,
            loss: Loss::default(),
            optimizer,
            seed: 1,
            trial: 1,
            precision: crate::Precision::F32,
        };
        let mut g = Graph::default();
        let start = Start {
            params: g.input("params", DataType::F32, &[5]),
            gradient: g.input("gradient", DataType::F32, &[5]),
            rates: g.input("rates", DataType::F32, &[plan.rates()]),
            batch: g.input("batch", DataType::I64, &[1]),
            scale: None,
        };
        let (params, m, v) = step(&mut g, &plan, &parameters(), &start).unwrap();
        let model = lower(&g, &[("params_next", params), ("m_next", m), ("v_next", v)], Target::Stock);
        let mut session = runtime::session(&model.encode_to_vec(), &Settings::new(Device::Cpu, 1)).unwrap();
        let mut rates = vec![99.0, RATE];
        if optimizer.decays() {
            rates.extend([99.0, RATE * optimizer.weight_decay as f32]);
        }
        let floats = |values: &[f32]| Tensor::from_array(([values.len()], values.to_vec())).unwrap();
        let feeds = ort::inputs![
            "params" => floats(&PARAMS), "gradient" => floats(gradient), "rates" => floats(&rates),
            "m" => floats(&[0.0; 5]), "v" => floats(&[0.0; 5]), "batch" => Tensor::from_array(([1], vec![1_i64])).unwrap()
        ];
        let outputs = session.run(feeds).unwrap();
        let values = |name: &str| outputs[name].try_extract_tensor::<f32>().unwrap().1.to_vec();
        (values("params_next"), values("m_next"))
    }

    /// The gradient that Adam saw: its first moment is a tenth of it.
    fn seen(clip: Clip, gradient: &[f32; 5]) -> Vec<f32> {
        let (_, m) = step_once(Optimizer { clip, ..Optimizer::default() }, gradient);
        m.iter().map(|m| m * 10.0).collect()
    }

    #[track_caller]
    fn near(found: &[f32], expected: [f64; 5]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) / expected - 1.0).abs() < 1e-6, "{found} against {expected}");
        }
    }

    #[test]
    fn gradients_are_clipped_as_keras_does() {
        near(&seen(Clip::Value(3.5), &GRADIENT), [3.0, -3.5, 3.5, 0.001, -0.5]);
        // The first weight has norm 13, the bias 0.001, the second weight 0.5.
        near(&seen(Clip::Norm(0.26), &GRADIENT), [0.06, -0.08, 0.24, 0.001, -0.26]);
        let norm = (169.0_f64 + 1e-6 + 0.25).sqrt();
        let short = 2.0 / norm;
        let expected = [3.0 * short, -4.0 * short, 12.0 * short, 0.001 * short, -0.5 * short];
        near(&seen(Clip::GlobalNorm(2.0), &GRADIENT), expected);
    }

    #[test]
    fn a_gradient_that_is_small_enough_stays_as_it_is_to_the_bit() {
        let plain = step_once(Optimizer::default(), &GRADIENT);
        for clip in [Clip::Value(12.5), Clip::Norm(13.5), Clip::GlobalNorm(13.5)] {
            assert_eq!(step_once(Optimizer { clip, ..Optimizer::default() }, &GRADIENT), plain, "{clip:?}");
        }
        let zeros = [0.0; 5];
        assert_eq!(seen(Clip::GlobalNorm(1.0), &zeros), zeros, "no division of 0 by 0");
    }

    #[test]
    fn a_gradient_without_an_end_stays_visible() {
        let broken = [1.0, f32::INFINITY, 0.0, 0.0, 0.0];
        for clip in [Clip::Value(1.0), Clip::Norm(1.0), Clip::GlobalNorm(1.0)] {
            assert!(seen(clip, &broken)[1].is_nan(), "{clip:?} hides an overflow");
        }
    }

    #[test]
    fn weights_decay_by_the_plain_rate_and_biases_do_not() {
        let (plain, m) = step_once(Optimizer::default(), &GRADIENT);
        let (decayed, same) = step_once(Optimizer { weight_decay: 0.2, ..Optimizer::default() }, &GRADIENT);
        assert_eq!(m, same, "decay is no part of the gradient");
        for (i, weight) in PARAMS.iter().enumerate() {
            let lost = if i == 3 { 0.0 } else { weight * 0.01 * 0.2 };
            assert!((plain[i] - decayed[i] - lost).abs() < 1e-7, "{i}: {} and {}", plain[i], decayed[i]);
        }
        assert_eq!(plain[3].to_bits(), decayed[3].to_bits());
    }

    #[test]
    fn a_config_chooses_one_way_of_clipping() {
        let of = |value| Optimizer::new(&serde_json::from_value(value).unwrap());
        assert_eq!(of(serde_json::json!({})), Optimizer::default());
        assert_eq!(of(serde_json::json!({ "clipvalue": 2 })).clip, Clip::Value(2.0));
        assert_eq!(of(serde_json::json!({ "clipnorm": 2 })).clip, Clip::Norm(2.0));
        let both = of(serde_json::json!({ "global_clipnorm": 2, "weight_decay": 0.1 }));
        assert_eq!(both, Optimizer { weight_decay: 0.1, clip: Clip::GlobalNorm(2.0) });
    }
}
