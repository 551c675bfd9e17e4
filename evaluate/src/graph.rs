//! What an ONNX file says about its graph, read without copying the weights.

use std::path::{Component, Path, PathBuf};

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
}

/// The fields of `TensorProto` that tell where its values are; the values themselves are skipped.
#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<Entry>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
}

/// `TensorProto.DataLocation.EXTERNAL`
const EXTERNAL: i32 = 1;

/// Operators that change the shape of the scores but not their values.
const SHAPE_OPERATORS: [&str; 7] =
    ["Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Cast"];

/// Where the weights are and which operator makes the scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFacts {
    /// Files beside the model that hold weights, as the model names them, without repeats
    pub external: Vec<String>,
    /// Operator that computes the first output, shape operators aside; `None` if an input or constant is passed on
    pub last_operator: Option<String>,
}

/// Read the facts.
///
/// # Errors
/// The bytes are no ONNX model, or not all of one.
pub fn facts(bytes: &[u8]) -> Result<GraphFacts, prost::DecodeError> {
    let graph = Model::decode(bytes)?.graph.unwrap_or_default();
    let mut external: Vec<String> = graph
        .initializer
        .iter()
        .filter(|tensor| tensor.data_location == EXTERNAL)
        .flat_map(|tensor| &tensor.external_data)
        .filter(|entry| entry.key == "location")
        .map(|entry| entry.value.clone())
        .collect();
    external.sort();
    external.dedup();
    Ok(GraphFacts { external, last_operator: last_operator(&graph) })
}

fn last_operator(graph: &Graph) -> Option<String> {
    let mut wanted = &graph.output.first()?.name;
    // Each step goes to an earlier node, so there are no more steps than nodes.
    for _ in 0..graph.node.len() {
        let node = graph.node.iter().find(|node| node.output.contains(wanted))?;
        if !SHAPE_OPERATORS.contains(&node.op_type.as_str()) {
            return Some(node.op_type.clone());
        }
        wanted = node.input.first()?;
    }
    None
}

/// The path of an external file, if it stays inside the model's folder (links followed).
pub fn inside(folder: &Path, location: &str) -> Option<PathBuf> {
    let relative = Path::new(location);
    if location.is_empty() || relative.components().any(|part| !matches!(part, Component::Normal(_))) {
        return None;
    }
    let path = folder.join(relative);
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(real), Ok(folder)) if !real.starts_with(&folder) => None,
        _ => Some(path), // a file that is not there is reported when it is read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_outside_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(dir.path().join("secret"), b"x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), folder.join("link")).unwrap();
        for location in ["/etc/passwd", "../secret", "a/../../secret", "", "link"] {
            assert_eq!(inside(&folder, location), None, "{location}");
        }
        assert_eq!(inside(&folder, "weights.bin"), Some(folder.join("weights.bin")));
    }

    #[test]
    fn shape_operators_after_the_sigmoid_are_looked_through() {
        let node = |op: &str, input: &str, output: &str| Node {
            input: vec![input.into()],
            output: vec![output.into()],
            op_type: op.into(),
        };
        let graph = Graph {
            node: vec![node("Gemm", "x", "a"), node("Sigmoid", "a", "b"), node("Squeeze", "b", "y")],
            initializer: Vec::new(),
            output: vec![Value { name: "y".into() }],
        };
        let bytes = Model { graph: Some(graph) }.encode_to_vec();
        assert_eq!(facts(&bytes).unwrap().last_operator.as_deref(), Some("Sigmoid"));
    }
}
