//! From the pixels to the products of the first dense layer.

use shared::onnx::DataType;

use super::args::{Goal, Product, Stem};
use super::network::{Inputs, Network};
use super::weights::Packed;
use super::{BLOCK_ROWS, Block, ENOUGH, Work};
use crate::graph::{Graph, Id, OPEN};

/// Most shares of the first dense layer's taps: each is one more number to add up.
const DENSE_SPLITS: usize = 32;

/// A number of rows as the kernels are told; 0 for an open one, which each run decides.
fn told(rows: usize) -> i32 {
    if rows < OPEN { rows as i32 } else { 0 }
}

/// What the way there leaves for the way back.
pub(super) struct Forward {
    /// The stem's rows, then those of each stage
    pub maps: Vec<Id>,
    /// Of each stage: which member of a cell the pool took
    pub choices: Vec<Id>,
    /// The first dense layer's products, in parts
    pub dense: Id,
}

impl Network<'_> {
    pub fn forward(&self, g: &mut Graph, inputs: &Inputs, params: Id, packed: &Packed) -> Forward {
        let mut maps = vec![self.stem_rows(g, inputs, params)];
        let mut choices = Vec::new();
        for stage in 0..self.stages() {
            let [rows, choice] = self.pooled(g, inputs, params, packed, stage, maps[stage]);
            maps.push(rows);
            choices.push(choice);
        }
        let dense = self.first_dense(g, inputs, packed, maps[self.stages()]);
        Forward { maps, choices, dense }
    }

    /// What `stem` and `stem_grad` are told.
    pub fn stem(&self) -> Stem {
        let filters = self.layers.convs[0].outputs;
        Stem {
            count: told(self.rows[0]),
            taps: self.kernel as i32 + 1,
            columns: filters as i32,
            stride: self.stride(filters) as i32,
            ..Stem::default()
        }
    }

    fn stem_rows(&self, g: &mut Graph, inputs: &Inputs, params: Id) -> Id {
        let (rows, stride) = (self.rows[0], self.stride(self.layers.convs[0].outputs));
        let outputs = vec![(self.kind, vec![rows, stride])];
        let grid = [self.summing_blocks(rows, stride, 2 * ENOUGH), 1, 1];
        let [rows] =
            g.block(Block { outputs, work: Work::Stem(self.stem()), grid }, &[inputs.pixels, params]);
        rows
    }

    /// Convolution, bias, pool and relu of a stage: its rows, and which member of a cell each pool took.
    fn pooled(
        &self,
        g: &mut Graph,
        inputs: &Inputs,
        params: Id,
        packed: &Packed,
        stage: usize,
        x: Id,
    ) -> [Id; 2] {
        let (channels, filters) = self.channels(stage);
        let args = Product {
            count: told(4 * self.rows[stage + 1]),
            taps: self.kernel as i32,
            stride: self.stride(channels) as i32,
            columns: filters as i32,
            out_stride: self.stride(filters) as i32,
            taps_per_split: self.kernel as i32,
            ..Product::default()
        };
        let shape = vec![self.rows[stage + 1], self.stride(filters)];
        let outputs = vec![(self.kind, shape.clone()), (DataType::U8, shape)];
        let at = [packed.stages[stage][0], self.bias(stage + 1)];
        let block = self.product(args, Goal::Pooled, at, outputs);
        g.block(block, &[x, packed.weights, inputs.taps[stage], params])
    }

    fn first_dense(&self, g: &mut Graph, inputs: &Inputs, packed: &Packed, x: Id) -> Id {
        let filters = self.layers.convs[self.stages()].outputs;
        let (units, batch) = (self.hidden()[0].outputs, self.plan.batch);
        let tiles = batch.div_ceil(BLOCK_ROWS) * units.div_ceil(BLOCK_ROWS);
        let shares = (ENOUGH / tiles).clamp(1, DENSE_SPLITS).min(self.positions);
        let per_split = self.positions.div_ceil(shares);
        let splits = self.positions.div_ceil(per_split);
        let args = Product {
            count: batch as i32,
            taps: self.positions as i32,
            stride: self.stride(filters) as i32,
            columns: units as i32,
            taps_per_split: per_split as i32,
            ..Product::default()
        };
        let outputs = vec![(DataType::F32, vec![splits, batch, units])];
        let block = self.product(args, Goal::Parts, [packed.dense[0], 0], outputs);
        let [parts] = g.block(block, &[x, packed.weights, inputs.places]);
        parts
    }

    /// A product with as many columns a block as leave enough blocks.
    ///
    /// - `at`: where its weights begin in packed, and its bias in params, in elements
    pub fn product(
        &self,
        args: Product,
        goal: Goal,
        at: [usize; 2],
        outputs: Vec<(DataType, Vec<usize>)>,
    ) -> Block {
        let columns = if goal == Goal::Parts { args.columns } else { args.out_stride } as usize;
        // An open number of rows is a large one.
        let rows = if args.count == 0 { ENOUGH } else { (args.count as usize).div_ceil(BLOCK_ROWS) };
        let splits = (args.taps as usize).div_ceil(args.taps_per_split as usize);
        let mut width = columns.next_power_of_two().clamp(16, 128);
        while width > 32 && rows * columns.div_ceil(width) * splits < ENOUGH / 2 {
            width /= 2;
        }
        let (weights_at, bias_at) = (at[0] * self.element(), at[1] * size_of::<f32>());
        let work = Work::Product { args, goal, columns_of_block: width, weights_at, bias_at };
        Block { outputs, work, grid: [rows, columns.div_ceil(width), splits] }
    }
}
