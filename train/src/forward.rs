//! The network as a graph: at the active sites for training, on whole images for the exported model.

use shared::network::{DenseLayer, Layers};
use shared::onnx::DataType;

use crate::dropout::Dropout;
use crate::graph::{Graph, GraphError, Id, Op, open};
use crate::sites::Geometry;

/// Rows of the matrices that hold the maps of a batch, background included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapRows {
    /// Of each map, the stem's first
    pub rows: Vec<usize>,
}

impl MapRows {
    /// Rows that each run decides.
    pub fn open(geometry: &Geometry) -> Self {
        // Four times a map's rows is a length too: leave room between the tags.
        Self { rows: (0..=geometry.stages()).map(|map| open(8 * map)).collect() }
    }
}

/// A batch's tables as inputs of a graph; see [`crate::sites::Batch`] for what they hold.
pub(crate) struct SiteInputs {
    pixels: Id,
    stages: Vec<StageInputs>,
    places: Id,
    found: Id,
    absent: Id,
    images: usize,
}

struct StageInputs {
    taps: Id,
    readers: Id,
    quiet: Id,
}

/// Name of a stage's table.
pub fn table_name(kind: &str, stage: usize) -> String {
    format!("{kind}{}", stage + 1)
}

impl SiteInputs {
    /// The inputs of a graph for `images` images, whose numbers come as f32 and are used as `kind`.
    pub fn new(g: &mut Graph, geometry: &Geometry, maps: &MapRows, images: usize, kind: DataType) -> Self {
        let floats = |g: &mut Graph, name: &str, shape: &[usize]| {
            let input = g.input(name, DataType::F32, shape);
            g.cast(input, kind)
        };
        let kernel = geometry.kernel();
        let mut stages = Vec::new();
        for stage in 0..geometry.stages() {
            let (rows, members) = (maps.rows[stage], 4 * maps.rows[stage + 1]);
            stages.push(StageInputs {
                taps: g.input(&table_name("taps", stage), DataType::I32, &[members, kernel]),
                readers: g.input(&table_name("readers", stage), DataType::I32, &[rows, kernel]),
                quiet: floats(g, &table_name("quiet", stage), &[kernel, members]),
            });
        }
        let places = images * geometry.positions();
        Self {
            pixels: floats(g, "pixels", &[maps.rows[0], kernel + 1]),
            stages,
            places: g.input("places", DataType::I32, &[places]),
            found: g.input("found", DataType::I32, &[maps.rows[geometry.stages()]]),
            absent: floats(g, "absent", &[places]),
            images,
        }
    }
}

/// Logits `[images]` from the active sites; `weights` as `parameters` lists them.
pub(crate) fn at_sites(
    g: &mut Graph,
    layers: &Layers,
    weights: &[Id],
    sites: &SiteInputs,
    dropout: Option<&Dropout>,
) -> Result<Id, GraphError> {
    let (convs, denses) = weights.split_at(2 * layers.convs.len());
    let mut x = stem(g, sites.pixels, convs[0], convs[1])?;
    for (stage, weights) in sites.stages.iter().zip(convs[2..].chunks_exact(2)) {
        let (kernel, inputs) = (g.shape(weights[0])[0], g.shape(x)[1]);
        let outputs = g.shape(weights[1])[0];
        let patches = g.gather(x, stage.taps)?;
        let members = g.shape(stage.taps)[0];
        let patches = g.reshape(patches, &[members, kernel * inputs])?;
        let w = g.reshape(weights[0], &[kernel * inputs, outputs])?;
        let y = g.apply(Op::SiteConv, &[patches, x, w, stage.readers, stage.quiet])?;
        // relu(max(y) + b) = max(relu(y + b)), with the same gradient, over a quarter of the elements.
        x = g.apply(Op::CellPool, &[y, weights[1]])?;
    }
    let placed = g.apply(Op::Place, &[x, sites.places, sites.found, sites.absent])?;
    let features = g.shape(placed).iter().product::<usize>() / sites.images;
    let x = g.reshape(placed, &[sites.images, features])?;
    dense(g, &layers.denses, denses, x, dropout)
}

/// The stem at its sites: `pixels` `[n, kernel + 1]` end with a column of ones for the bias.
fn stem(g: &mut Graph, pixels: Id, weight: Id, bias: Id) -> Result<Id, GraphError> {
    let (kernel, filters) = (g.shape(weight)[0], g.shape(bias)[0]);
    let weight = g.reshape(weight, &[kernel, filters])?;
    let bias = g.reshape(bias, &[1, filters])?;
    let both = g.apply(Op::Concat { axis: 0 }, &[weight, bias])?;
    let x = g.matmul(pixels, both)?;
    g.relu(x)
}

/// Logits `[n]` of raw images `[n, height, width]`; `weights` as [`crate::parameters::plain`] lists them.
pub(crate) fn on_images(
    g: &mut Graph,
    layers: &Layers,
    weights: &[Id],
    images: Id,
    scale: f32,
    dropout: Option<&Dropout>,
) -> Result<Id, GraphError> {
    let (n, height, width) = (g.shape(images)[0], g.shape(images)[1], g.shape(images)[2]);
    let (convs, denses) = weights.split_at(2 * layers.convs.len());
    let scale = g.float(scale);
    let scaled = g.mul(images, scale)?;
    let mut x = g.reshape(scaled, &[n, 1, height, width])?;
    for (layer, weights) in layers.convs.iter().zip(convs.chunks_exact(2)) {
        x = g.conv(x, weights[0], weights[1])?;
        if layer.pooled {
            x = g.max_pool(x)?;
        }
        x = g.relu(x)?;
    }
    let features = g.shape(x)[1..].iter().product();
    let x = g.reshape(x, &[n, features])?;
    dense(g, &layers.denses, denses, x, dropout)
}

/// The dense layers: features `[n, f]` to logits `[n]`.
fn dense(
    g: &mut Graph,
    layers: &[DenseLayer],
    weights: &[Id],
    mut x: Id,
    dropout: Option<&Dropout>,
) -> Result<Id, GraphError> {
    for (number, (layer, weights)) in layers.iter().zip(weights.chunks_exact(2)).enumerate() {
        // Logits are f32 always: halves end at 65,504, and with them the loss.
        let kind = if layer.name == "output" { DataType::F32 } else { g.kind(x) };
        let (weight, bias) = (g.cast(weights[0], kind), g.cast(weights[1], kind));
        x = g.cast(x, kind);
        let product = g.matmul(x, weight)?;
        x = g.add(product, bias)?;
        if layer.name != "output" {
            x = g.relu(x)?;
            if let Some(dropout) = dropout {
                x = dropout.apply(g, x, number)?;
            }
        }
    }
    let rows = g.shape(x)[0];
    g.reshape(x, &[rows])
}
