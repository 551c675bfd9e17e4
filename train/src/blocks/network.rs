//! Sizes and parameters of a network on a GPU, and the tables that its blocks read.

use shared::network::{DenseLayer, Layers};
use shared::onnx::DataType;

use super::{CHUNK, SUMMING_THREADS};
use crate::forward::{MapRows, table_name};
use crate::graph::{Graph, Id};
use crate::parameters::{Parameter, parameters};
use crate::step::StepPlan;

/// Sizes and parameters of a network on a GPU.
pub(super) struct Network<'a> {
    pub plan: &'a StepPlan,
    pub layers: &'a Layers,
    pub rows: &'a [usize],
    pub parameters: Vec<Parameter>,
    pub kernel: usize,
    pub positions: usize,
    pub kind: DataType,
}

/// Tables of the batch.
pub(super) struct Inputs {
    pub pixels: Id,
    pub taps: Vec<Id>,
    pub readers: Vec<Id>,
    pub places: Id,
    pub found: Id,
}

impl Inputs {
    pub fn new(g: &mut Graph, network: &Network) -> Self {
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
    pub fn new(plan: &'a StepPlan, layers: &'a Layers, maps: &'a MapRows) -> Self {
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

    pub fn stages(&self) -> usize {
        self.layers.convs.len() - 1
    }

    /// Hidden dense layers.
    pub fn hidden(&self) -> &[DenseLayer] {
        &self.layers.denses[..self.layers.denses.len() - 1]
    }

    /// Where the weights of a layer (convolutions, then dense ones) begin in the flat vector; its bias follows.
    pub fn start(&self, layer: usize) -> usize {
        self.parameters[2 * layer].start
    }

    pub fn bias(&self, layer: usize) -> usize {
        self.parameters[2 * layer + 1].start
    }

    /// Bytes of an element that products read.
    pub fn element(&self) -> usize {
        if self.kind == DataType::F16 { 2 } else { 4 }
    }

    /// Elements that are copied at a time.
    pub fn chunk(&self) -> usize {
        CHUNK / self.element()
    }

    /// Elements between rows of `columns` columns.
    pub fn stride(&self, columns: usize) -> usize {
        columns.next_multiple_of(self.chunk())
    }

    /// Channels that come into a stage, and that come out.
    pub fn channels(&self, stage: usize) -> (usize, usize) {
        let layer = &self.layers.convs[stage + 1];
        (layer.inputs, layer.outputs)
    }

    /// Blocks that sum over `rows` rows of this stride, no more than `most`.
    pub fn summing_blocks(&self, rows: usize, stride: usize, most: usize) -> usize {
        rows.div_ceil(SUMMING_THREADS / (stride / self.chunk())).clamp(1, most)
    }
}
