//! Whether ONNX Runtime has the blocked layout here, asked of the library itself.

use std::sync::OnceLock;

use ort::value::Tensor;
use prost::Message;
use shared::onnx::{
    DataType, GraphProto, IR_VERSION, ModelProto, NodeProto, OPSET, OperatorSetIdProto, ValueInfoProto,
};
use shared::runtime::{self, Device, Settings};

use super::{BLOCKED, int};

/// Channels of the probed image: two of the largest blocks known.
const CHANNELS: usize = 32;

/// Channels in a block, or `None` if this build or processor has no blocked layout; asked once, logged once.
pub(crate) fn block() -> Option<usize> {
    static FOUND: OnceLock<Option<usize>> = OnceLock::new();
    *FOUND.get_or_init(|| match ask() {
        Ok(Some(block)) => {
            tracing::debug!("convolutions use blocks of {block} channels");
            Some(block)
        }
        Ok(None) => {
            tracing::info!(
                "ONNX Runtime's blocked layout is of an unknown kind here: convolutions use the plain one"
            );
            None
        }
        Err(error) => {
            tracing::info!(
                "ONNX Runtime has no blocked layout here ({error}): convolutions use the plain one"
            );
            None
        }
    })
}

/// Let ONNX Runtime undo the blocks of an image of two columns whose values are their positions in memory.
///
/// Channel 0 of column 1 lies behind channel 0 … block - 1 of column 0, so its value is the size of a block.
fn ask() -> Result<Option<usize>, Box<dyn std::error::Error>> {
    let mut session = runtime::session(&model().encode_to_vec(), &Settings::new(Device::Cpu, 1))?;
    let positions: Vec<f32> = (0..2 * CHANNELS).map(|at| at as f32).collect();
    let feed = Tensor::from_array(([1, CHANNELS, 1, 2], positions))?;
    let results = session.run(ort::inputs!["x" => feed])?;
    let found = results["y"].try_extract_tensor::<f32>()?.1;
    Ok([8, 16].into_iter().find(|&block| {
        (0..CHANNELS).all(|channel| {
            (0..2).all(|column| {
                let position = channel / block * 2 * block + column * block + channel % block;
                found[channel * 2 + column].to_bits() == (position as f32).to_bits()
            })
        })
    }))
}

fn model() -> ModelProto {
    let dims = [1, CHANNELS as i64, 1, 2];
    let node = NodeProto {
        input: vec!["x".into()],
        output: vec!["y".into()],
        name: "y".into(),
        op_type: "ReorderOutput".into(),
        attribute: vec![int("channels", CHANNELS as i64)],
        domain: BLOCKED.into(),
    };
    let graph = GraphProto {
        node: vec![node],
        name: "probe".into(),
        initializer: Vec::new(),
        input: vec![ValueInfoProto::tensor("x", DataType::F32, &dims)],
        output: vec![ValueInfoProto::tensor("y", DataType::F32, &dims)],
    };
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "mt-identifier".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: vec![
            OperatorSetIdProto { domain: String::new(), version: OPSET },
            OperatorSetIdProto { domain: BLOCKED.into(), version: 1 },
        ],
        metadata_props: Vec::new(),
    }
}
