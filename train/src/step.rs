//! The training step and the scoring pass of `simple_cnn` as graphs.

use shared::network::{Layers, SimpleCnn};
use shared::onnx::DataType;

use crate::args::Precision;
use crate::blocks;
use crate::dropout::Dropout;
use crate::forward::{self, MapRows, SiteInputs};
use crate::graph::{Graph, GraphError, Id, Op};
use crate::loss::{Loss, correct};
use crate::optimizer::{self, Optimizer};
use crate::parameters::{self, Parameter, length, parameters};
use crate::scale;
use crate::sites::Geometry;

/// What a step graph is built for.
#[derive(Debug, Clone)]
pub struct StepPlan {
    /// The network
    pub network: SimpleCnn,
    /// Factor on ADC counts
    pub normalization: f32,
    /// Rows of an optimiser step
    pub batch: usize,
    /// Number of rows in the data set on the device
    pub rows: usize,
    /// Steps of an epoch; the last one is padded with rows of weight 0
    pub steps_per_epoch: usize,
    /// Equal pieces of a batch that threads compute side by side; fixed by the data, never by the threads, so that
    /// the same sums come out whatever their number
    pub pieces: usize,
    /// What is minimised
    pub loss: Loss,
    /// Weight decay and clipping of the update
    pub optimizer: Optimizer,
    /// Seed of the study
    pub seed: u64,
    /// Number of the trial: seed and trial name the random streams
    pub trial: u64,
    /// How products are rounded
    pub precision: Precision,
}

impl StepPlan {
    /// Element type of products, activations and their gradients.
    pub fn kind(&self) -> DataType {
        match self.precision {
            Precision::F32 | Precision::Tf32 => DataType::F32,
            Precision::Fp16 => DataType::F16,
        }
    }

    /// Maps of the network.
    pub fn geometry(&self, layers: &Layers) -> Geometry {
        Geometry::new(layers, self.network.kernel)
    }

    /// Rows of a piece; the last piece may reach past the batch, with rows that don't count.
    pub fn piece_rows(&self) -> usize {
        self.batch.div_ceil(self.pieces)
    }

    /// Length of the input `rates`: Adam's rates of the epoch's steps, then, with weight decay, its shares.
    pub fn rates(&self) -> usize {
        self.steps_per_epoch * if self.optimizer.decays() { 2 } else { 1 }
    }
}

/// Pieces of a batch: enough for a laptop's cores. Smaller pieces would spend their time starting operators.
const PIECES: usize = 8;

/// Pieces that a batch of `batch` rows is cut into on the CPU; none is left without rows.
pub fn default_pieces(batch: usize) -> usize {
    let rows = batch.div_ceil(PIECES).max(1);
    batch.div_ceil(rows)
}

/// Named outputs of a graph.
pub type Outputs = Vec<(&'static str, Id)>;

/// Names of the pieces' gradients among the inputs of [`update`].
pub fn piece_name(kind: &str, piece: usize) -> String {
    format!("{kind}_{piece}")
}

/// The graph of one whole optimiser step, as a GPU runs it.
///
/// Inputs: the batch's tables (see [`crate::sites::Batch`]), `labels` and `weights` `[batch]` (1 for rows that count, 0 for padding),
/// `count` `[1]` (rows that count), `rates` (see [`StepPlan::rates`]; Adam's have their bias correction), `params`, `m`, `v` `[P]`,
/// `step` `[1]` i64 (of the training), `batch` `[1]` i64 (of the epoch), `sums` `[2]` (loss and correct rows of the epoch).
/// Outputs: `params_next`, `m_next`, `v_next`, `step_next`, `batch_next`, `sums_next`.
/// In half precision also the input `scale` `[3]` and the output `scale_next` (see [`scale`]).
///
/// - `fused`: by blocks of our own (see [`blocks`]) instead of operators one by one; the network must not be
///   [`blocks::uncovered`]
///
/// # Errors
/// [`GraphError`] for a network whose shapes don't fit.
pub fn whole_step(
    plan: &StepPlan,
    layers: &Layers,
    maps: &MapRows,
    fused: bool,
) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::for_gpu();
    let state = State::new(&mut g, plan, layers);
    if fused {
        let outputs = by_blocks(&mut g, plan, layers, maps, &state)?;
        return Ok((g, outputs));
    }
    let first = g.integer(0);
    let (gradient, sums) = backward(&mut g, plan, layers, &state, maps, first, plan.batch)?;
    let (gradient, scale) = match state.scale {
        Some(scale) => scale::on_gpu(&mut g, gradient, scale)?,
        None => (gradient, None),
    };
    let outputs = finish_step(&mut g, plan, &state, gradient, scale, sums)?;
    Ok((g, outputs))
}

