//! Every operation as stock operators.

use shared::onnx::{AttributeProto, DataType, TensorProto};

use super::fused::further;
use super::{Lowering, MICROSOFT, dims, int, ints, value};
use crate::graph::{Id, Op};

/// The largest activation in halves, which end at 65,504: with it an extreme cluster's products stay numbers, also when
/// dropout's factor comes on top. `fused.cu` has it too.
const MOST_HALF: f32 = 32_768.0;

impl Lowering<'_> {
    /// Emit the operators of one node; the last one writes the node's value.
    pub(super) fn standard(&mut self, id: Id) {
        let graph = self.graph;
        let node = graph.node(id);
        let names: Vec<String> = node.inputs.iter().map(|&input| value(input)).collect();
        let shape = |at: usize| graph.shape(node.inputs[at]);
        match &node.op {
            Op::Input(_) => unreachable!("inputs are lowered by `lower`"),
            Op::Floats(values) => self.floats(node.kind, &node.shape, values),
            Op::Integers(values) => self.constant(&value(id), |name| TensorProto {
                dims: dims(&node.shape),
                ..TensorProto::from_i64(name, values)
            }),
            Op::Add => self.emit("Add", &names, vec![]),
            Op::Sub => self.emit("Sub", &names, vec![]),
            Op::Mul => self.emit("Mul", &names, vec![]),
            Op::Div => self.emit("Div", &names, vec![]),
            Op::Mod => self.emit("Mod", &names, vec![]),
            Op::Sum => self.emit("Sum", &names, vec![]),
            Op::Relu => self.relu(&names[0]),
            Op::Sigmoid => self.emit("Sigmoid", &names, vec![]),
            Op::Softplus => self.emit("Softplus", &names, vec![]),
            Op::Exp => self.emit("Exp", &names, vec![]),
            Op::Sqrt => self.emit("Sqrt", &names, vec![]),
            Op::AtLeast => {
                let yes = self.step("GreaterOrEqual", &names, vec![], "yes");
                self.emit("Cast", &[yes], vec![int("to", DataType::F32 as i64)]);
            }
            Op::ReluGrad => {
                // relu(x) is never negative, so its sign is the slope: one operator less than a comparison.
                let slope = self.step("Sign", &names[1..], vec![], "slope");
                self.emit("Mul", &[names[0].clone(), slope], vec![]);
            }
            Op::Cast => self.emit("Cast", &names, vec![int("to", node.kind as i64)]),
            Op::Reshape => self.reshape(&names[0], &node.shape),
            &Op::Slice { axis, start, end } => {
                let sliced = self.slice(&names[0], &[(axis, start as i64, end as i64, 1)], None);
                debug_assert_eq!(sliced, value(id));
            }
            &Op::Concat { axis } => self.emit("Concat", &names, vec![int("axis", axis as i64)]),
            Op::ReduceSum { axes } => self.reduce_sum(&names[0], axes, true),
            Op::Gather => self.emit("Gather", &names, vec![int("axis", 0)]),
            &Op::MatMul { transpose_a: false, transpose_b: false } => self.emit("MatMul", &names, vec![]),
            &Op::MatMul { transpose_a, transpose_b } => {
                let transposes =
                    vec![int("transA", i64::from(transpose_a)), int("transB", i64::from(transpose_b))];
                self.emit("Gemm", &names, transposes);
            }
            Op::Transpose(order) => self.emit("Transpose", &names, vec![ints("perm", &dims(order))]),
            Op::SiteConv => self.emit("MatMul", &[names[0].clone(), names[2].clone()], vec![]),
            Op::CellPool => {
                let cells = self.reshape_step(&names[0], &[node.shape[0], 4, node.shape[1]], "cells");
                let axis = self.int_constant(&[1]);
                let largest = self.step("ReduceMax", &[cells, axis], vec![int("keepdims", 0)], "largest");
                let sum = self.step("Add", &[largest, names[1].clone()], vec![], "sum");
                self.relu(&sum);
            }
            Op::Select => {
                let to = vec![int("to", DataType::Bool as i64)];
                let condition = self.step("Cast", &names[..1], to, "condition");
                self.emit("Where", &[condition, names[1].clone(), names[2].clone()], vec![]);
            }
            Op::Further(_) | Op::NextScale => {
                let number = if let Op::Further(number) = node.op { number } else { 1 };
                self.emit("Identity", &[further(node.inputs[0], number)], vec![]);
            }
            Op::Block(_)
            | Op::Adam
            | Op::Unscale
            | Op::CrossEntropy
            | Op::CrossEntropyGrad
            | Op::Correct
            | Op::DropoutMask { .. } => unreachable!("graphs for the CPU are built without {:?}", node.op),
            Op::CellMaxGrad => self.cell_max_grad(&names, shape(0)),
            Op::Place => self.emit("Gather", &names[..2], vec![int("axis", 0)]),
            Op::Conv => self.emit("Conv", &names, vec![ints("kernel_shape", &[shape(1)[2] as i64, 1])]),
            Op::ConvInputGrad => self.conv_input_grad(&names, shape(1)[2]),
            Op::ConvKernelGrad => self.conv_kernel_grad(&names, shape(0), shape(1)),
            Op::ChannelSum => self.channel_sum(&names[0], shape(0)),
            Op::MaxPool => self.emit("MaxPool", &names, window()),
            Op::MaxPoolGrad => self.max_pool_grad(&names, shape(1)),
        }
    }

    /// Fixed values; halves are cast from f32 when the session opens.
    fn floats(&mut self, kind: DataType, shape: &[usize], values: &[f32]) {
        let name = value(Id(self.at));
        let written = if kind == DataType::F32 { name } else { format!("{name}_f32") };
        self.constant(&written, |name| TensorProto::from_f32(name, &dims(shape), values));
        if kind != DataType::F32 {
            self.emit("Cast", &[written], vec![int("to", kind as i64)]);
        }
    }

    /// max(x, 0); of halves also no more than [`MOST_HALF`].
    fn relu(&mut self, x: &str) {
        if self.graph.kind(Id(self.at)) != DataType::F16 {
            return self.emit("Relu", &[x.into()], vec![]);
        }
        let most = "most_half".to_owned();
        let bytes = half::f16::from_f32(MOST_HALF).to_le_bytes().to_vec();
        self.constant(&most, |name| TensorProto::from_bytes(name, DataType::F16, &[1], bytes));
        let zero = self.zero();
        self.emit("Clip", &[x.into(), zero, most], vec![]);
    }

    fn conv_input_grad(&mut self, names: &[String], k: usize) {
        // The flipped kernel with exchanged channels, over a padded dy: twice as fast as `ConvTranspose`.
        let flipped = self.slice(&names[1], &[(2, -1, i64::MIN, -1)], Some("flip"));
        let swapped = self.step("Transpose", &[flipped], vec![ints("perm", &[1, 0, 2, 3])], "swap");
        let k = k as i64;
        let attributes = vec![ints("kernel_shape", &[k, 1]), ints("pads", &[k - 1, 0, k - 1, 0])];
        self.emit("Conv", &[names[0].clone(), swapped], attributes);
    }

    /// One matrix product a kernel row and sample: dy `[o, h·w]` times the shifted x `[i, h·w]`, summed over samples.
    fn conv_kernel_grad(&mut self, names: &[String], x: &[usize], dy: &[usize]) {
        let (n, i, o, h, w) = (x[0], x[1], dy[1], dy[2], dy[3]);
        let taps = x[2] - h + 1;
        let dy = self.reshape_step(&names[1], &[n, o, h * w], "dy");
        let mut rows = Vec::new();
        for tap in 0..taps {
            let shifted =
                self.slice(&names[0], &[(2, tap as i64, (tap + h) as i64, 1)], Some(&format!("x{tap}")));
            let flat = self.reshape_step(&shifted, &[n, i, h * w], &format!("flat{tap}"));
            let products = self.step_in(
                MICROSOFT,
                "FusedMatMul",
                &[dy.clone(), flat],
                vec![int("transB", 1)],
                &format!("product{tap}"),
            );
            let axis = self.int_constant(&[0]);
            let sum =
                self.step("ReduceSum", &[products, axis], vec![int("keepdims", 0)], &format!("sum{tap}"));
            rows.push(self.reshape_step(&sum, &[o, i, 1, 1], &format!("row{tap}")));
        }
        self.emit("Concat", &rows, vec![int("axis", 2)]);
    }

    /// A product with ones instead of a reduction: on CUDA cuDNN's reduction alone costs 29 % of a step.
    fn channel_sum(&mut self, x: &str, shape: &[usize]) {
        let (n, c, hw) = (shape[0], shape[1], shape[2] * shape[3]);
        let flat = self.reshape_step(x, &[n, c, hw], "flat");
        let ones = self.ones(&[hw, 1]);
        let sums = self.step("MatMul", &[flat, ones], vec![], "sums");
        let axes = self.int_constant(&[0, 2]);
        self.emit("ReduceSum", &[sums, axes], vec![int("keepdims", 0)]);
    }

    /// The first of equal elements takes all, as `ArgMax` has it.
    fn cell_max_grad(&mut self, names: &[String], dy: &[usize]) {
        let (cells, channels) = (dy[0], dy[1]);
        let x = self.reshape_step(&names[1], &[cells, 4, channels], "cells");
        let at = self.step("ArgMax", &[x], vec![int("axis", 1), int("keepdims", 1)], "at");
        let members = "members".to_owned();
        self.constant(&members, |name| TensorProto {
            dims: vec![1, 4, 1],
            ..TensorProto::from_i64(name, &[0, 1, 2, 3])
        });
        let first = self.step("Equal", &[at, members], vec![], "first");
        let dy = self.reshape_step(&names[0], &[cells, 1, channels], "dy");
        let zero = self.zero();
        let taken = self.step("Where", &[first, dy, zero], vec![], "taken");
        self.reshape(&taken, &[4 * cells, channels]);
    }

    /// Compare the four corners of each window with the maximum: the first that is equal takes all.
    fn max_pool_grad(&mut self, names: &[String], x: &[usize]) {
        let (n, c, h, w) = (x[0], x[1], x[2], x[3]);
        let mut rest = names[0].clone();
        let mut corners = Vec::new();
        for (corner, (top, left)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
            let (h2, w2) = ((h / 2 * 2) as i64, (w / 2 * 2) as i64);
            let part =
                self.slice(&names[1], &[(2, top, h2, 2), (3, left, w2, 2)], Some(&format!("x{corner}")));
            let equal = self.step("Equal", &[part, names[2].clone()], vec![], &format!("equal{corner}"));
            let zero = self.zero();
            let taken = self.step("Where", &[equal, rest.clone(), zero], vec![], &format!("taken{corner}"));
            rest = self.step("Sub", &[rest, taken.clone()], vec![], &format!("rest{corner}"));
            corners.push(self.reshape_step(&taken, &[n, c, h / 2, 1, w / 2, 1], &format!("corner{corner}")));
        }
        let top = self.step("Concat", &corners[..2], vec![int("axis", 5)], "top");
        let bottom = self.step("Concat", &corners[2..], vec![int("axis", 5)], "bottom");
        let both = self.step("Concat", &[top, bottom], vec![int("axis", 3)], "both");
        if h % 2 == 0 && w % 2 == 0 {
            return self.reshape(&both, x);
        }
        let even = self.reshape_step(&both, &[n, c, h / 2 * 2, w / 2 * 2], "even");
        let pads = self.int_constant(&[0, 0, 0, 0, 0, 0, (h % 2) as i64, (w % 2) as i64]);
        self.emit("Pad", &[even, pads], vec![]);
    }
}

fn window() -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]
}
