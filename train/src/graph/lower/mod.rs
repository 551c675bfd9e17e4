//! Graphs as ONNX models: each operation becomes stock operators, on a GPU some of them operators of our own.

mod fused;
mod standard;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use shared::onnx::{
    AttributeProto, DataType, GraphProto, IR_VERSION, ModelProto, NodeProto, OPSET, OperatorSetIdProto,
    TensorProto, ValueInfoProto, attribute_type,
};

use super::{Graph, Id, OPEN, Op};
pub(crate) use fused::operator_name;
pub use fused::{FUSED, FUSED_OPERATORS, FusedOperator};

/// Domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// What the ONNX graph is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Stock operators, for any provider
    Stock,
    /// Stock operators and our own for the CUDA provider
    Fused,
    /// A file for others: `ai.onnx` operators only, the first dimension of inputs and outputs is `batch`
    Export,
}

/// The ONNX model that computes `outputs` (name and value each).
///
/// Inputs that no output depends on are left out.
pub fn lower(graph: &Graph, outputs: &[(&str, Id)], target: Target) -> ModelProto {
    let mut lowering = Lowering { graph, target, nodes: Vec::new(), constants: BTreeMap::new(), at: 0 };
    let live = live(graph, outputs);
    let mut inputs = Vec::new();
    for (at, node) in graph.nodes().iter().enumerate().filter(|(at, _)| live.contains(at)) {
        lowering.at = at;
        if let Op::Input(name) = &node.op {
            inputs.push(lowering.signature(name, Id(at)));
            lowering.emit("Identity", std::slice::from_ref(name), vec![]);
        } else if target != Target::Fused || !lowering.fused(Id(at)) {
            lowering.standard(Id(at));
        }
    }
    let mut results = Vec::new();
    for &(name, id) in outputs {
        let input = vec![value(id)];
        lowering.push(NodeProto {
            input,
            output: vec![name.into()],
            name: format!("output_{name}"),
            op_type: "Identity".into(),
            ..NodeProto::default()
        });
        results.push(lowering.signature(name, id));
    }
    let graph = GraphProto {
        node: lowering.nodes,
        name: "mt_identifier".into(),
        initializer: lowering.constants.into_values().collect(),
        input: inputs,
        output: results,
    };
    model(graph, target)
}

fn model(graph: GraphProto, target: Target) -> ModelProto {
    let mut opset_import = vec![OperatorSetIdProto { domain: String::new(), version: OPSET }];
    if target != Target::Export {
        opset_import.push(OperatorSetIdProto { domain: MICROSOFT.into(), version: 1 });
    }
    if target == Target::Fused {
        opset_import.push(OperatorSetIdProto { domain: FUSED.into(), version: 1 });
    }
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "mt-identifier".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import,
        metadata_props: Vec::new(),
    }
}

/// Nodes that an output depends on.
fn live(graph: &Graph, outputs: &[(&str, Id)]) -> BTreeSet<usize> {
    let mut live: BTreeSet<usize> = outputs.iter().map(|(_, id)| id.0).collect();
    for at in (0..graph.nodes().len()).rev() {
        if live.contains(&at) {
            live.extend(graph.nodes()[at].inputs.iter().map(|id| id.0));
        }
    }
    live
}

/// Name of a value in the ONNX graph.
fn value(id: Id) -> String {
    format!("v{}", id.0)
}

struct Lowering<'g> {
    graph: &'g Graph,
    target: Target,
    nodes: Vec<NodeProto>,
    constants: BTreeMap<String, TensorProto>,
    /// Number of the node being lowered: its output is named after it
    at: usize,
}

