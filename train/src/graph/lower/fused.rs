//! Operations that are one operator of our own on a GPU; what each computes stands in `engine/cuda/fused.cu`.

use shared::onnx::{AttributeProto, DataType, NodeProto};

use super::{Lowering, dims, ints, value};
use crate::graph::{Id, Op};

/// Name of the operator behind a block.
pub(crate) fn operator_name(id: Id) -> String {
    format!("Block{}", id.0)
}

/// Domain of our own operators.
pub const FUSED: &str = "mt_identifier";

/// An operator of our own.
#[derive(Debug, PartialEq, Eq)]
pub struct FusedOperator {
    /// Name in the graph
    pub name: &'static str,
    /// Name of its kernel
    pub kernel: &'static str,
    /// Element types of the inputs
    pub inputs: &'static [DataType],
    /// Number of outputs
    pub outputs: usize,
    /// Their element type
    pub output: DataType,
    /// Length of the outputs past the first where they don't have its shape
    pub further: Option<i64>,
    /// Elements of an output that a thread writes
    pub outputs_per_thread: u32,
    /// Whether one block of threads does it all
    pub one_block: bool,
}

const FLOATS: [DataType; 6] = [DataType::F32; 6];
const HALVES: [DataType; 2] = [DataType::F16; 2];

const fn operator(name: &'static str, kernel: &'static str, inputs: usize) -> FusedOperator {
    let (inputs, _) = FLOATS.split_at(inputs);
    FusedOperator {
        name,
        kernel,
        inputs,
        outputs: 1,
        output: DataType::F32,
        further: None,
        outputs_per_thread: 1,
        one_block: false,
    }
}

/// An operator on halves.
const fn on_halves(name: &'static str, kernel: &'static str) -> FusedOperator {
    FusedOperator { inputs: &HALVES, output: DataType::F16, ..operator(name, kernel, 2) }
}

/// All of them.
pub const FUSED_OPERATORS: &[FusedOperator] = &[
    operator("CellPool", "cell_pool", 2),
    on_halves("CellPoolF16", "cell_pool_f16"),
    FusedOperator { outputs_per_thread: 4, ..operator("CellMaxGrad", "cell_max_grad", 2) },
    FusedOperator { outputs_per_thread: 4, ..on_halves("CellMaxGradF16", "cell_max_grad_f16") },
    operator("ReluGrad", "relu_grad", 2),
    on_halves("ReluGradF16", "relu_grad_f16"),
    FusedOperator { outputs: 3, ..operator("Adam", "adam", 5) },
    FusedOperator { outputs: 3, ..operator("AdamScaled", "adam_scaled", 6) },
    FusedOperator {
        inputs: &[DataType::F16, DataType::F32],
        outputs: 2,
        further: Some(3),
        ..operator("Unscale", "unscale", 2)
    },
    FusedOperator { one_block: true, ..operator("CrossEntropy", "cross_entropy", 3) },
    operator("CrossEntropyGrad", "cross_entropy_grad", 4),
    FusedOperator { one_block: true, ..operator("Correct", "correct", 3) },
    FusedOperator {
        inputs: &[DataType::I64, DataType::I64, DataType::F32],
        ..operator("DropoutMask", "dropout_mask", 3)
    },
    FusedOperator {
        inputs: &[DataType::I64, DataType::I64, DataType::F16],
        output: DataType::F16,
        ..operator("DropoutMaskF16", "dropout_mask_f16", 3)
    },
];

/// Name of further output `number` (from 1) of the operator behind a value.
pub(super) fn further(id: Id, number: usize) -> String {
    format!("{}_{number}", value(id))
}

impl Lowering<'_> {
    /// Emit the operator of our own for a node, if there is one.
    pub(super) fn fused(&mut self, id: Id) -> bool {
        let node = self.graph.node(id);
        let half = node.kind == DataType::F16;
        if let Op::Block(block) = &node.op {
            self.own(id, &operator_name(id), block.outputs.len(), vec![]);
            return true;
        }
        let name = match node.op {
            Op::CellPool => ["CellPool", "CellPoolF16"][usize::from(half)],
            Op::CellMaxGrad => ["CellMaxGrad", "CellMaxGradF16"][usize::from(half)],
            Op::ReluGrad => ["ReluGrad", "ReluGradF16"][usize::from(half)],
            Op::Adam => ["Adam", "AdamScaled"][usize::from(node.inputs.len() == 6)],
            Op::Unscale => "Unscale",
            Op::CrossEntropy => "CrossEntropy",
            Op::CrossEntropyGrad => "CrossEntropyGrad",
            Op::Correct => "Correct",
            Op::DropoutMask { .. } => ["DropoutMask", "DropoutMaskF16"][usize::from(half)],
            _ => return false,
        };
        let outputs = FUSED_OPERATORS.iter().find(|operator| operator.name == name).map_or(1, |o| o.outputs);
        self.own(id, name, outputs, vec![ints("shape", &dims(&node.shape))]);
        true
    }

    fn own(&mut self, id: Id, name: &str, outputs: usize, attribute: Vec<AttributeProto>) {
        self.push(NodeProto {
            input: self.graph.node(id).inputs.iter().map(|&input| value(input)).collect(),
            output: std::iter::once(value(id)).chain((1..outputs).map(|n| further(id, n))).collect(),
            name: value(id),
            op_type: name.into(),
            domain: FUSED.into(),
            attribute,
        });
    }
}
