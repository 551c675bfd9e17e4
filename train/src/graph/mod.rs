//! Computation graphs: built here, differentiated by `gradient`, written as ONNX by `lower`.

pub mod gradient;
pub mod lower;
#[cfg(test)]
mod tests;

use shared::onnx::DataType;

use crate::blocks::Block;

/// Lengths from here on are open: each run has its own. They count as numbers all the same, so that shapes can be
/// checked; see [`open`].
pub const OPEN: usize = 1 << 32;

/// An open length that only equals others of the same tag.
pub fn open(tag: usize) -> usize {
    OPEN * (tag + 1)
}

/// A value of a graph: the output of the node of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(crate) usize);

/// What a node computes. Images are `[batch, channels, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A value from outside
    Input(String),
    /// Fixed f32 values
    Floats(Vec<f32>),
    /// Fixed i64 values
    Integers(Vec<i64>),
    /// a + b, with broadcasting
    Add,
    /// a - b, with broadcasting
    Sub,
    /// a · b, with broadcasting
    Mul,
    /// a / b, with broadcasting
    Div,
    /// Remainder of non-negative i64, with broadcasting
    Mod,
    /// 1 where a ≥ b, else 0, as f32, with broadcasting; no gradient flows through
    AtLeast,
    /// The sum of any number of values of one shape, in their order
    Sum,
    /// max(x, 0)
    Relu,
    /// dy where y > 0, else 0: inputs dy, y = relu(x)
    ReluGrad,
    /// 1 / (1 + exp(-x))
    Sigmoid,
    /// log(1 + exp(x))
    Softplus,
    /// exp(x)
    Exp,
    /// Square root
    Sqrt,
    /// To another element type; a gradient flows between floats only
    Cast,
    /// The same values in another shape
    Reshape,
    /// `start..end` along `axis`
    Slice {
        /// Axis cut
        axis: usize,
        /// First index
        start: usize,
        /// End index
        end: usize,
    },
    /// Values one after another along an axis
    Concat {
        /// Axis of growth
        axis: usize,
    },
    /// Sum over axes, which stay with length 1
    ReduceSum {
        /// Axes that are summed
        axes: Vec<usize>,
    },
    /// Rows of the first input by the indices of the second
    Gather,
    /// op(a) · op(b) of two matrices
    MatMul {
        /// a is transposed
        transpose_a: bool,
        /// b is transposed
        transpose_b: bool,
    },
    /// Axes in another order
    Transpose(Vec<usize>),
    /// Convolution at active sites (see `sites`): inputs patches `[m, k·i]` (rows of x), x `[n, i]`, w `[k·i, o]`,
    /// readers `[n, k]`, quiet `[k, m]`
    SiteConv,
    /// relu of the largest of each four rows plus a bias: inputs x `[4·n, c]`, b `[c]`; `[n, c]`
    CellPool,
    /// d at the first largest of each four rows, else 0: inputs d `[n, c]`, x `[4·n, c]`
    CellMaxGrad,
    /// a where the condition is 1, else b: inputs condition `[1]`, a, b
    Select,
    /// Adam's step: inputs params, m, v, gradient `[P]`, rate `[1]`, with a loss scale its next state `[3]`, which says whether
    /// the step is taken (see `scale`); the new params. For a GPU
    Adam,
    /// Further output of the node before, by its number: the new m or v of `Adam`, or of a block
    Further(usize),
    /// The gradient in f32 without the loss scale: inputs gradient `[P]` f16, state of the loss scale `[3]`. For a GPU
    Unscale,
    /// Further output of `Unscale`: the next state of the loss scale `[3]`
    NextScale,
    /// One kernel of our own: see `blocks`. For a GPU
    Block(Box<Block>),
    /// Sum of the binary cross-entropy: inputs logits, labels, weights `[n]`; `[1]`. For a GPU
    CrossEntropy,
    /// Its slope: inputs d `[1]`, logits, labels, weights. For a GPU
    CrossEntropyGrad,
    /// Dropout masks (see `dropout`): inputs step `[1]` i64, factor and summand of each round, then the bound, `[9]` i64, the
    /// factor of what is kept `[1]`. For a GPU
    DropoutMask {
        /// Rows of the batch
        rows: usize,
        /// Hidden units
        units: usize,
    },
    /// Weighted number of rows on the right side of 0: inputs logits, labels, weights; `[1]`. For a GPU
    Correct,
    /// The last map's rows at their places: inputs x `[n, c]`, places `[b·p]`, found `[n]`, absent `[b·p]`; `[b·p, c]`
    Place,
    /// Valid cross-correlation along the height: inputs x `[n, i, h, w]`, w `[o, i, k, 1]`, b `[o]`
    Conv,
    /// Gradient of `Conv` with respect to x: inputs dy, w
    ConvInputGrad,
    /// Gradient of `Conv` with respect to w: inputs x, dy
    ConvKernelGrad,
    /// Sum over all but the channels: `[n, c, h, w]` to `[c]`
    ChannelSum,
    /// Largest of each 2×2 window, stride 2; an odd last row or column is left out
    MaxPool,
    /// dy at the first largest element of each window, else 0: inputs dy, x, y = maxpool(x)
    MaxPoolGrad,
}