/// Operators and constants.
impl Lowering<'_> {
    fn reduce_sum(&mut self, x: &str, axes: &[usize], keep: bool) {
        let axes = self.int_constant(&dims(axes));
        self.emit("ReduceSum", &[x.into(), axes], vec![int("keepdims", i64::from(keep))]);
    }

    fn reshape(&mut self, x: &str, shape: &[usize]) {
        let goal = self.goal(shape);
        self.emit("Reshape", &[x.into(), goal], vec![]);
    }

    fn reshape_step(&mut self, x: &str, shape: &[usize], suffix: &str) -> String {
        let goal = self.goal(shape);
        self.step("Reshape", &[x.into(), goal], vec![], suffix)
    }

    /// A shape as a constant; in an exported model its first dimension is whatever the batch is.
    fn goal(&mut self, shape: &[usize]) -> String {
        let mut dims = dims(shape);
        if self.target == Target::Export {
            dims[0] = -1;
        }
        self.int_constant(&dims)
    }

    /// Slices of (axis, start, end, step); the node's own value without a suffix.
    fn slice(&mut self, x: &str, cuts: &[(usize, i64, i64, i64)], suffix: Option<&str>) -> String {
        let column = |pick: fn(&(usize, i64, i64, i64)) -> i64| cuts.iter().map(pick).collect::<Vec<_>>();
        let inputs = [
            x.to_owned(),
            self.int_constant(&column(|c| c.1)),
            self.int_constant(&column(|c| c.2)),
            self.int_constant(&column(|c| c.0 as i64)),
            self.int_constant(&column(|c| c.3)),
        ];
        let output = suffix.map_or_else(|| value(Id(self.at)), |suffix| format!("v{}_{suffix}", self.at));
        self.named("Slice", &inputs, vec![], output)
    }

    /// An operator that writes the value of the node being lowered.
    fn emit(&mut self, op: &str, inputs: &[String], attribute: Vec<AttributeProto>) {
        let output = value(Id(self.at));
        self.write("", op, inputs, attribute, output);
    }

    /// An operator on the way to the node's value; its output has the node's name and a suffix.
    fn step(&mut self, op: &str, inputs: &[String], attribute: Vec<AttributeProto>, suffix: &str) -> String {
        self.step_in("", op, inputs, attribute, suffix)
    }

    fn step_in(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[String],
        attribute: Vec<AttributeProto>,
        suffix: &str,
    ) -> String {
        let output = format!("v{}_{suffix}", self.at);
        self.write(domain, op, inputs, attribute, output.clone());
        output
    }

    /// An operator whose output has this name.
    fn named(
        &mut self,
        op: &str,
        inputs: &[String],
        attribute: Vec<AttributeProto>,
        output: String,
    ) -> String {
        self.write("", op, inputs, attribute, output.clone());
        output
    }

    fn write(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[String],
        attribute: Vec<AttributeProto>,
        output: String,
    ) {
        self.push(NodeProto {
            input: inputs.to_vec(),
            name: output.clone(),
            output: vec![output],
            op_type: op.into(),
            attribute,
            domain: domain.into(),
        });
    }

    fn push(&mut self, node: NodeProto) {
        self.nodes.push(node);
    }

    fn constant(&mut self, name: &str, make: impl FnOnce(&str) -> TensorProto) {
        if !self.constants.contains_key(name) {
            self.constants.insert(name.into(), make(name));
        }
    }

    /// A small list of integers, shared by all who need the same.
    fn int_constant(&mut self, values: &[i64]) -> String {
        let name = format!("i_{}", values.iter().map(i64::to_string).collect::<Vec<_>>().join("_"));
        self.constant(&name, |name| TensorProto::from_i64(name, values));
        name
    }

    /// A 0 of the element type of the node being lowered.
    fn zero(&mut self) -> String {
        let (kind, bytes) = match self.graph.kind(Id(self.at)) {
            DataType::F16 => (DataType::F16, 2),
            _ => (DataType::F32, 4),
        };
        let name = format!("zero_{bytes}");
        self.constant(&name, |name| TensorProto::from_bytes(name, kind, &[1], vec![0; bytes]));
        name
    }

    /// Ones of this shape.
    fn ones(&mut self, shape: &[usize]) -> String {
        let name = format!("ones_{}", shape.iter().map(usize::to_string).collect::<Vec<_>>().join("_"));
        self.constant(&name, |name| {
            TensorProto::from_f32(name, &dims(shape), &vec![1.0; shape.iter().product()])
        });
        name
    }

    fn signature(&self, name: &str, id: Id) -> ValueInfoProto {
        // Lengths of different names may differ: ONNX Runtime shares memory between values of the same ones.
        let mut dims: Vec<i64> =
            self.graph.shape(id).iter().map(|&d| if d < OPEN { d as i64 } else { -(d as i64) }).collect();
        if self.target == Target::Export {
            dims[0] = -1;
        }
        ValueInfoProto::tensor(name, self.graph.node(id).kind, &dims)
    }
}

/// Lengths as ONNX has them; -1 for open ones.
fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&d| if d < OPEN { d as i64 } else { -1 }).collect()
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: Some(i), r#type: attribute_type::INT, ..AttributeProto::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        ints: values.to_vec(),
        r#type: attribute_type::INTS,
        ..AttributeProto::default()
    }
}
