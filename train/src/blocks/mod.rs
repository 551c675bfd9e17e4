//! A step in blocks of our own, for a GPU: each is one kernel of `engine/blocks.cu`, with everything fused that stock operators
//! do one after another. What they compute is what `forward.rs`, `loss.rs` and the rules of `graph/gradient.rs` say.

pub mod args;

use shared::network::{DenseLayer, Layers};
use shared::onnx::DataType;

use crate::dropout;
use crate::forward::{MapRows, table_name};
use crate::graph::{Graph, Id};
use crate::parameters::{Parameter, parameters};
use crate::step::StepPlan;
use args::{
    CellGrad, Goal, Gradient, GradientPart, Head, How, KernelGrad, MOST_DENSE, MOST_PACKED, MOST_PARTS,
    Order, PackPart, PlaceGrad, Product, Stem, Weights,
};

/// Length of the input `next_tables`: `Data` of `engine/pack.cu`.
pub const TABLE_WORDS: usize = 63;
/// Blocks of threads that keep a large GPU busy.
const ENOUGH: usize = 264;
/// Blocks of threads that leave sums for others to add up.
const SUMMING: usize = 264;
/// The same, where one thread adds them up.
const FEW: usize = 32;
/// Numbers from which on several threads add them up, and length of a gradient that keeps the GPU busy without.
const MANY_SPLITS: usize = 12;
const LONG: usize = 100_000;
/// Most shares of the first dense layer's taps: each is one more number to add up.
const DENSE_SPLITS: usize = 32;
/// Threads of a block that sums, rows of a block of a product: `blocks.cu`'s numbers.
const SUMMING_THREADS: usize = 256;
const BLOCK_ROWS: usize = 128;
const GRAD_ROWS: usize = 32;
const HEAD_ROWS: usize = 4;
const HEAD_THREADS: usize = 512;
const MOST_TAPS: usize = 8;
/// Shared memory that the dense layers may take.
const HEAD_BYTES: usize = 96 * 1024;

/// A size of tiles in which kernel gradients are computed.
struct Tile {
    size: usize,
    /// Blocks of threads that a large GPU has at a time
    blocks: usize,
    /// Operations in a microsecond, roughly (H100)
    flops: f64,
}

const TILES: [Tile; 3] = [
    Tile { size: 32, blocks: 2 * ENOUGH, flops: 60e6 },
    Tile { size: 64, blocks: 2 * ENOUGH, flops: 130e6 },
    Tile { size: 128, blocks: ENOUGH, flops: 230e6 },
];
/// Bytes of partial sums that are written and read in a microsecond, roughly.
const SLAB_BYTES: f64 = 2.5e6;

/// A node that one kernel computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Element types and shapes of the outputs
    pub outputs: Vec<(DataType, Vec<usize>)>,
    /// The kernel, and what it is told
    pub work: Work,
    /// Blocks of threads, by x, y, z
    pub grid: [usize; 3],
}

/// What a block computes; in brackets its inputs and outputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// (params, number of the batch, where the next batch's tables lie; packed, turned); begins to put the next batch together, which
    /// is done when `Gradient` begins
    Weights(Box<Weights>),
    /// (pixels, params; out)
    Stem(Stem),
    /// (pixels, out, d; parts)
    StemGrad(Stem),
    /// (rows, packed, index if there is one, then params if pooled, else the further rows if there are any; out, and the choice
    /// if pooled)
    Product {
        /// What the kernel is told
        args: Product,
        /// Which kernel it is
        goal: Goal,
        /// Columns that a block of threads computes
        columns_of_block: usize,
        /// Where its weights begin in packed
        weights_at: usize,
        /// Where its bias begins in params
        bias_at: usize,
    },
    /// (rows, index, slopes, parts if there are any; out, then sums and the same again)
    KernelGrad {
        /// What the kernel is told
        args: KernelGrad,
        /// Inputs and outputs of a tile
        size: usize,
    },
    /// (d, choice, taps, parts of d's first row if there are any; out, parts)
    CellGrad(CellGrad),
    /// (d, found, places; out, parts)
    PlaceGrad(PlaceGrad),
    /// (parts, params, turned, labels, weights, count, step, scale in half precision; hidden, slopes, first, rows)
    Head(Box<Head>),
    /// (step, batch, sums, rows, scale in half precision, then what `parts` name; the gradient, the next step, batch and sums, and
    /// the next scale)
    Gradient {
        /// What the kernel is told; `from` and `with` of its parts are numbers of inputs
        args: Box<Gradient>,
        /// Where in these inputs
        places: Vec<[usize; 2]>,
    },
}

