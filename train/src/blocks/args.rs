//! What the kernels of `engine/cuda` are told: its structs, field by field. Addresses and lengths of inputs are filled in when a
//! graph runs.

#![expect(missing_docs, reason = "the kernels' files say what each field is")]

/// Order of packed weights; the numbers are `weights.cu`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `[outputs, taps, inputs]`, for products with what comes in
    Forward,
    /// `[inputs, taps, outputs]`, for products with gradients
    Backward,
    /// `[taps, inputs, outputs]`
    ByPlace,
    /// `[outputs, inputs]` of one tap, as f32
    Transposed,
}

/// Weights `[taps, inputs, outputs]` on their way into another order.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PackPart {
    pub order: i32,
    pub from: i32,
    pub to: i32,
    pub taps: i32,
    pub inputs: i32,
    pub outputs: i32,
    pub inputs_stride: i32,
    pub outputs_stride: i32,
    pub length: i32,
    pub first_block: i32,
}

/// Most parts of [`Weights`].
pub const MOST_PACKED: usize = 32;

/// `pack_weights`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Weights {
    pub params: u64,
    pub packed: u64,
    pub turned: u64,
    pub number: i32,
    pub parts: [PackPart; MOST_PACKED],
}

/// What a product does with its sums; the names of its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// relu of the largest of four, plus a bias
    Pooled,
    /// As they are
    Rows,
    /// As they are, over a share of the taps
    Parts,
}

/// `product_…`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Product {
    pub rows: u64,
    pub further: u64,
    pub index: u64,
    pub weights: u64,
    pub bias: u64,
    pub out: u64,
    pub parts: u64,
    pub choice: u64,
    pub count: i32,
    pub taps: i32,
    pub stride: i32,
    pub limit: i32,
    pub further_rows: i32,
    pub columns: i32,
    pub out_stride: i32,
    pub taps_per_split: i32,
}

/// `kernel_grad_…`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct KernelGrad {
    pub rows: u64,
    pub index: u64,
    pub slopes: u64,
    pub out: u64,
    pub parts: u64,
    pub sums: u64,
    pub sums_too: u64,
    pub members: i32,
    pub taps: i32,
    pub inputs: i32,
    pub stride: i32,
    pub outputs: i32,
    pub slope_stride: i32,
    pub members_per_split: i32,
    pub part_count: i32,
    pub sum_rows: i32,
    pub tiles: i32,
}

/// `cell_grad`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CellGrad {
    pub d: u64,
    pub first: u64,
    pub choice: u64,
    pub index: u64,
    pub out: u64,
    pub parts: u64,
    pub cells: i32,
    pub stride: i32,
    pub taps: i32,
    pub first_parts: i32,
}

/// `stem` and `stem_grad`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stem {
    pub pixels: u64,
    pub weights: u64,
    pub out: u64,
    pub d: u64,
    pub parts: u64,
    pub count: i32,
    pub taps: i32,
    pub columns: i32,
    pub stride: i32,
}

/// `place_grad`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PlaceGrad {
    pub d: u64,
    pub found: u64,
    pub places: u64,
    pub out: u64,
    pub parts: u64,
    pub count: i32,
    pub all: i32,
    pub stride: i32,
    pub row_blocks: i32,
}

/// Most hidden dense layers.
pub const MOST_DENSE: usize = 4;

/// `head` and `logits`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Head {
    pub parts: u64,
    pub params: u64,
    pub turned: u64,
    pub labels: u64,
    pub weights: u64,
    pub count: u64,
    pub step: u64,
    pub scale: u64,
    pub hidden: u64,
    pub slopes: u64,
    pub first: u64,
    pub rows: u64,
    pub logits: u64,
    pub keys: [i64; 9],
    pub part_count: i32,
    pub batch: i32,
    pub layers: i32,
    pub columns: i32,
    pub first_stride: i32,
    pub units: [i32; MOST_DENSE],
    pub bias: [i32; MOST_DENSE + 1],
    pub weight: [i32; MOST_DENSE + 1],
    pub transposed: [i32; MOST_DENSE + 1],
    pub kept: f32,
    pub smoothing: f32,
    pub gamma: f32,
    pub alpha: f32,
    pub background: f32,
    pub main: f32,
}

/// How a part of the gradient comes about; the numbers are `gradient.cu`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Sums over the splits of a product
    Splits,
    /// Sums over the batch of what goes in times what comes back
    Outer,
    /// Sums over the batch
    Columns,
    /// Sums over a few splits
    FewSplits,
}

/// A part of the flat gradient. `from` and `with` are numbers of inputs until addresses are filled in.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GradientPart {
    pub from: u64,
    pub with: u64,
    pub how: i32,
    pub start: i32,
    pub length: i32,
    pub count: i32,
    pub stride: i32,
    pub with_stride: i32,
    pub inner: i32,
    pub first_block: i32,
}

/// Most parts of [`Gradient`].
pub const MOST_PARTS: usize = 28;

/// `gradient`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Gradient {
    pub out: u64,
    pub scale: u64,
    pub scale_next: u64,
    pub step: u64,
    pub batch: u64,
    pub sums: u64,
    pub rows: u64,
    pub step_next: u64,
    pub batch_next: u64,
    pub sums_next: u64,
    pub row_count: i32,
    pub number: i32,
    pub parts: [GradientPart; MOST_PARTS],
}
