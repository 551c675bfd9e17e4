//! A step in blocks of our own, for a GPU: each is one kernel of `engine/cuda`, with everything fused that stock operators
//! do one after another. What they compute is what `forward.rs`, `loss.rs` and the rules of `graph/gradient.rs` say.

pub mod args;
mod backward;
mod forward;
mod gradient;
mod head;
mod kernel_grad;
mod network;
mod weights;

use shared::network::Layers;
use shared::onnx::DataType;

use crate::forward::MapRows;
use crate::graph::{Graph, Id};
use crate::step::StepPlan;
use args::{CellGrad, Goal, Gradient, Head, KernelGrad, MOST_DENSE, PlaceGrad, Product, Stem, Weights};
use backward::From;
use network::{Inputs, Network};

/// Most maps of a network: what `Data` of `engine/cuda/pack.cu` has room for.
pub const MOST_MAPS: usize = 8;
/// Length of the input `next_tables`: `Data` of `engine/cuda/pack.cu`.
pub const TABLE_WORDS: usize = 63;
/// Blocks of threads that keep a large GPU busy.
const ENOUGH: usize = 264;
// Numbers of the kernels, by the names that they have there.
pub(crate) const BLOCK_ROWS: usize = 128;
const STAGES: usize = 4;
const STEP: usize = 4;
const GRAD_ROWS: usize = 32;
const GRAD_STAGES: usize = 3;
const SUMMING_THREADS: usize = 256;
const MOST_TAPS: usize = 8;
const HEAD_ROWS: usize = 4;
const HEAD_THREADS: usize = 512;
/// Bytes that products copy at a time.
const CHUNK: usize = 16;
/// Shared memory that the dense layers may take: what a GPU from compute capability 8.0 on has for a block of
/// threads, and a little less.
const HEAD_BYTES: usize = 96 * 1024;

/// A node that one kernel computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Element types and shapes of the outputs; open lengths (see [`crate::graph::OPEN`]) are those of the tables
    pub outputs: Vec<(DataType, Vec<usize>)>,
    /// The kernel, and what it is told
    pub work: Work,
    /// Blocks of threads, by x, y, z; x of a product follows its rows where they are open
    pub grid: [usize; 3],
}

/// What a block computes; in brackets its inputs and outputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// (params; packed, turned), in a step (params, number of the batch, where the next batch's tables lie; packed, turned): there it
    /// begins to put the next batch together, which is done when `Gradient` begins
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
        /// Where its weights begin in packed, in bytes
        weights_at: usize,
        /// Where its bias begins in params, in bytes
        bias_at: usize,
    },
    /// (rows, index, slopes, parts if there are any; out, then sums and the same again)
    KernelGrad {
        /// What the kernel is told
        args: KernelGrad,
        /// Inputs and outputs of a tile
        size: usize,
        /// Bytes of an element of the rows
        element: usize,
    },
    /// (d, choice, taps, parts of d's first row if there are any; out, parts)
    CellGrad(CellGrad),
    /// (d, found, places; out, parts)
    PlaceGrad(PlaceGrad),
    /// (parts, params, turned, labels, weights, count, step, scale in half precision; hidden, slopes, first, rows)
    Head(Box<Head>),
    /// (parts, params; logits)
    Logits(Box<Head>),
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
    } else if layers.convs.len() > MOST_MAPS {
        Some(format!("more than {MOST_MAPS} conv layers"))
    } else if let Some(layer) = layers.convs.iter().find(|layer| layer.outputs > widest) {
        Some(format!("layer `{}` has more than {widest} filters", layer.name))
    } else if kernel > MOST_TAPS {
        Some(format!("kernels of more than {MOST_TAPS} ticks"))
    } else if !(1..=MOST_DENSE).contains(&hidden) {
        Some(format!("{hidden} dense layers, not 1 to {MOST_DENSE}"))
    } else if head_bytes(units) > HEAD_BYTES {
        Some(format!("{units} dense units in all"))
    } else if layers.parameters(kernel) > i32::MAX as usize / 4 {
        // Places in packed weights are 32-bit numbers, with two orders of some layers and rows that are filled up.
        Some("more than half a billion weights".into())
    } else {
        None
    }
}

/// Shared memory of the dense layers.
fn head_bytes(units: usize) -> usize {
    4 * HEAD_ROWS * (2 * units + 1 + units.max(HEAD_THREADS))
}

