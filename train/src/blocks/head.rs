//! The dense layers past the first product and the loss, there and back.

use shared::onnx::DataType;

use super::args::Head;
use super::network::Network;
use super::weights::Packed;
use super::{Block, HEAD_ROWS, Start, Work};
use crate::dropout;
use crate::graph::{Graph, Id};

pub(super) struct HeadOut {
    pub hidden: Id,
    pub slopes: Id,
    pub first: Id,
    pub rows: Id,
    pub columns: usize,
}

impl Network<'_> {
    /// Where the dense layers' parts, weights and biases are.
    fn denses(&self, g: &Graph, dense: Id) -> Head {
        let (hidden, convs) = (self.hidden(), self.layers.convs.len());
        let mut args = Head {
            part_count: g.shape(dense)[0] as i32,
            batch: self.plan.batch as i32,
            layers: hidden.len() as i32,
            columns: hidden.iter().map(|layer| layer.outputs).sum::<usize>() as i32,
            ..Head::default()
        };
        for (number, layer) in self.layers.denses.iter().enumerate() {
            args.weight[number] = self.start(convs + number) as i32;
            args.bias[number] = self.bias(convs + number) as i32;
            if number < hidden.len() {
                args.units[number] = layer.outputs as i32;
            }
        }
        args
    }

    /// Logits `[batch]` from the first layer's products, without dropout.
    pub fn logits(&self, g: &mut Graph, params: Id, dense: Id) -> Id {
        let batch = self.plan.batch;
        let work = Work::Logits(Box::new(self.denses(g, dense)));
        let outputs = vec![(DataType::F32, vec![batch])];
        let [logits] =
            g.block(Block { outputs, work, grid: [batch.div_ceil(HEAD_ROWS), 1, 1] }, &[dense, params]);
        logits
    }

    pub fn head(&self, g: &mut Graph, start: &Start, packed: &Packed, dense: Id) -> HeadOut {
        let (plan, hidden) = (self.plan, self.hidden());
        let batch = plan.batch;
        let (keys, kept) = dropout::numbers(plan);
        let focal = plan.loss.focal;
        let args = Head {
            keys,
            first_stride: self.stride(hidden[0].outputs) as i32,
            transposed: packed.transposed,
            kept,
            smoothing: (plan.loss.label_smoothing / 2.0) as f32,
            gamma: focal.map_or(0.0, |focal| focal.gamma as f32),
            alpha: focal.and_then(|focal| focal.alpha).map_or(-1.0, |alpha| alpha as f32),
            background: plan.loss.class_weights[0] as f32,
            main: plan.loss.class_weights[1] as f32,
            ..self.denses(g, dense)
        };
        let columns = args.columns as usize;
        let outputs = vec![
            (DataType::F32, vec![batch, columns]),
            (DataType::F32, vec![batch, columns + 1]),
            (self.kind, vec![batch, self.stride(hidden[0].outputs)]),
            (DataType::F32, vec![batch, 2]),
        ];
        let labels = g.input("labels", DataType::F32, &[batch]);
        let counted = g.input("weights", DataType::F32, &[batch]);
        let count = g.input("count", DataType::F32, &[1]);
        let mut ids = vec![dense, start.params, packed.turned, labels, counted, count, start.step];
        ids.extend(start.scale);
        let block =
            Block { outputs, work: Work::Head(Box::new(args)), grid: [batch.div_ceil(HEAD_ROWS), 1, 1] };
        let [hidden, slopes, first, rows] = g.block(block, &ids);
        HeadOut { hidden, slopes, first, rows, columns }
    }
}
