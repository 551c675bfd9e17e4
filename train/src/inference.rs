//! Scores of an exported model at the active sites of its images: the network is found in the model's own graph.

use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;
use prost::Message;
use shared::network::SimpleCnn;
use shared::onnx::{DataType, GraphProto, ModelProto, NodeProto, TensorProto};
use shared::runtime::{self, Device, RuntimeError, Settings};
use shared::split::{Images, MOST_PIXELS};

use crate::engine::{calm, encode, tables};
use crate::graph::GraphError;
use crate::graph::lower::{Target, lower};
use crate::parameters::{from_plain, parameters};
use crate::sites::{Batch, Geometry, Sites};
use crate::step;

/// Why a model can't be scored at active sites.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum NotOurs {
    #[error("the file has fields that `train` doesn't write")]
    Fields,
    #[error("the model's layers are none of `simple_cnn`")]
    Layers,
    #[error("the model's graph is not the one that `train` exports for its weights")]
    Graph,
    #[error("the model's network can't be built")]
    Build(#[from] GraphError),
}

/// What `train` put into a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The network; units that no layer has are 1, and its dropout is 0, as neither is in a model
    pub network: SimpleCnn,
    /// Factor on ADC counts
    pub normalization: f32,
    /// The flat weights, as [`parameters`] lists them
    pub params: Vec<f32>,
}

impl Exported {
    /// Find network and weights in the bytes of an ONNX file.
    ///
    /// The graph that `train` exports for what was found must be the file's own, to the last node and bit.
    ///
    /// # Errors
    /// [`NotOurs`]
    pub fn read(bytes: &[u8]) -> Result<Self, NotOurs> {
        let model = ModelProto::decode(bytes).map_err(|_| NotOurs::Fields)?;
        if model.encode_to_vec() != bytes {
            return Err(NotOurs::Fields);
        }
        let found = model.graph.as_ref().and_then(Self::find).ok_or(NotOurs::Layers)?;
        let layers = found.network.layers().map_err(|_| NotOurs::Layers)?;
        let (graph, outputs) = step::exported(&found.network, found.normalization, &layers, &found.params)?;
        let again = lower(&graph, &outputs, Target::Export);
        let is_same = again.graph == model.graph
            && again.opset_import == model.opset_import
            && again.ir_version == model.ir_version;
        is_same.then_some(found).ok_or(NotOurs::Graph)
    }

    /// What the graph would be exported from, going by the shapes of its weights.
    fn find(graph: &GraphProto) -> Option<Self> {
        let [height, width] = image_shape(graph)?;
        let (mut scale, mut plain, mut convs) = (None, Vec::new(), 0);
        for node in &graph.node {
            match (node.op_type.as_str(), scale) {
                ("Mul", None) => scale = floats(graph, node, 1)?.1.first().copied(),
                ("Conv", _) => {
                    plain.extend([floats(graph, node, 1)?, floats(graph, node, 2)?]);
                    convs += 1;
                }
                ("MatMul" | "Add", _) => plain.push(floats(graph, node, 1)?),
                _ => {}
            }
        }
        let [filters, 1, kernel, 1] = plain.first()?.0[..] else { return None };
        let dense_layers = (plain.len() / 2).checked_sub(convs + 1)?;
        let units = if dense_layers == 0 { 1 } else { *plain[2 * convs].0.get(1)? };
        let conv_layers = convs.checked_sub(1)?;
        let network =
            SimpleCnn { height, width, filters, kernel, conv_layers, dense_layers, units, dropout: 0.0 };
        let layers = network.layers().ok()?;
        let params = from_plain(&layers, &parameters(&layers, kernel), &plain)?;
        Some(Self { network, normalization: scale?, params })
    }
}