/// What a step starts from.
pub(crate) struct Start {
    pub params: Id,
    pub step: Id,
    pub batch: Id,
    pub scale: Option<Id>,
}

/// What a step's blocks lead to.
pub(crate) struct Done {
    /// In f32 and without the loss scale, `[P]`
    pub gradient: Id,
    pub step: Id,
    pub batch: Id,
    pub sums: Id,
    pub scale: Option<Id>,
}

/// Why the blocks can't compute a network; they can for `None`.
pub fn uncovered(layers: &Layers, kernel: usize) -> Option<String> {
    let hidden = layers.denses.len() - 1;
    let units: usize = layers.denses[..hidden].iter().map(|layer| layer.outputs).sum();
    // A chunk of columns for each thread, with the smaller chunks of f32.
    let widest = SUMMING_THREADS * 4;
    if layers.convs.len() == 1 {
        Some("no conv layer after the first".into())
    } else if let Some(layer) = layers.convs.iter().find(|layer| layer.outputs > widest) {
        Some(format!("layer `{}` has more than {widest} filters", layer.name))
    } else if kernel > MOST_TAPS {
        Some(format!("kernels of more than {MOST_TAPS} ticks"))
    } else if !(1..=MOST_DENSE).contains(&hidden) {
        Some(format!("{hidden} dense layers, not 1 to {MOST_DENSE}"))
    } else if head_bytes(units) > HEAD_BYTES {
        Some(format!("{units} dense units in all"))
    } else {
        None
    }
}

/// Shared memory of the dense layers.
pub fn head_bytes(units: usize) -> usize {
    4 * HEAD_ROWS * (2 * units + 1 + units.max(HEAD_THREADS))
}

/// The blocks of one step, added to `g`; `maps` has the rows that there is room for.
pub(crate) fn step(g: &mut Graph, plan: &StepPlan, layers: &Layers, maps: &MapRows, start: &Start) -> Done {
    let network = Network::new(plan, layers, maps);
    let inputs = Inputs::new(g, &network);
    let packed = network.weights(g, start);
    let forward = network.forward(g, &inputs, start.params, &packed);
    let head = network.head(g, start, &packed, forward.dense);
    let parts = network.backward(g, &inputs, &packed, &forward, &head);
    network.gradient(g, start, &head, parts)
}

/// Sizes and parameters of a network on a GPU.
struct Network<'a> {
    plan: &'a StepPlan,
    layers: &'a Layers,
    rows: &'a [usize],
    parameters: Vec<Parameter>,
    kernel: usize,
    positions: usize,
    kind: DataType,
}

/// Tables of the batch.
struct Inputs {
    pixels: Id,
    taps: Vec<Id>,
    readers: Vec<Id>,
    places: Id,
    found: Id,
}

/// Weights in the order that products read them.
struct Packed {
    weights: Id,
    turned: Id,
    /// Of each stage: where its weights begin for the way there and back
    stages: Vec<[usize; 2]>,
    dense: [usize; 2],
    /// Of the later dense layers, by number
    transposed: [i32; MOST_DENSE + 1],
}

struct Forward {
    /// The stem's rows, then those of each stage
    maps: Vec<Id>,
    choices: Vec<Id>,
    /// The first dense layer's products, in parts
    dense: Id,
}

struct HeadOut {
    hidden: Id,
    slopes: Id,
    first: Id,
    rows: Id,
    columns: usize,
}

/// A part of the gradient: its parameter, how it comes about, and from what (value, offset).
struct Part {
    parameter: usize,
    how: How,
    /// Elements past the parameter's own that come with it
    more: usize,
    from: (Id, usize),
    with: (Id, usize),
    count: usize,
    stride: usize,
    with_stride: usize,
    inner: usize,
}