/// Outputs of [`whole_step`] by blocks of our own.
fn by_blocks(
    g: &mut Graph,
    plan: &StepPlan,
    layers: &Layers,
    maps: &MapRows,
    state: &State,
) -> Result<Outputs, GraphError> {
    let &State { params, step, batch, scale, .. } = state;
    let done = blocks::step(g, plan, layers, maps, &blocks::Start { params, step, batch, scale });
    let rates = g.input("rates", DataType::F32, &[plan.rates()]);
    let start = optimizer::Start { params, gradient: done.gradient, rates, batch, scale: done.scale };
    let (params_next, m_next, v_next) = optimizer::step(g, plan, &state.parameters, &start)?;
    let mut outputs = vec![
        ("params_next", params_next),
        ("m_next", m_next),
        ("v_next", v_next),
        ("step_next", done.step),
        ("batch_next", done.batch),
        ("sums_next", done.sums),
    ];
    outputs.extend(done.scale.map(|scale| ("scale_next", scale)));
    Ok(outputs)
}

/// The graph of one piece of a step, as a CPU thread runs it.
///
/// Inputs: those of [`whole_step`] that it needs, with `labels` and `weights` of the piece's rows and `count` of the batch's,
/// and `first` `[1]` i64, the piece's first row in the batch.
/// Outputs: `gradient` `[P]`, f32 and without a loss scale, `sums` `[2]` (loss and correct rows of the piece).
///
/// # Errors
/// [`GraphError`]
pub fn piece_gradient(plan: &StepPlan, layers: &Layers) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let state = State::new(&mut g, plan, layers);
    let first = g.input("first", DataType::I64, &[1]);
    let maps = MapRows::open(&plan.geometry(layers));
    let (mut gradient, sums) = backward(&mut g, plan, layers, &state, &maps, first, plan.piece_rows())?;
    if let Some(scale) = state.scale {
        gradient = scale::unscaled(&mut g, gradient, scale)?;
    }
    Ok((g, vec![("gradient", gradient), ("sums", sums)]))
}

/// The graph that sums the pieces in their order and takes the optimiser's step.
///
/// Inputs: `gradient_0` … and `sums_0` … from [`piece_gradient`], and the state as in [`whole_step`].
///
/// # Errors
/// [`GraphError`]
pub fn update(plan: &StepPlan, layers: &Layers) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let state = State::new(&mut g, plan, layers);
    let length = g.shape(state.params).to_vec();
    let mut total = |kind: &str, shape: &[usize]| {
        let inputs: Vec<Id> =
            (0..plan.pieces).map(|i| g.input(&piece_name(kind, i), DataType::F32, shape)).collect();
        if inputs.len() == 1 { Ok(inputs[0]) } else { g.apply(Op::Sum, &inputs) }
    };
    let gradient = total("gradient", &length)?;
    let sums = total("sums", &[2])?;
    let scale = state.scale.map(|scale| scale::next(&mut g, gradient, scale)).transpose()?;
    let outputs = finish_step(&mut g, plan, &state, gradient, scale, sums)?;
    Ok((g, outputs))
}

/// The graph that scores `count` rows, in f32 always: inputs `params` and the rows' tables; output `logits` `[count]`.
///
/// # Errors
/// [`GraphError`]
pub fn scoring(
    plan: &StepPlan,
    layers: &Layers,
    maps: &MapRows,
    count: usize,
) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let parameters = parameters(layers, plan.network.kernel);
    let params = g.input("params", DataType::F32, &[length(&parameters)]);
    let weights = split_parameters(&mut g, params, &parameters)?;
    let sites = SiteInputs::new(&mut g, &plan.geometry(layers), maps, count, DataType::F32);
    let logits = forward::at_sites(&mut g, layers, &weights, &sites, None)?;
    Ok((g, vec![("logits", logits)]))
}

/// [`scoring`] by blocks of our own; the network must not be [`blocks::uncovered`].
pub fn scoring_by_blocks(plan: &StepPlan, layers: &Layers, maps: &MapRows, count: usize) -> (Graph, Outputs) {
    let plan = StepPlan { batch: count, precision: Precision::F32, ..plan.clone() };
    let mut g = Graph::for_gpu();
    let parameters = parameters(layers, plan.network.kernel);
    let params = g.input("params", DataType::F32, &[length(&parameters)]);
    let logits = blocks::logits(&mut g, &plan, layers, maps, params);
    (g, vec![("logits", logits)])
}

/// [`scoring`] with the weights inside, so that ONNX Runtime can prepare them once: inputs are the rows' tables alone.
///
/// # Errors
/// [`GraphError`]
pub fn scoring_with(
    kernel: usize,
    layers: &Layers,
    flat: &[f32],
    count: usize,
) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let geometry = Geometry::new(layers, kernel);
    let weights: Vec<Id> =
        parameters(layers, kernel).iter().map(|p| g.floats(&p.shape, flat[p.range()].to_vec())).collect();
    let sites = SiteInputs::new(&mut g, &geometry, &MapRows::open(&geometry), count, DataType::F32);
    let logits = forward::at_sites(&mut g, layers, &weights, &sites, None)?;
    Ok((g, vec![("logits", logits)]))
}

