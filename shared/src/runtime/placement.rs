//! Which provider of ONNX Runtime computes which node: what falls to the CPU on a GPU is named.
//!
//! ONNX Runtime tells it since version 1.24 (`Session_GetEpGraphAssignmentInfo`), for a session with the option
//! `session.record_ep_graph_assignment_info`. Its option `session.disable_cpu_ep_fallback` refuses such sessions without naming a node, and those too
//! that compute no more than a shape on the CPU, where shapes belong.

#![expect(unsafe_code, reason = "`ort` has no safe function for it yet")]

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::fmt;
use std::ptr::null;

use ort::AsPointer;
use ort::session::Session;
use prost::Message;

use crate::onnx::{GraphProto, ModelProto, NodeProto};

/// The session option without which [`nodes`] is an error.
pub(super) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// ONNX Runtime's name for the CPU.
pub(super) const CPU: &str = "CPUExecutionProvider";

/// Operators that look at the shape of their input and not at its values.
const OF_SHAPE: [&str; 2] = ["Shape", "Size"];

/// Most nodes that a message names.
const NAMED: usize = 10;

/// A node of a session's graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedNode {
    /// Name of the provider that computes it
    pub provider: String,
    /// Operator, such as `Conv`
    pub operator: String,
    /// Its own name; may be empty
    pub name: String,
}

/// Nodes that a message names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeList(pub Vec<PlacedNode>);

impl fmt::Display for NodeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, node) in self.0.iter().take(NAMED).enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            match node.name.as_str() {
                "" => write!(f, "{comma}{} (without a name)", node.operator)?,
                name => write!(f, "{comma}{} `{name}`", node.operator)?,
            }
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// All nodes of a session and where each is computed, after ONNX Runtime's basic optimisations.
///
/// # Errors
/// Those of ONNX Runtime: the session was opened without the option that records it.
pub fn nodes(session: &Session) -> ort::Result<Vec<PlacedNode>> {
    let api = ort::api();
    let (mut groups, mut count) = (null(), 0);
    // SAFETY: the session is alive; what the call hands out belongs to it.
    check(unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &raw mut groups, &raw mut count) })?;
    let mut found = Vec::new();
    for at in 0..count {
        let (mut provider, mut nodes, mut number) = (null(), null(), 0);
        // SAFETY: the array has `count` entries, and all live as long as the session.
        let group = unsafe { *groups.add(at) };
        // SAFETY: as above.
        check(unsafe { (api.EpAssignedSubgraph_GetEpName)(group, &raw mut provider) })?;
        // SAFETY: as above.
        check(unsafe { (api.EpAssignedSubgraph_GetNodes)(group, &raw mut nodes, &raw mut number) })?;
        for at in 0..number {
            let (mut name, mut operator) = (null(), null());
            // SAFETY: the array has `number` entries, and all live as long as the session.
            let node = unsafe { *nodes.add(at) };
            // SAFETY: as above.
            check(unsafe { (api.EpAssignedNode_GetName)(node, &raw mut name) })?;
            // SAFETY: as above.
            check(unsafe { (api.EpAssignedNode_GetOperatorType)(node, &raw mut operator) })?;
            found.push(PlacedNode { provider: text(provider), operator: text(operator), name: text(name) });
        }
    }
    Ok(found)
}

/// An error from what a function of ONNX Runtime returned.
fn check(status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: the status comes from the call before and is used nowhere else.
    unsafe { ort::Error::result_from_status(status) }
}

/// A text of ONNX Runtime's; empty if there is none.
fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: ONNX Runtime's texts end with a zero and live as long as the session.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Those of the nodes on the CPU that compute with data, and not only with constants and shapes.
///
/// A node that the model does not have under its name, since an optimisation made it, counts as one that does.
pub(super) fn with_data(model: &[u8], on_cpu: Vec<PlacedNode>) -> Vec<PlacedNode> {
    let graph = ModelProto::decode(model).ok().and_then(|model| model.graph).unwrap_or_default();
    let shapes = only_shapes(&graph);
    let is_shape = |placed: &PlacedNode| {
        let mut same = (graph.node.iter().zip(&shapes))
            .filter(|(node, _)| node.name == placed.name && node.op_type == placed.operator)
            .map(|(_, &is_shape)| is_shape)
            .peekable();
        same.peek().is_some() && same.all(|is_shape| is_shape)
    };
    on_cpu.into_iter().filter(|placed| !is_shape(placed)).collect()
}