/// One node: what it computes, from what, and the shape that comes out.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it computes
    pub op: Op,
    /// From which values
    pub inputs: Vec<Id>,
    /// Shape of the output
    pub shape: Vec<usize>,
    /// Element type of the output
    pub kind: DataType,
}

/// A graph under construction; a node's inputs come before it.
#[derive(Debug, Default, Clone)]
pub struct Graph {
    nodes: Vec<Node>,
    /// Whether the operations for a GPU may be used
    pub(crate) for_gpu: bool,
}

/// A graph that can't be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum GraphError {
    #[error("operation {op} can't take shapes {shapes:?}")]
    Shape { op: String, shapes: Vec<Vec<usize>> },
    #[error("operation {op} can't take element types {kinds:?}")]
    Kind { op: String, kinds: Vec<DataType> },
    #[error("operation {op} has no gradient rule")]
    NoGradient { op: String },
    #[error("the gradient of a value of shape {0:?} is not defined; it must be a single number")]
    NotScalar(Vec<usize>),
}

type Built = Result<Id, GraphError>;

impl Graph {
    /// An empty graph that may use the operations for a GPU.
    pub fn for_gpu() -> Self {
        Self { for_gpu: true, ..Self::default() }
    }

    /// All nodes in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node behind a value.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0]
    }

    /// Shape of a value.
    pub fn shape(&self, id: Id) -> &[usize] {
        &self.nodes[id.0].shape
    }

    /// Element type of a value.
    pub fn kind(&self, id: Id) -> DataType {
        self.nodes[id.0].kind
    }

    /// A value from outside.
    pub fn input(&mut self, name: &str, kind: DataType, shape: &[usize]) -> Id {
        self.push(Op::Input(name.into()), &[], shape.to_vec(), kind)
    }

    /// Fixed f32 values, row by row.
    pub fn floats(&mut self, shape: &[usize], values: Vec<f32>) -> Id {
        self.floats_of(DataType::F32, shape, values)
    }

    /// Fixed values of element type `kind`, f32 or f16, row by row.
    pub fn floats_of(&mut self, kind: DataType, shape: &[usize], values: Vec<f32>) -> Id {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        self.push(Op::Floats(values), &[], shape.to_vec(), kind)
    }

    /// One number of shape `[1]` and of the element type of `like`.
    pub fn number(&mut self, value: f32, like: Id) -> Id {
        self.floats_of(self.kind(like), &[1], vec![value])
    }

    /// One f32 number of shape `[1]`.
    pub fn float(&mut self, value: f32) -> Id {
        self.floats(&[1], vec![value])
    }

    /// Fixed i64 values, row by row.
    pub fn integers(&mut self, shape: &[usize], values: Vec<i64>) -> Id {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        self.push(Op::Integers(values), &[], shape.to_vec(), DataType::I64)
    }

    /// One i64 number of shape `[1]`.
    pub fn integer(&mut self, value: i64) -> Id {
        self.integers(&[1], vec![value])
    }

    /// A node by its operation, where the shape follows from the inputs.
    ///
    /// # Errors
    /// [`GraphError::Shape`], [`GraphError::Kind`]
    pub fn apply(&mut self, op: Op, inputs: &[Id]) -> Built {
        let shapes: Vec<&[usize]> = inputs.iter().map(|&id| self.shape(id)).collect();
        let shape = infer(&op, &shapes).ok_or_else(|| GraphError::Shape {
            op: format!("{op:?}"),
            shapes: shapes.iter().map(|s| s.to_vec()).collect(),
        })?;
        let kinds: Vec<DataType> = inputs.iter().map(|&id| self.kind(id)).collect();
        if op != Op::Unscale && !one_float(&kinds) {
            return Err(GraphError::Kind { op: format!("{op:?}"), kinds });
        }
        let kind = match op {
            Op::AtLeast | Op::Unscale => DataType::F32,
            Op::DropoutMask { .. } => kinds[2],
            _ => kinds[0],
        };
        Ok(self.push(op, inputs, shape, kind))
    }

    /// The same values in another shape.
    ///
    /// # Errors
    /// [`GraphError::Shape`]
    pub fn reshape(&mut self, x: Id, shape: &[usize]) -> Built {
        if self.shape(x).iter().product::<usize>() != shape.iter().product::<usize>() {
            let shapes = vec![self.shape(x).to_vec(), shape.to_vec()];
            return Err(GraphError::Shape { op: "Reshape".into(), shapes });
        }
        if self.shape(x) == shape {
            return Ok(x);
        }
        let kind = self.node(x).kind;
        Ok(self.push(Op::Reshape, &[x], shape.to_vec(), kind))
    }

    /// x as another element type.
    pub fn cast(&mut self, x: Id, kind: DataType) -> Id {
        if self.kind(x) == kind {
            return x;
        }
        let shape = self.shape(x).to_vec();
        self.push(Op::Cast, &[x], shape, kind)
    }

    /// Gradient of a convolution with respect to its kernel of `k` ticks.
    ///
    /// # Errors
    /// [`GraphError::Shape`]
    pub fn conv_kernel_grad(&mut self, x: Id, dy: Id) -> Built {
        self.apply(Op::ConvKernelGrad, &[x, dy])
    }

    /// A block of our own; its outputs.
    pub(crate) fn blocks(&mut self, block: Block, inputs: &[Id]) -> Vec<Id> {
        let outputs = block.outputs.clone();
        let mut values: Vec<Id> = Vec::new();
        let mut op = Some(Op::Block(Box::new(block)));
        for (number, (kind, shape)) in outputs.into_iter().enumerate() {
            let value = match op.take() {
                Some(first) => self.push(first, inputs, shape, kind),
                None => self.push(Op::Further(number), &values[..1], shape, kind),
            };
            values.push(value);
        }
        values
    }

    /// The same for a block of N outputs.
    pub(crate) fn block<const N: usize>(&mut self, block: Block, inputs: &[Id]) -> [Id; N] {
        self.blocks(block, inputs).try_into().expect("a block has as many outputs as its shapes say")
    }

    fn push(&mut self, op: Op, inputs: &[Id], shape: Vec<usize>, kind: DataType) -> Id {
        self.nodes.push(Node { op, inputs: inputs.to_vec(), shape, kind });
        Id(self.nodes.len() - 1)
    }
}