impl Work {
    /// Name of the kernel that does it.
    pub fn kernel(&self) -> String {
        match self {
            Self::Weights(_) => "pack_weights".into(),
            Self::Stem(_) => "stem".into(),
            Self::StemGrad(_) => "stem_grad".into(),
            Self::Product { goal, columns_of_block, .. } => {
                let goal = match goal {
                    Goal::Pooled => "pooled",
                    Goal::Rows => "rows",
                    Goal::Parts => "parts",
                };
                format!("product_{goal}_{columns_of_block}")
            }
            Self::KernelGrad { size, .. } => format!("kernel_grad_{size}"),
            Self::CellGrad(_) => "cell_grad".into(),
            Self::PlaceGrad(_) => "place_grad".into(),
            Self::Head(_) => "head".into(),
            Self::Logits(_) => "logits".into(),
            Self::Gradient { .. } => "gradient".into(),
        }
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        match self {
            Self::Head(_) | Self::Logits(_) => HEAD_THREADS,
            Self::KernelGrad { size, .. } if *size < 128 => 128,
            _ => 256,
        }
    }

    /// Shared memory that a block of threads asks for when it starts.
    pub fn shared_bytes(&self) -> usize {
        match self {
            Self::Product { columns_of_block, .. } => STAGES * (BLOCK_ROWS + columns_of_block) * STEP * CHUNK,
            Self::KernelGrad { size, element, .. } => GRAD_STAGES * 2 * GRAD_ROWS * size * element,
            Self::Head(args) | Self::Logits(args) => head_bytes(args.columns as usize),
            _ => 0,
        }
    }
}

/// The blocks of one step, added to `g`; `maps` has the rows that there is room for.
pub(crate) fn step(g: &mut Graph, plan: &StepPlan, layers: &Layers, maps: &MapRows, start: &Start) -> Done {
    let network = Network::new(plan, layers, maps);
    let inputs = Inputs::new(g, &network);
    let next = g.input("next_tables", DataType::I64, &[TABLE_WORDS]);
    let packed = network.weights(g, start.params, Some([start.batch, next]));
    let forward = network.forward(g, &inputs, start.params, &packed);
    let head = network.head(g, start, &packed, forward.dense);
    let parts =
        network.backward(g, &From { inputs: &inputs, packed: &packed, forward: &forward, head: &head });
    network.gradient(g, start, &head, parts)
}

/// The blocks that compute the logits `[batch]` of a batch, added to `g`, without dropout; `maps` may be open.
pub(crate) fn logits(g: &mut Graph, plan: &StepPlan, layers: &Layers, maps: &MapRows, params: Id) -> Id {
    let network = Network::new(plan, layers, maps);
    let inputs = Inputs::new(g, &network);
    let packed = network.weights(g, params, None);
    let forward = network.forward(g, &inputs, params, &packed);
    network.logits(g, params, forward.dense)
}

#[cfg(test)]
mod tests {
    use shared::network::SimpleCnn;

    use super::*;

    fn reason(filters: usize, kernel: usize, conv_layers: usize, dense_layers: usize) -> Option<String> {
        let network = SimpleCnn {
            height: 128,
            width: 16,
            filters,
            kernel,
            conv_layers,
            dense_layers,
            units: if dense_layers == 0 { 1 } else { 256 },
            dropout: 0.1,
        };
        uncovered(&network.layers().unwrap(), kernel)
    }

    #[test]
    fn every_network_of_the_known_searches_is_covered_and_the_rest_is_told_why() {
        for filters in [8, 16, 32, 64, 128, 256] {
            for (kernel, conv_layers, dense_layers) in [(3, 1, 1), (3, 2, 2), (5, 3, 3), (5, 4, 4)] {
                assert_eq!(reason(filters, kernel, conv_layers, dense_layers), None);
            }
        }
        let told = |filters, kernel, conv_layers, dense_layers| {
            reason(filters, kernel, conv_layers, dense_layers).unwrap_or_default()
        };
        assert_eq!(told(32, 3, 0, 2), "no conv layer after the first");
        assert_eq!(told(2048, 3, 2, 2), "layer `conv0` has more than 1024 filters");
        assert_eq!(told(32, 9, 2, 2), "kernels of more than 8 ticks");
        assert_eq!(told(32, 3, 2, 0), "0 dense layers, not 1 to 4");
        assert_eq!(told(32, 3, 2, 5), "5 dense layers, not 1 to 4");
    }
}