impl Inputs {
    fn new(g: &mut Graph, network: &Network) -> Self {
        let (rows, kernel) = (network.rows, network.kernel);
        let stages = network.stages();
        let mut table = |kind: &str, stage: usize, count: usize| {
            g.input(&table_name(kind, stage), DataType::I32, &[count, kernel])
        };
        let taps = (0..stages).map(|stage| table("taps", stage, 4 * rows[stage + 1])).collect();
        let readers = (0..stages).map(|stage| table("readers", stage, rows[stage])).collect();
        Self {
            pixels: g.input("pixels", DataType::F32, &[rows[0], kernel + 1]),
            taps,
            readers,
            places: g.input("places", DataType::I32, &[network.plan.batch * network.positions]),
            found: g.input("found", DataType::I32, &[rows[stages]]),
        }
    }
}

impl<'a> Network<'a> {
    fn new(plan: &'a StepPlan, layers: &'a Layers, maps: &'a MapRows) -> Self {
        Self {
            plan,
            layers,
            rows: &maps.rows,
            parameters: parameters(layers, plan.network.kernel),
            kernel: plan.network.kernel,
            positions: plan.geometry(layers).positions(),
            kind: plan.kind(),
        }
    }

    fn stages(&self) -> usize {
        self.layers.convs.len() - 1
    }

    /// Hidden dense layers.
    fn hidden(&self) -> &[DenseLayer] {
        &self.layers.denses[..self.layers.denses.len() - 1]
    }

    /// Where the weights of a layer (convolutions, then dense ones) begin in the flat vector; its bias follows.
    fn start(&self, layer: usize) -> usize {
        self.parameters[2 * layer].start
    }

    fn bias(&self, layer: usize) -> usize {
        self.parameters[2 * layer + 1].start
    }

    /// Elements in 16 bytes.
    fn chunk(&self) -> usize {
        if self.kind == DataType::F16 { 8 } else { 4 }
    }