/// Binary operations by name, so that graph code reads like formulas.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($($input:ident),+) = $op:expr;)+) => {
        impl Graph {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`GraphError::Shape`]
            pub fn $name(&mut self, $($input: Id),+) -> Built {
                self.apply($op, &[$($input),+])
            })+
        }
    };
}

operations! {
    /// a + b
    add(a, b) = Op::Add;
    /// a - b
    sub(a, b) = Op::Sub;
    /// a · b
    mul(a, b) = Op::Mul;
    /// a / b
    div(a, b) = Op::Div;
    /// a mod b of non-negative i64
    modulo(a, b) = Op::Mod;
    /// 1 where a ≥ b
    at_least(a, b) = Op::AtLeast;
    /// max(x, 0)
    relu(x) = Op::Relu;
    /// 1 / (1 + exp(-x))
    sigmoid(x) = Op::Sigmoid;
    /// log(1 + exp(x))
    softplus(x) = Op::Softplus;
    /// exp(x)
    exp(x) = Op::Exp;
    /// Square root
    sqrt(x) = Op::Sqrt;
    /// a · b of matrices
    matmul(a, b) = Op::MatMul { transpose_a: false, transpose_b: false };
    /// Convolution along the height with bias
    conv(x, w, b) = Op::Conv;
    /// 2×2 maximum
    max_pool(x) = Op::MaxPool;
    /// Rows of a by index
    gather(a, rows) = Op::Gather;
    /// a where the condition is 1, else b
    select(condition, a, b) = Op::Select;
}

impl Graph {
    /// Sum over all elements, shape `[1]`.
    ///
    /// # Errors
    /// [`GraphError::Shape`]
    pub fn sum_all(&mut self, x: Id) -> Built {
        let axes = (0..self.shape(x).len()).collect();
        let sum = self.apply(Op::ReduceSum { axes }, &[x])?;
        self.reshape(sum, &[1])
    }
}

/// Whether a value is of floats.
pub(crate) fn is_float(kind: DataType) -> bool {
    matches!(kind, DataType::F32 | DataType::F16)
}

/// Whether all inputs that are floats are of one type.
fn one_float(kinds: &[DataType]) -> bool {
    let mut floats = kinds.iter().filter(|&&kind| is_float(kind));
    let first = floats.next();
    floats.all(|kind| Some(kind) == first)
}