/// For each node whether all that it reads are constants and shapes, and what was made from them.
fn only_shapes(graph: &GraphProto) -> Vec<bool> {
    let mut known: HashMap<&str, bool> =
        graph.initializer.iter().map(|constant| (constant.name.as_str(), true)).collect();
    let mut found = Vec::with_capacity(graph.node.len());
    // A model's nodes stand in the order of their computation.
    for NodeProto { op_type, input, output, .. } in &graph.node {
        let given = |name: &String| name.is_empty() || known.get(name.as_str()) == Some(&true);
        let is_shape = OF_SHAPE.contains(&op_type.as_str()) || input.iter().all(given);
        known.extend(output.iter().map(|name| (name.as_str(), is_shape)));
        found.push(is_shape);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{DataType, IR_VERSION, OPSET, OperatorSetIdProto, TensorProto, ValueInfoProto};
    use crate::runtime::{self, Device, Settings};

    fn node(op_type: &str, name: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: name.to_owned(),
            op_type: op_type.to_owned(),
            ..NodeProto::default()
        }
    }

    /// y = reshape(det(x), the shape of x without its last two)
    fn model() -> Vec<u8> {
        let graph = GraphProto {
            node: vec![
                node("Det", "determinant", &["x"], "d"),
                node("Shape", "shape", &["x"], "s"),
                node("Gather", "first", &["s", "zero"], "n"),
                node("Reshape", "flat", &["d", "n"], "y"),
            ],
            name: "test".to_owned(),
            initializer: vec![TensorProto::from_i64("zero", &[0])],
            input: vec![ValueInfoProto::tensor("x", DataType::F32, &[-1, 2, 2])],
            output: vec![ValueInfoProto::tensor("y", DataType::F32, &[-1])],
        };
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: OPSET }];
        let model =
            ModelProto { ir_version: IR_VERSION, graph: Some(graph), opset_import, ..ModelProto::default() };
        model.encode_to_vec()
    }

    fn placed(operator: &str, name: &str) -> PlacedNode {
        PlacedNode { provider: CPU.to_owned(), operator: operator.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn shapes_may_be_computed_on_the_cpu_and_data_may_not() {
        let all = ["Det determinant", "Shape shape", "Gather first", "Reshape flat", "Fused made"]
            .map(|node| node.split_once(' ').unwrap())
            .map(|(operator, name)| placed(operator, name));
        let refused = with_data(&model(), all.to_vec());
        assert_eq!(refused, [all[0].clone(), all[3].clone(), all[4].clone()]);
        assert_eq!(NodeList(refused).to_string(), "Det `determinant`, Reshape `flat`, Fused `made`");
        let many = NodeList(vec![placed("Det", ""); 12]).to_string();
        assert!(many.starts_with("Det (without a name), Det") && many.ends_with(" and 2 more"), "{many}");
    }

    #[test]
    fn a_session_tells_where_its_nodes_are_computed() {
        let settings = Settings::new(Device::Cpu, 1);
        let open = |record: bool| {
            let builder = runtime::builder(&settings).unwrap();
            let builder = if record { builder.with_config_entry(RECORD, "1").unwrap() } else { builder };
            { builder }.commit_from_memory(&model()).unwrap()
        };
        let mut names: Vec<String> = nodes(&open(true)).unwrap().into_iter().map(|node| node.name).collect();
        names.sort();
        assert_eq!(names, ["determinant", "first", "flat", "shape"]);
        assert!(nodes(&open(true)).unwrap().iter().all(|node| node.provider == CPU));
        let error = nodes(&open(false)).unwrap_err().to_string();
        assert!(error.contains(RECORD), "{error}");
    }
}
