//! The loss scale of a training in half precision: small gradients times a large number don't vanish among the halves.
//!
//! The gradient is computed of the loss times the scale, and divided by it in f32. Where it is not finite the step is left out
//! and the scale is halved; after [`PATIENCE`] good steps in a row the scale is doubled. All of this is part of the step's graph:
//! the host never looks.

use shared::onnx::DataType;

use crate::graph::{Graph, GraphError, Id, Op};

/// State before the first step: the scale, good steps in a row, and 1 if the last step was taken or 0 if it was left out.
pub const START: [f32; 3] = [65_536.0, 0.0, 1.0];
/// Good steps in a row after which the scale is doubled.
pub const PATIENCE: f32 = 2000.0;
/// Largest scale that doubling leads to. The least is 1: there a step is taken in any case, so that what diverges shows in
/// the loss as it does in f32.
pub const MOST: f32 = 16_777_216.0;

/// The loss times the scale, both `[1]`.
///
/// - `state`: as [`START`]
pub(crate) fn scaled(g: &mut Graph, loss: Id, state: Id) -> Result<Id, GraphError> {
    let scale = part(g, state, 0)?;
    g.mul(loss, scale)
}

/// A gradient in halves as f32, without the scale.
pub(crate) fn unscaled(g: &mut Graph, gradient: Id, state: Id) -> Result<Id, GraphError> {
    let gradient = g.cast(gradient, DataType::F32);
    let scale = part(g, state, 0)?;
    g.div(gradient, scale)
}

/// The state after a step with this gradient `[P]` in f32.
pub(crate) fn next(g: &mut Graph, gradient: Id, state: Id) -> Result<Id, GraphError> {
    let (scale, good) = (part(g, state, 0)?, part(g, state, 1)?);
    let (zero, half, one, two) = (g.float(0.0), g.float(0.5), g.float(1.0), g.float(2.0));
    // 0 if all are finite, else no number.
    let nothing = g.mul(gradient, zero)?;
    let nothing = g.sum_all(nothing)?;
    let finite = g.at_least(nothing, zero)?;
    let lowest = g.at_least(one, scale)?;
    let either = g.add(finite, lowest)?;
    let taken = g.at_least(either, one)?;

    let counted = g.add(good, one)?;
    let (patience, most) = (g.float(PATIENCE), g.float(MOST / 2.0));
    let full = g.at_least(counted, patience)?;
    let rest = g.sub(one, full)?;
    let counted = g.mul(counted, rest)?;
    let good = g.mul(counted, finite)?;

    let room = g.at_least(most, scale)?;
    let rises = g.mul(full, room)?;
    let twice = g.mul(scale, two)?;
    let risen = g.select(rises, twice, scale)?;
    let halved = g.mul(scale, half)?;
    let fallen = g.select(lowest, scale, halved)?;
    let scale = g.select(finite, risen, fallen)?;
    g.apply(Op::Concat { axis: 0 }, &[scale, good, taken])
}

/// [`unscaled`] and [`next`] by one operator of our own.
pub(crate) fn on_gpu(g: &mut Graph, gradient: Id, state: Id) -> Result<(Id, Option<Id>), GraphError> {
    let gradient = g.apply(Op::Unscale, &[gradient, state])?;
    Ok((gradient, Some(g.apply(Op::NextScale, &[gradient])?)))
}

/// 1 if the step is taken that led to this state, else 0: `[1]`.
pub(crate) fn taken(g: &mut Graph, state: Id) -> Result<Id, GraphError> {
    part(g, state, 2)
}

/// One number of the state.
fn part(g: &mut Graph, state: Id, at: usize) -> Result<Id, GraphError> {
    g.apply(Op::Slice { axis: 0, start: at, end: at + 1 }, &[state])
}

#[cfg(test)]
mod tests {
    use ort::value::Tensor;
    use prost::Message;
    use shared::runtime::{self, Device, Settings};

    use super::*;
    use crate::graph::lower::{Target, lower};

    #[test]
    fn the_scale_follows_the_gradients() {
        let mut g = Graph::default();
        let gradient = g.input("gradient", DataType::F32, &[3]);
        let state = g.input("state", DataType::F32, &[3]);
        let next = next(&mut g, gradient, state).unwrap();
        let model = lower(&g, &[("next", next)], Target::Stock).encode_to_vec();
        let mut session = runtime::session(&model, &Settings::new(Device::Cpu, 1)).unwrap();
        let mut after = |gradient: [f32; 3], state: [f32; 3]| {
            let floats = |values: [f32; 3]| Tensor::from_array(([3], values.to_vec())).unwrap();
            let feeds = ort::inputs!["gradient" => floats(gradient), "state" => floats(state)];
            let outputs = session.run(feeds).unwrap();
            outputs["next"].try_extract_tensor::<f32>().unwrap().1.to_vec()
        };
        let good = [0.5, -3e38, 0.0];
        assert_eq!(after(good, START), [65_536.0, 1.0, 1.0]);
        assert_eq!(after(good, [64.0, 5.0, 0.0]), [64.0, 6.0, 1.0], "what was left out before is no matter");
        assert_eq!(after(good, [64.0, PATIENCE - 2.0, 1.0]), [64.0, PATIENCE - 1.0, 1.0]);
        assert_eq!(after(good, [64.0, PATIENCE - 1.0, 1.0]), [128.0, 0.0, 1.0]);
        assert_eq!(after(good, [MOST / 2.0, PATIENCE - 1.0, 1.0]), [MOST, 0.0, 1.0]);
        assert_eq!(after(good, [MOST, PATIENCE - 1.0, 1.0]), [MOST, 0.0, 1.0], "it grows no further");
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let bad = [0.5, bad, f32::INFINITY];
            assert_eq!(after(bad, START), [32_768.0, 0.0, 0.0]);
            assert_eq!(after(bad, [2.0, PATIENCE - 1.0, 1.0]), [1.0, 0.0, 0.0]);
            assert_eq!(after(bad, [1.0, 9.0, 1.0]), [1.0, 0.0, 1.0], "at the least scale the step is taken");
        }
    }
}
