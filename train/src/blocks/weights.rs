//! Weights in the order that products read them.

use shared::onnx::DataType;

use super::args::{MOST_DENSE, MOST_PACKED, Order, PackPart, Weights};
use super::network::Network;
use super::{Block, SUMMING_THREADS, Work};
use crate::graph::{Graph, Id};

/// Weights in the order that products read them.
pub(super) struct Packed {
    pub weights: Id,
    pub turned: Id,
    /// Of each stage: where its weights begin for the way there and back
    pub stages: Vec<[usize; 2]>,
    pub dense: [usize; 2],
    /// Of the later dense layers, by number
    pub transposed: [i32; MOST_DENSE + 1],
}

impl Network<'_> {
    /// - `next`: in a step, the number of the batch and where the next batch's tables lie
    pub fn weights(&self, g: &mut Graph, params: Id, next: Option<[Id; 2]>) -> Packed {
        let mut parts = Parts::default();
        let mut stages = Vec::new();
        for stage in 0..self.stages() {
            let (inputs, outputs) = self.channels(stage);
            let mut add = |order| parts.add(self, order, stage + 1, [self.kernel, inputs, outputs]);
            stages.push([add(Order::Forward), add(Order::Backward)]);
        }
        let convs = self.layers.convs.len();
        let (filters, units) = (self.layers.convs[convs - 1].outputs, self.hidden()[0].outputs);
        let mut add = |order| parts.add(self, order, convs, [self.positions, filters, units]);
        let dense = [add(Order::Forward), add(Order::ByPlace)];
        let mut transposed = [0; MOST_DENSE + 1];
        for (number, layer) in self.hidden().iter().enumerate().skip(1) {
            let at = parts.add(self, Order::Transposed, convs + number, [1, layer.inputs, layer.outputs]);
            transposed[number] = at as i32;
        }
        let outputs = vec![(self.kind, vec![parts.packed]), (DataType::F32, vec![parts.turned.max(1)])];
        let blocks = parts.blocks;
        let work = Work::Weights(Box::new(parts.args));
        let ids: Vec<Id> = std::iter::once(params).chain(next.into_iter().flatten()).collect();
        let [weights, turned] = g.block(Block { outputs, work, grid: [blocks, 1, 1] }, &ids);
        Packed { weights, turned, stages, dense, transposed }
    }
}

/// Weights to pack, and how much there is of them.
#[derive(Default)]
struct Parts {
    args: Weights,
    packed: usize,
    turned: usize,
    blocks: usize,
}

impl Parts {
    /// Add the weights `[taps, inputs, outputs]` of a layer; where they will begin.
    fn add(
        &mut self,
        network: &Network,
        order: Order,
        layer: usize,
        [taps, inputs, outputs]: [usize; 3],
    ) -> usize {
        let (inputs_stride, outputs_stride) = (network.stride(inputs), network.stride(outputs));
        let (length, end) = match order {
            Order::Forward => (outputs * taps * inputs_stride, &mut self.packed),
            Order::Backward => (inputs * taps * outputs_stride, &mut self.packed),
            Order::ByPlace => (taps * inputs_stride * outputs_stride, &mut self.packed),
            Order::Transposed => (inputs * outputs, &mut self.turned),
        };
        let to = *end;
        *end += length;
        assert!((self.args.number as usize) < MOST_PACKED, "`uncovered` lets no more layers through");
        self.args.parts[self.args.number as usize] = PackPart {
            order: order as i32,
            from: network.start(layer) as i32,
            to: to as i32,
            taps: taps as i32,
            inputs: inputs as i32,
            outputs: outputs as i32,
            inputs_stride: inputs_stride as i32,
            outputs_stride: outputs_stride as i32,
            length: length as i32,
            first_block: self.blocks as i32,
        };
        self.args.number += 1;
        self.blocks += length.div_ceil(SUMMING_THREADS);
        to
    }
}
