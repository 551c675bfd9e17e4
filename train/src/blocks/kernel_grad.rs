//! Gradients of kernels, by tiles of a size that fits.

use shared::onnx::DataType;

use super::args::KernelGrad;
use super::network::Network;
use super::{Block, ENOUGH, GRAD_ROWS, Work};

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

impl Network<'_> {
    /// A kernel's gradient, by tiles of a size that fits and enough shares of the members.
    pub fn kernel_grad(&self, args: KernelGrad) -> (Block, usize) {
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
        (
            Block { outputs: shapes, work: Work::KernelGrad { args, size, element: self.element() }, grid },
            splits,
        )
    }
}