/// Shape that comes out, or `None` if the inputs don't fit.
fn infer(op: &Op, shapes: &[&[usize]]) -> Option<Vec<usize>> {
    match (op, shapes) {
        (Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Mod | Op::AtLeast, &[a, b]) => broadcast(a, b),
        (Op::Sum, [first, rest @ ..]) => rest.iter().all(|s| s == first).then(|| first.to_vec()),
        (Op::Relu | Op::Sigmoid | Op::Softplus | Op::Exp | Op::Sqrt | Op::Cast | Op::Further(_), &[x])
        | (Op::MaxPoolGrad, &[_, x, _]) => Some(x.to_vec()),
        (Op::ReluGrad, &[dy, y]) => (dy == y).then(|| dy.to_vec()),
        (&Op::Slice { axis, start, end }, &[x]) => {
            (start < end && end <= *x.get(axis)?).then(|| with(x, axis, end - start))
        }
        (&Op::Concat { axis }, [first, ..]) => {
            let fits =
                shapes.iter().all(|s| s.len() == first.len() && with(s, axis, 0) == with(first, axis, 0));
            fits.then(|| with(first, axis, shapes.iter().map(|s| s[axis]).sum()))
        }
        (Op::ReduceSum { axes }, &[x]) => Some(axes.iter().fold(x.to_vec(), |s, &a| with(&s, a, 1))),
        (Op::Gather, &[a, rows]) => Some([rows, a.get(1..)?].concat()),
        (&Op::MatMul { transpose_a, transpose_b }, &[&[a0, a1], &[b0, b1]]) => {
            let (m, k) = if transpose_a { (a1, a0) } else { (a0, a1) };
            let (k2, n) = if transpose_b { (b1, b0) } else { (b0, b1) };
            (k == k2).then(|| vec![m, n])
        }
        (Op::Transpose(order), &[x]) => {
            (order.len() == x.len()).then(|| order.iter().map(|&axis| x[axis]).collect())
        }
        (Op::SiteConv, &[&[m, ki], &[n, i], &[ki2, o], &[n2, k], &[k2, m2]]) => {
            let fits = ki == k * i && ki == ki2 && n == n2 && k == k2 && m == m2;
            fits.then(|| vec![m, o])
        }
        (Op::CellPool, &[&[m, c], &[c2]]) => (m % 4 == 0 && c == c2).then(|| vec![m / 4, c]),
        (Op::CellMaxGrad, &[&[n, c], &[m, c2]]) => (m == 4 * n && c == c2).then(|| vec![m, c]),
        (Op::Adam, &[p, m, v, g, &[1]] | &[p, m, v, g, &[1], &[3]]) => {
            (p == m && p == v && p == g).then(|| p.to_vec())
        }
        (Op::Select, &[&[1], a, b]) => (a == b).then(|| a.to_vec()),
        (Op::Unscale, &[g, &[3]]) => Some(g.to_vec()),
        (Op::NextScale, &[_]) => Some(vec![3]),
        (Op::CrossEntropy | Op::Correct, &[z, y, w]) => (z == y && z == w).then(|| vec![1]),
        (&Op::DropoutMask { rows, units }, &[&[1], &[9], &[1]]) => Some(vec![rows, units]),
        (Op::CrossEntropyGrad, &[&[1], z, y, w]) => (z == y && z == w).then(|| z.to_vec()),
        (Op::Place, &[&[n, c], &[places], &[n2], &[absent]]) => {
            (n == n2 && places == absent).then(|| vec![places, c])
        }
        (Op::Conv, &[&[n, i, h, w], &[o, i2, k, 1], &[o2]]) => {
            (i == i2 && o == o2 && h >= k).then(|| vec![n, o, h + 1 - k, w])
        }
        (Op::ConvInputGrad, &[&[n, o, h, w], &[o2, i, k, 1]]) => (o == o2).then(|| vec![n, i, h + k - 1, w]),
        (Op::ConvKernelGrad, &[&[n, i, h, w], &[n2, o, h2, w2]]) => {
            (n == n2 && w == w2 && h >= h2).then(|| vec![o, i, h - h2 + 1, 1])
        }
        (Op::ChannelSum, &[&[_, c, _, _]]) => Some(vec![c]),
        (Op::MaxPool, &[&[n, c, h, w]]) => Some(vec![n, c, h / 2, w / 2]),
        _ => None,
    }
}

/// Shape of two values after broadcasting, as in numpy.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Some(x),
            (x, 1) => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

fn with(shape: &[usize], axis: usize, length: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(dim) = shape.get_mut(axis) {
        *dim = length;
    }
    shape
}