/// Height and width of the one input, if images of it can be kept by their pixels.
fn image_shape(graph: &GraphProto) -> Option<[usize; 2]> {
    let [input] = &graph.input[..] else { return None };
    let [_, height, width] = &input.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?.dim[..] else {
        return None;
    };
    let length = |dim: Option<i64>| usize::try_from(dim?).ok();
    let (height, width) = (length(height.dim_value)?, length(width.dim_value)?);
    (height.checked_mul(width)? <= MOST_PIXELS).then_some([height, width])
}

/// Shape and values of a constant that a node reads.
fn floats(graph: &GraphProto, node: &NodeProto, input: usize) -> Option<(Vec<usize>, Vec<f32>)> {
    let name = node.input.get(input)?;
    let TensorProto { dims, data_type, raw_data, .. } =
        graph.initializer.iter().find(|tensor| &tensor.name == name)?;
    let shape: Vec<usize> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>()?;
    let bytes = shape.iter().try_fold(4_usize, |size, &dim| size.checked_mul(dim))?;
    if *data_type != DataType::F32 as i32 || raw_data.len() != bytes {
        return None;
    }
    Some((shape, raw_data.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()))
}

/// An exported model that is computed at active sites.
#[derive(Debug)]
pub struct SiteModel {
    /// The scoring graph with its weights
    model: Vec<u8>,
    geometry: Geometry,
    scale: f32,
    count: usize,
}

/// The tables of a scoring run.
#[derive(Debug)]
pub struct Run {
    batch: Batch,
    rows: usize,
}

impl SiteModel {
    /// The model in the bytes of an ONNX file.
    ///
    /// - `count`: rows of a scoring run; the last one is filled up with empty images
    ///
    /// # Errors
    /// [`NotOurs`]
    pub fn read(bytes: &[u8], count: usize) -> Result<Self, NotOurs> {
        let Exported { network, normalization, params } = Exported::read(bytes)?;
        let layers = network.layers().map_err(|_| NotOurs::Layers)?;
        let scoring = step::scoring_with(network.kernel, &layers, &params, count)?;
        let geometry = Geometry::new(&layers, network.kernel);
        Ok(Self { model: encode(scoring, Target::Stock), geometry, scale: normalization, count })
    }

    /// Rows of a scoring run.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The tables of images, run after run.
    pub fn runs(&self, images: &Images) -> impl Iterator<Item = Run> + use<> {
        let (rows, count) = (images.rows(), self.count);
        let sites = Sites::new(&self.geometry, images, self.scale, 1);
        (0..rows).step_by(count).map(move |first| {
            let slots: Vec<_> = (first..first + count).map(|row| (row < rows).then_some(row)).collect();
            Run { batch: sites.batch(&slots), rows: count.min(rows - first) }
        })
    }

    /// A session that scores runs, with one thread on the CPU.
    ///
    /// # Errors
    /// [`RuntimeError`]
    pub fn open(&self, device: Device) -> Result<SiteScorer, RuntimeError> {
        let _calm = calm::use_of(device);
        let session = runtime::open_session(&self.model, &Settings::new(device, 1))?;
        let failed = |source| RuntimeError::Session { device, source };
        SiteScorer::new(session, device, self).map_err(failed)
    }
}

/// A session of a [`SiteModel`].
pub struct SiteScorer {
    session: Session,
    binding: IoBinding,
    /// On the host, whatever the device
    logits: Tensor<f32>,
    device: Device,
    kernel: usize,
}

impl std::fmt::Debug for SiteScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiteScorer").field("device", &self.device).finish_non_exhaustive()
    }
}

impl SiteScorer {
    fn new(session: Session, device: Device, model: &SiteModel) -> ort::Result<Self> {
        let mut logits = Tensor::<f32>::new(&Allocator::default(), [model.count])?;
        let mut binding = session.create_binding()?;
        binding.bind_output("logits", &mut logits)?;
        Ok(Self { session, binding, logits, device, kernel: model.geometry.kernel() })
    }