/// The graph of an exported model with `weights` inside: input `image` `[1, height, width]`, output `probability` `[1]`.
///
/// # Errors
/// [`GraphError`]
pub fn exported(
    network: &SimpleCnn,
    normalization: f32,
    layers: &Layers,
    flat: &[f32],
) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let images = g.input("image", DataType::F32, &[1, network.height, network.width]);
    let parameters = parameters(layers, network.kernel);
    let weights: Vec<Id> = parameters::plain(layers, &parameters, flat)
        .into_iter()
        .map(|(shape, values)| g.floats(&shape, values))
        .collect();
    let logits = forward::on_images(&mut g, layers, &weights, images, normalization, None)?;
    let probability = g.sigmoid(logits)?;
    Ok((g, vec![("probability", probability)]))
}

/// The flat vector as tensors.
fn split_parameters(g: &mut Graph, params: Id, parameters: &[Parameter]) -> Result<Vec<Id>, GraphError> {
    parameters
        .iter()
        .map(|p| {
            let flat = g.apply(Op::Slice { axis: 0, start: p.start, end: p.start + p.len() }, &[params])?;
            g.reshape(flat, &p.shape)
        })
        .collect()
}

/// What a step starts from.
struct State {
    parameters: Vec<Parameter>,
    params: Id,
    step: Id,
    batch: Id,
    /// The loss scale, in half precision
    scale: Option<Id>,
}

impl State {
    fn new(g: &mut Graph, plan: &StepPlan, layers: &Layers) -> Self {
        let parameters = parameters(layers, plan.network.kernel);
        let params = g.input("params", DataType::F32, &[length(&parameters)]);
        let step = g.input("step", DataType::I64, &[1]);
        let batch = g.input("batch", DataType::I64, &[1]);
        let half = plan.kind() == DataType::F16;
        let scale = half.then(|| g.input("scale", DataType::F32, &[scale::START.len()]));
        Self { parameters, params, step, batch, scale }
    }
}

/// Forward and backward over `count` rows of the batch from row `first` on.
///
/// Returns the gradient `[P]` of the batch's mean loss (in half precision as halves, times the loss scale), and loss and
/// correct rows `[2]`, both summed over the rows.
fn backward(
    g: &mut Graph,
    plan: &StepPlan,
    layers: &Layers,
    state: &State,
    maps: &MapRows,
    first: Id,
    count: usize,
) -> Result<(Id, Id), GraphError> {
    let params = g.cast(state.params, plan.kind());
    let weights = split_parameters(g, params, &state.parameters)?;
    let dropout = Dropout::new(g, plan, layers, state.step, first, count)?;
    let sites = SiteInputs::new(g, &plan.geometry(layers), maps, count, plan.kind());
    let labels = g.input("labels", DataType::F32, &[count]);
    let counted = g.input("weights", DataType::F32, &[count]);
    let batch_count = g.input("count", DataType::F32, &[1]);
    let logits = forward::at_sites(g, layers, &weights, &sites, Some(&dropout))?;
    let loss = plan.loss.sum(g, logits, labels, counted)?;
    let mut goal = g.div(loss, batch_count)?;
    if let Some(scale) = state.scale {
        goal = scale::scaled(g, goal, scale)?;
    }
    let mut flat = Vec::new();
    for part in g.gradients(goal, &weights)? {
        let length = g.shape(part).iter().product();
        flat.push(g.reshape(part, &[length])?);
    }
    let gradient = g.apply(Op::Concat { axis: 0 }, &flat)?;
    let correct = correct(g, logits, labels, counted)?;
    let sums = g.apply(Op::Concat { axis: 0 }, &[loss, correct])?;
    Ok((gradient, sums))
}

/// Adam's step and the counters; with a loss scale, whose next state this is, only a step that is to be taken.
fn finish_step(
    g: &mut Graph,
    plan: &StepPlan,
    state: &State,
    gradient: Id,
    scale_next: Option<Id>,
    sums: Id,
) -> Result<Outputs, GraphError> {
    let rates = g.input("rates", DataType::F32, &[plan.rates()]);
    let start =
        optimizer::Start { params: state.params, gradient, rates, batch: state.batch, scale: scale_next };
    let (params_next, m_next, v_next) = optimizer::step(g, plan, &state.parameters, &start)?;
    let before = g.input("sums", DataType::F32, &[2]);
    let one = g.integer(1);
    let mut outputs = vec![
        ("params_next", params_next),
        ("m_next", m_next),
        ("v_next", v_next),
        ("step_next", g.add(state.step, one)?),
        ("batch_next", g.add(state.batch, one)?),
        ("sums_next", g.add(before, sums)?),
    ];
    outputs.extend(scale_next.map(|scale| ("scale_next", scale)));
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_by_its_size_alone() {
        assert_eq!(default_pieces(128), 8);
        // Pieces of 17 rows: 8 are enough for 130 rows.
        assert_eq!(default_pieces(130), 8);
        // Pieces of 2 rows: 5 are enough for 9 rows.
        assert_eq!(default_pieces(9), 5);
        assert_eq!(default_pieces(1), 1);
    }
}