    /// Elements between rows of `columns` columns.
    fn stride(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.chunk())
    }

    /// Channels that come into a stage, and that come out.
    fn channels(&self, stage: usize) -> (usize, usize) {
        let layer = &self.layers.convs[stage + 1];
        (layer.inputs, layer.outputs)
    }

    /// Blocks that sum over `rows` rows of this stride, no more than `most`.
    fn summing_blocks(&self, rows: usize, stride: usize, most: usize) -> usize {
        rows.div_ceil(SUMMING_THREADS / (stride / self.chunk())).clamp(1, most)
    }

    fn weights(&self, g: &mut Graph, start: &Start) -> Packed {
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
        let next = g.input("next_tables", DataType::I64, &[TABLE_WORDS]);
        let ids = [start.params, start.batch, next];
        let [weights, turned] = g.block(Block { outputs, work, grid: [blocks, 1, 1] }, &ids);
        Packed { weights, turned, stages, dense, transposed }
    }

    fn forward(&self, g: &mut Graph, inputs: &Inputs, params: Id, packed: &Packed) -> Forward {
        let filters = self.layers.convs[0].outputs;
        let stem = self.stem();
        let outputs = vec![(self.kind, vec![self.rows[0], self.stride(filters)])];
        let grid = [self.summing_blocks(self.rows[0], self.stride(filters), 2 * ENOUGH), 1, 1];
        let [x] = g.block(Block { outputs, work: Work::Stem(stem), grid }, &[inputs.pixels, params]);
        let mut maps = vec![x];
        let mut choices = Vec::new();
        for stage in 0..self.stages() {
            let (channels, filters) = self.channels(stage);
            let product = Product {
                count: 4 * self.rows[stage + 1] as i32,
                taps: self.kernel as i32,
                stride: self.stride(channels) as i32,
                limit: self.rows[stage] as i32,
                columns: filters as i32,
                out_stride: self.stride(filters) as i32,
                taps_per_split: self.kernel as i32,
                ..Product::default()
            };
            let shape = vec![self.rows[stage + 1], self.stride(filters)];
            let outputs = vec![(self.kind, shape.clone()), (DataType::U8, shape)];
            let at = (packed.stages[stage][0], self.bias(stage + 1));
            let block = Self::product(product, Goal::Pooled, at, outputs);
            let [y, choice] = g.block(block, &[maps[stage], packed.weights, inputs.taps[stage], params]);
            maps.push(y);
            choices.push(choice);
        }
        let filters = self.layers.convs[self.stages()].outputs;
        let units = self.hidden()[0].outputs;
        let batch = self.plan.batch;
        let tiles = batch.div_ceil(BLOCK_ROWS) * units.div_ceil(BLOCK_ROWS);
        let shares = (ENOUGH / tiles).clamp(1, DENSE_SPLITS).min(self.positions);
        let per_split = self.positions.div_ceil(shares);
        let splits = self.positions.div_ceil(per_split);
        let product = Product {
            count: batch as i32,
            taps: self.positions as i32,
            stride: self.stride(filters) as i32,
            limit: self.rows[self.stages()] as i32,
            columns: units as i32,
            taps_per_split: per_split as i32,
            ..Product::default()
        };
        let outputs = vec![(DataType::F32, vec![splits, batch, units])];
        let block = Self::product(product, Goal::Parts, (packed.dense[0], 0), outputs);
        let [dense] = g.block(block, &[maps[self.stages()], packed.weights, inputs.places]);
        Forward { maps, choices, dense }
    }

    fn stem(&self) -> Stem {
        let filters = self.layers.convs[0].outputs;
        Stem {
            count: self.rows[0] as i32,
            taps: self.kernel as i32 + 1,
            columns: filters as i32,
            stride: self.stride(filters) as i32,
            ..Stem::default()
        }
    }

    /// A product with as many columns a block as leave enough blocks.
    fn product(
        args: Product,
        goal: Goal,
        (weights_at, bias_at): (usize, usize),
        outputs: Vec<(DataType, Vec<usize>)>,
    ) -> Block {
        let columns = if goal == Goal::Parts { args.columns } else { args.out_stride } as usize;
        let rows = (args.count as usize).div_ceil(BLOCK_ROWS);
        let splits = (args.taps as usize).div_ceil(args.taps_per_split as usize);
        let mut width = columns.next_power_of_two().clamp(16, 128);
        while width > 32 && rows * columns.div_ceil(width) * splits < ENOUGH / 2 {
            width /= 2;
        }
        let work = Work::Product { args, goal, columns_of_block: width, weights_at, bias_at };
        Block { outputs, work, grid: [rows, columns.div_ceil(width), splits] }
    }

    fn head(&self, g: &mut Graph, start: &Start, packed: &Packed, dense: Id) -> HeadOut {
        let (plan, hidden) = (self.plan, self.hidden());
        let batch = plan.batch;
        let columns: usize = hidden.iter().map(|layer| layer.outputs).sum();
        let convs = self.layers.convs.len();
        let (keys, kept) = dropout::numbers(plan);
        let focal = plan.loss.focal;
        let mut args = Head {
            keys,
            part_count: g.shape(dense)[0] as i32,
            batch: batch as i32,
            layers: hidden.len() as i32,
            columns: columns as i32,
            first_stride: self.stride(hidden[0].outputs) as i32,
            transposed: packed.transposed,
            kept,
            smoothing: (plan.loss.label_smoothing / 2.0) as f32,
            gamma: focal.map_or(0.0, |focal| focal.gamma as f32),
            alpha: focal.and_then(|focal| focal.alpha).map_or(-1.0, |alpha| alpha as f32),
            background: plan.loss.class_weights[0] as f32,
            main: plan.loss.class_weights[1] as f32,
            ..Head::default()
        };
        for (number, layer) in self.layers.denses.iter().enumerate() {
            args.weight[number] = self.start(convs + number) as i32;
            args.bias[number] = self.bias(convs + number) as i32;
            if number < hidden.len() {
                args.units[number] = layer.outputs as i32;
            }
        }
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

    /// The parts of the gradient, in the order of the flat vector.
    fn backward(
        &self,
        g: &mut Graph,
        inputs: &Inputs,
        packed: &Packed,
        forward: &Forward,
        head: &HeadOut,
    ) -> Vec<Part> {
        let last = self.stages();
        let (batch, filters) = (self.plan.batch, self.layers.convs[last].outputs);
        let stride = self.stride(filters);
        // Back through the first dense layer: to each place of the last map, then to the row that stands there.
        let args = Product {
            count: batch as i32,
            taps: 1,
            stride: self.stride(self.hidden()[0].outputs) as i32,
            limit: batch as i32,
            columns: (self.positions * stride) as i32,
            out_stride: (self.positions * stride) as i32,
            taps_per_split: 1,
            ..Product::default()
        };
        let outputs = vec![(self.kind, vec![batch, self.positions * stride])];
        let block = Self::product(args, Goal::Rows, (packed.dense[1], 0), outputs);
        let [placed] = g.block(block, &[head.first, packed.weights]);
        let chunks = self.rows[last] * stride / self.chunk();
        let row_blocks = chunks.div_ceil(SUMMING_THREADS);
        let sum_blocks = self.summing_blocks(batch * self.positions, stride, FEW);
        let args = PlaceGrad {
            count: self.rows[last] as i32,
            all: (batch * self.positions) as i32,
            stride: stride as i32,
            row_blocks: row_blocks as i32,
            ..PlaceGrad::default()
        };
        let outputs =
            vec![(self.kind, vec![self.rows[last], stride]), (DataType::F32, vec![sum_blocks, stride])];
        let grid = [row_blocks + sum_blocks, 1, 1];
        let block = Block { outputs, work: Work::PlaceGrad(args), grid };
        let [mut d, first] = g.block(block, &[placed, inputs.found, inputs.places]);
        let mut first = Some((first, sum_blocks));

        let mut parts = self.dense_parts(g, inputs, forward, head);
        for stage in (0..self.stages()).rev() {
            let (of_stage, dx) = self.stage_grad(g, inputs, packed, forward, stage, d, first.take());
            parts.extend(of_stage);
            d = dx;
        }
        let filters = self.layers.convs[0].outputs;
        let blocks = self.summing_blocks(self.rows[0], self.stride(filters), SUMMING);
        let outputs = vec![(DataType::F32, vec![blocks, (self.kernel + 1) * filters])];
        let block = Block { outputs, work: Work::StemGrad(self.stem()), grid: [blocks, 1, 1] };
        let [stem] = g.block(block, &[inputs.pixels, forward.maps[0], d]);
        parts.push(Part { more: filters, ..Part::splits(0, stem, blocks) });
        parts.sort_by_key(|part| part.parameter);
        parts
    }

    /// Parts of the gradient that belong to the dense layers.
    fn dense_parts(&self, g: &mut Graph, inputs: &Inputs, forward: &Forward, head: &HeadOut) -> Vec<Part> {
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
    #[expect(clippy::too_many_arguments, reason = "the values of one stage")]
    fn stage_grad(
        &self,
        g: &mut Graph,
        inputs: &Inputs,
        packed: &Packed,
        forward: &Forward,
        stage: usize,
        d: Id,
        first: Option<(Id, usize)>,
    ) -> (Vec<Part>, Id) {
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
            limit: 4 * cells as i32,
            further_rows: kernel as i32,
            columns: channels as i32,
            out_stride: self.stride(channels) as i32,
            taps_per_split: kernel as i32,
            ..Product::default()
        };
        let outputs = vec![(self.kind, vec![self.rows[stage], self.stride(channels)])];
        let block = Self::product(args, Goal::Rows, (packed.stages[stage][1], 0), outputs);
        let [dx] = g.block(block, &[slopes, packed.weights, inputs.readers[stage], further]);
        let weight = 2 * (stage + 1);
        let bias = Part { from: (sums, kernel * stride), ..Part::splits(weight + 1, sums, 1) };
        (vec![Part::splits(weight, dw, splits), bias], dx)
    }

    /// A kernel's gradient, by tiles of a size that fits and enough shares of the members.
    fn kernel_grad(&self, args: KernelGrad) -> (Block, usize) {
        let [taps, inputs, outputs, members] =
            [args.taps, args.inputs, args.outputs, args.members].map(|n| n as usize);
        let tiles_of = |size: usize| taps * inputs.div_ceil(size) * outputs.div_ceil(size);
        // Microseconds, roughly: large tiles read less for each product, but more of them may lie past the edges, and each leaves
        // more to be added up.
        let cost = |tile: &Tile| {
            let (tiles, elements) = (tiles_of(tile.size) as f64, (tile.size * tile.size) as f64);
            let shares = (tile.blocks as f64 / tiles).max(1.0);
            tiles * elements * (2.0 * members as f64 / tile.flops + shares * 8.0 / SLAB_BYTES)
        };
        let best = TILES.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
        let &Tile { size, blocks, .. } = best.expect("there are some");
        let tiles = tiles_of(size);
        let shares = (blocks / tiles).clamp(1, members.div_ceil(2 * GRAD_ROWS));
        let per_split = members.div_ceil(shares).next_multiple_of(GRAD_ROWS);
        let splits = members.div_ceil(per_split);
        let sums = (args.sum_rows * args.slope_stride) as usize;
        let mut shapes = vec![(DataType::F32, vec![splits, taps * inputs * outputs])];
        if sums > 0 {
            let shape = vec![args.sum_rows as usize, args.slope_stride as usize];
            shapes.extend([(DataType::F32, shape.clone()), (self.kind, shape)]);
        }
        let args = KernelGrad { members_per_split: per_split as i32, tiles: tiles as i32, ..args };
        let grid = [tiles + sums.div_ceil(32), splits, 1];
        (Block { outputs: shapes, work: Work::KernelGrad { args, size }, grid }, splits)
    }

    fn gradient(&self, g: &mut Graph, start: &Start, head: &HeadOut, parts: Vec<Part>) -> Done {
        let sums = g.input("sums", DataType::F32, &[2]);
        let mut ids = vec![start.step, start.batch, sums, head.rows];
        ids.extend(start.scale);
        let mut number_of = |id: Id| {
            ids.iter().position(|&known| known == id).unwrap_or_else(|| {
                ids.push(id);
                ids.len() - 1
            }) as u64
        };
        let mut args =
            Gradient { row_count: self.plan.batch as i32, number: parts.len() as i32, ..Gradient::default() };
        assert!(parts.len() <= MOST_PARTS, "`uncovered` lets no more layers through");
        let (mut places, mut blocks) = (Vec::new(), 0);
        for (goal, part) in args.parts.iter_mut().zip(parts) {
            let parameter = &self.parameters[part.parameter];
            let length = parameter.len() + part.more;
            let few = part.how == How::Splits && (part.count < MANY_SPLITS || length >= LONG);
            let how = if few { How::FewSplits } else { part.how };
            *goal = GradientPart {
                from: number_of(part.from.0),
                with: number_of(part.with.0),
                how: how as i32,
                start: parameter.start as i32,
                length: length as i32,
                count: part.count as i32,
                stride: part.stride as i32,
                with_stride: part.with_stride as i32,
                inner: part.inner as i32,
                first_block: blocks as i32,
            };
            places.push([part.from.1, part.with.1]);
            blocks += length.div_ceil(if few { 1024 } else { 64 });
        }
        let length: usize = self.parameters.iter().map(Parameter::len).sum();
        let mut outputs = vec![
            (DataType::F32, vec![length]),
            (DataType::I64, vec![1]),
            (DataType::I64, vec![1]),
            (DataType::F32, vec![2]),
        ];
        if start.scale.is_some() {
            outputs.push((DataType::F32, vec![crate::scale::START.len()]));
        }
        let work = Work::Gradient { args: Box::new(args), places };
        let block = Block { outputs, work, grid: [blocks, 1, 1] };
        let values = g.blocks(block, &ids);
        Done {
            gradient: values[0],
            step: values[1],
            batch: values[2],
            sums: values[3],
            scale: values.get(4).copied(),
        }
    }
}

impl Part {
    /// The sum over the first axis of a value.
    fn splits(parameter: usize, value: Id, count: usize) -> Self {
        Self {
            parameter,
            how: How::Splits,
            more: 0,
            from: (value, 0),
            with: (value, 0),
            count,
            stride: 0,
            with_stride: 0,
            inner: 1,
        }
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