    /// Probabilities of a run's images, appended to `scores`.
    ///
    /// # Errors
    /// Those of ONNX Runtime.
    pub fn score(&mut self, run: Run, scores: &mut Vec<f32>) -> ort::Result<()> {
        let _calm = calm::use_of(self.device);
        tables::bind(&mut self.binding, run.batch, self.kernel)?;
        self.session.run_binding(&self.binding).map(drop)?;
        let (_, logits) = self.logits.extract_tensor();
        scores.extend(logits[..run.rows].iter().map(|&z| (1.0 / (1.0 + f64::from(-z).exp())) as f32));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shared::model::set_props;

    use super::*;
    use crate::parameters::{initial_weights, length};

    fn network(height: usize, width: usize, filters: usize, kernel: usize, layers: [usize; 2]) -> SimpleCnn {
        let [conv_layers, dense_layers] = layers;
        let units = if dense_layers == 0 { 1 } else { 7 };
        SimpleCnn { height, width, filters, kernel, conv_layers, dense_layers, units, dropout: 0.0 }
    }

    fn model(network: &SimpleCnn) -> (ModelProto, Vec<f32>) {
        let layers = network.layers().unwrap();
        let parameters = parameters(&layers, network.kernel);
        let mut flat = initial_weights(&parameters, 5, 3);
        assert_eq!(flat.len(), length(&parameters));
        flat.iter_mut().enumerate().for_each(|(at, weight)| *weight += 1e-3 * at as f32);
        let (graph, outputs) = step::exported(network, 0.01, &layers, &flat).unwrap();
        (lower(&graph, &outputs, Target::Export), flat)
    }

    #[test]
    fn network_and_weights_are_found_in_what_was_exported() {
        for network in [
            network(8, 4, 3, 3, [1, 1]),
            network(31, 7, 5, 5, [1, 0]),
            network(24, 6, 4, 1, [2, 3]),
            network(12, 5, 2, 2, [0, 2]),
        ] {
            let (model, params) = model(&network);
            let found = Exported::read(&model.encode_to_vec()).unwrap();
            assert_eq!(found, Exported { network, normalization: 0.01, params });
        }
    }

    #[test]
    fn a_model_with_anything_else_is_not_ours() {
        let (mut model, _) = model(&network(8, 4, 3, 3, [1, 1]));
        set_props(&mut model, &card());
        let reason = |model: &ModelProto| Exported::read(&model.encode_to_vec()).unwrap_err().to_string();
        Exported::read(&model.encode_to_vec()).unwrap();

        let graph = "the model's graph is not the one that `train` exports for its weights";
        let mut changed = model.clone();
        let nodes = &mut changed.graph.as_mut().unwrap().node;
        nodes.iter_mut().find(|node| node.op_type == "Relu").unwrap().op_type = "LeakyRelu".into();
        assert_eq!(reason(&changed), graph);

        let mut changed = model.clone();
        changed
            .graph
            .as_mut()
            .unwrap()
            .node
            .push(NodeProto { op_type: "Identity".into(), ..NodeProto::default() });
        assert_eq!(reason(&changed), graph);

        let mut changed = model.clone();
        changed.graph.as_mut().unwrap().initializer.retain(|tensor| tensor.dims.len() != 4);
        assert_eq!(reason(&changed), "the model's layers are none of `simple_cnn`");

        let mut bytes = model.encode_to_vec();
        // Field 6, `doc_string`, of two letters.
        bytes.extend([0x32, 2, b'h', b'i']);
        let reason = Exported::read(&bytes).unwrap_err().to_string();
        assert_eq!(reason, "the file has fields that `train` doesn't write");
    }

    fn card() -> shared::model::ModelCard {
        shared::model::ModelCard {
            schema_version: 1,
            plane: shared::plane::Plane::X,
            height: 8,
            width: 4,
            threshold: None,
            energy_cut_mev: None,
            trial: None,
            data_digest: None,
            config_digest: None,
            versions: std::collections::BTreeMap::new(),
        }
    }
}
