//! From the slopes of the dense layers back to the stem, and the parts of the gradient on the way.

use shared::onnx::DataType;

use super::args::{CellGrad, Goal, How, KernelGrad, PlaceGrad, Product};
use super::forward::Forward;
use super::gradient::Part;
use super::head::HeadOut;
use super::network::{Inputs, Network};
use super::weights::Packed;
use super::{Block, SUMMING_THREADS, Work};
use crate::graph::{Graph, Id};

/// Blocks of threads that leave sums for others to add up.
const SUMMING: usize = 264;
/// The same, where one thread adds them up.
const FEW: usize = 32;

/// What the way back starts from.
pub(super) struct From<'a> {
    pub inputs: &'a Inputs,
    pub packed: &'a Packed,
    pub forward: &'a Forward,
    pub head: &'a HeadOut,
}

/// Sums of row 0's gradient that blocks of threads left, and how many.
type FirstRow = (Id, usize);

impl Network<'_> {
    /// The parts of the gradient, in the order of the flat vector.
    pub fn backward(&self, g: &mut Graph, from: &From) -> Vec<Part> {
        let mut parts = self.dense_parts(g, from);
        let (mut d, first) = self.last_map_grad(g, from);
        let mut first = Some(first);
        for stage in (0..self.stages()).rev() {
            let (of_stage, dx) = self.stage_grad(g, from, stage, d, first.take());
            parts.extend(of_stage);
            d = dx;
        }
        parts.push(self.stem_grad(g, from, d));
        parts.sort_by_key(|part| part.parameter);
        parts
    }

    /// Back through the first dense layer: to each place of the last map, then to the row that stands there; row 0 is apart.
    fn last_map_grad(&self, g: &mut Graph, from: &From) -> (Id, FirstRow) {
        let last = self.stages();
        let (batch, rows) = (self.plan.batch, self.rows[last]);
        let stride = self.stride(self.layers.convs[last].outputs);
        let columns = self.positions * stride;
        let args = Product {
            count: batch as i32,
            taps: 1,
            stride: self.stride(self.hidden()[0].outputs) as i32,
            columns: columns as i32,
            out_stride: columns as i32,
            taps_per_split: 1,
            ..Product::default()
        };
        let outputs = vec![(self.kind, vec![batch, columns])];
        let block = self.product(args, Goal::Rows, [from.packed.dense[1], 0], outputs);
        let [placed] = g.block(block, &[from.head.first, from.packed.weights]);

        let row_blocks = (rows * stride / self.chunk()).div_ceil(SUMMING_THREADS);
        let sum_blocks = self.summing_blocks(batch * self.positions, stride, FEW);
        let args = PlaceGrad {
            count: rows as i32,
            all: (batch * self.positions) as i32,
            stride: stride as i32,
            row_blocks: row_blocks as i32,
            ..PlaceGrad::default()
        };
        let outputs = vec![(self.kind, vec![rows, stride]), (DataType::F32, vec![sum_blocks, stride])];
        let block = Block { outputs, work: Work::PlaceGrad(args), grid: [row_blocks + sum_blocks, 1, 1] };
        let [d, first] = g.block(block, &[placed, from.inputs.found, from.inputs.places]);
        (d, (first, sum_blocks))
    }

    /// From the gradient `d` of the stem's rows.
    fn stem_grad(&self, g: &mut Graph, from: &From, d: Id) -> Part {
        let filters = self.layers.convs[0].outputs;
        let blocks = self.summing_blocks(self.rows[0], self.stride(filters), SUMMING);
        let outputs = vec![(DataType::F32, vec![blocks, (self.kernel + 1) * filters])];
        let block = Block { outputs, work: Work::StemGrad(self.stem()), grid: [blocks, 1, 1] };
        let [stem] = g.block(block, &[from.inputs.pixels, from.forward.maps[0], d]);
        // Its bias comes with it.
        Part { more: filters, ..Part::splits(0, stem, blocks) }
    }

    /// Parts of the gradient that belong to the dense layers.
    fn dense_parts(&self, g: &mut Graph, from: &From) -> Vec<Part> {
        let &From { inputs, forward, head, .. } = from;
        let (convs, batch) = (self.layers.convs.len(), self.plan.batch);
        let (filters, units) = (self.layers.convs[convs - 1].outputs, self.hidden()[0].outputs);
        let args = KernelGrad {
            members: batch as i32,
            taps: self.positions as i32,
            inputs: filters as i32,
            stride: self.stride(filters) as i32,
            outputs: units as i32,
            slope_stride: self.stride(units) as i32,
            ..KernelGrad::default()
        };
        let (block, splits) = self.kernel_grad(args);
        let [first] = g.block(block, &[forward.maps[convs - 1], inputs.places, head.first]);
        let mut parts = vec![Part::splits(2 * convs, first, splits)];
        let columns = head.columns;
        let mut start = 0;
        for (number, layer) in self.layers.denses.iter().enumerate() {
            let slopes = (head.slopes, start);
            let part = Part {
                parameter: 2 * (convs + number) + 1,
                how: How::Columns,
                from: slopes,
                with: slopes,
                count: batch,
                stride: columns + 1,
                with_stride: columns + 1,
                inner: 1,
                more: 0,
            };
            if number > 0 {
                parts.push(Part {
                    parameter: part.parameter - 1,
                    how: How::Outer,
                    from: (head.hidden, start - layer.inputs),
                    stride: columns,
                    inner: layer.outputs,
                    ..part
                });
            }
            parts.push(part);
            start += layer.outputs;
        }
        parts
    }

    /// Back through a stage from the gradient `d` of what it pooled; the gradient of what came in.
    fn stage_grad(
        &self,
        g: &mut Graph,
        from: &From,
        stage: usize,
        d: Id,
        first: Option<FirstRow>,
    ) -> (Vec<Part>, Id) {
        let &From { inputs, packed, forward, .. } = from;
        let (channels, filters) = self.channels(stage);
        let (kernel, stride, cells) = (self.kernel, self.stride(filters), self.rows[stage + 1]);
        let blocks = self.summing_blocks(cells, stride, SUMMING);
        let args = CellGrad {
            cells: cells as i32,
            stride: stride as i32,
            taps: kernel as i32,
            first_parts: first.map_or(0, |(_, count)| count as i32),
            ..CellGrad::default()
        };
        let outputs =
            vec![(self.kind, vec![4 * cells, stride]), (DataType::F32, vec![blocks, kernel + 1, stride])];
        let ids: Vec<Id> =
            [d, forward.choices[stage], inputs.taps[stage]].into_iter().chain(first.map(|f| f.0)).collect();
        let block = Block { outputs, work: Work::CellGrad(args), grid: [blocks, 1, 1] };
        let [slopes, sums] = g.block(block, &ids);

        let args = KernelGrad {
            members: 4 * cells as i32,
            taps: kernel as i32,
            inputs: channels as i32,
            stride: self.stride(channels) as i32,
            outputs: filters as i32,
            slope_stride: stride as i32,
            part_count: blocks as i32,
            sum_rows: kernel as i32 + 1,
            ..KernelGrad::default()
        };
        let (block, splits) = self.kernel_grad(args);
        let [dw, sums, further] = g.block(block, &[forward.maps[stage], inputs.taps[stage], slopes, sums]);

        let args = Product {
            count: self.rows[stage] as i32,
            taps: kernel as i32,
            stride: stride as i32,
            further_rows: kernel as i32,
            columns: channels as i32,
            out_stride: self.stride(channels) as i32,
            taps_per_split: kernel as i32,
            ..Product::default()
        };
        let outputs = vec![(self.kind, vec![self.rows[stage], self.stride(channels)])];
        let block = self.product(args, Goal::Rows, [packed.stages[stage][1], 0], outputs);
        let [dx] = g.block(block, &[slopes, packed.weights, inputs.readers[stage], further]);
        let weight = 2 * (stage + 1);
        let bias = Part { from: (sums, kernel * stride), ..Part::splits(weight + 1, sums, 1) };
        (vec![Part::splits(weight, dw, splits), bias], dx)
    }
}
