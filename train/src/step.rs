//! The training step and the scoring pass of `simple_cnn` as graphs.

use rand::RngExt;
use shared::network::{Layers, SimpleCnn};
use shared::onnx::DataType;

use crate::dropout::Dropout;
use crate::graph::{Graph, GraphError, Id, Op};

/// First-moment decay of Adam.
pub const BETA_1: f64 = 0.9;
/// Second-moment decay of Adam.
pub const BETA_2: f64 = 0.999;
/// Added to the root of the second moment, outside the bias correction, as Keras has it.
pub const EPSILON: f32 = 1e-7;

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
    /// Seed of the study
    pub seed: u64,
    /// Number of the trial: seed and trial name the random streams
    pub trial: u64,
}

/// A parameter tensor inside the flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Such as `conv0.weight`
    pub name: String,
    /// Shape
    pub shape: Vec<usize>,
    /// First element in the flat vector
    pub start: usize,
    /// Inputs and outputs that Glorot's bound counts; `None` for biases, which start at 0
    pub fans: Option<(usize, usize)>,
}

impl Parameter {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements, which no layer has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters in the order of the flat vector: convolutions, then dense layers, weight before bias.
///
/// Convolution weights are `[out, in, kernel, 1]`, dense weights `[in, out]`.
pub fn parameters(layers: &Layers, kernel: usize) -> Vec<Parameter> {
    let mut found: Vec<Parameter> = Vec::new();
    let mut push = |name: String, shape: Vec<usize>, fans| {
        let start = found.last().map_or(0, |p| p.start + p.len());
        found.push(Parameter { name, shape, start, fans });
    };
    for layer in &layers.convs {
        let fans = Some((layer.inputs * kernel, layer.outputs * kernel));
        push(format!("{}.weight", layer.name), vec![layer.outputs, layer.inputs, kernel, 1], fans);
        push(format!("{}.bias", layer.name), vec![layer.outputs], None);
    }
    for layer in &layers.denses {
        push(
            format!("{}.weight", layer.name),
            vec![layer.inputs, layer.outputs],
            Some((layer.inputs, layer.outputs)),
        );
        push(format!("{}.bias", layer.name), vec![layer.outputs], None);
    }
    found
}

/// Glorot-uniform weights and zero biases, the flat vector.
///
/// Bound: √(6 / (fan in + fan out)), Glorot & Bengio 2010, eq. 16. Stream `weights` of (seed, trial, parameter number).
pub fn initial_weights(parameters: &[Parameter], seed: u64, trial: u64) -> Vec<f32> {
    let mut flat = Vec::new();
    for (number, parameter) in parameters.iter().enumerate() {
        let Some((fan_in, fan_out)) = parameter.fans else {
            flat.extend(std::iter::repeat_n(0.0, parameter.len()));
            continue;
        };
        let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
        let mut random = shared::random::stream(seed, "weights", &[trial, number as u64]);
        flat.extend((0..parameter.len()).map(|_| (random.random_range(-1.0..1.0) * bound) as f32));
    }
    flat
}

impl StepPlan {
    /// Rows of a piece; the last piece may reach past the batch, with rows that don't count.
    pub fn piece_rows(&self) -> usize {
        self.batch.div_ceil(self.pieces)
    }
}

/// Most pieces of a batch: the activations of 4 rows of 128 stay in a core's cache.
const MOST_PIECES: usize = 32;
/// Fewest pieces of a batch, so that a laptop's cores have work.
const FEWEST_PIECES: usize = 8;
/// Floats that the gradients of all pieces may take, 128 MiB; past it there are fewer and larger pieces.
const PIECES_FLOATS: usize = 1 << 25;

/// Pieces that a batch of `batch` rows is cut into on the CPU, for a network of `parameters` parameters.
///
/// Few enough that none is left without rows.
pub fn default_pieces(batch: usize, parameters: usize) -> usize {
    let mut pieces = MOST_PIECES;
    while pieces > FEWEST_PIECES && pieces * parameters > PIECES_FLOATS {
        pieces /= 2;
    }
    let rows = batch.div_ceil(pieces).max(1);
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
/// Inputs: `images` `[rows, height, width]` ADC, `labels` `[rows]`, `order` `[steps · batch]` i64 row numbers,
/// `rates` `[steps]` (Adam's rate with its bias correction), `params`, `m`, `v` `[P]`, `step` `[1]` i64 (of the
/// training), `batch` `[1]` i64 (of the epoch), `sums` `[2]` (loss and correct rows of the epoch).
/// Outputs: `params_next`, `m_next`, `v_next`, `step_next`, `batch_next`, `sums_next`.
///
/// # Errors
/// [`GraphError`] for a network whose shapes don't fit.
pub fn whole_step(plan: &StepPlan, layers: &Layers) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let state = State::new(&mut g, plan, layers);
    let first = g.integer(0);
    let (gradient, sums) = backward(&mut g, plan, layers, &state, first, plan.batch)?;
    let outputs = finish_step(&mut g, plan, &state, gradient, sums)?;
    Ok((g, outputs))
}

/// The graph of one piece of a step, as a CPU thread runs it.
///
/// Inputs: those of [`whole_step`] that it needs, and `piece` `[1]` i64.
/// Outputs: `gradient` `[P]`, `sums` `[2]` (loss and correct rows of the piece).
///
/// # Errors
/// [`GraphError`]
pub fn piece_gradient(plan: &StepPlan, layers: &Layers) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let state = State::new(&mut g, plan, layers);
    let piece = g.input("piece", DataType::I64, &[1]);
    let rows = g.integer(plan.piece_rows() as i64);
    let first = g.mul(piece, rows)?;
    let (gradient, sums) = backward(&mut g, plan, layers, &state, first, plan.piece_rows())?;
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
    let outputs = finish_step(&mut g, plan, &state, gradient, sums)?;
    Ok((g, outputs))
}

/// The graph that scores `count` rows: inputs `images`, `params`, `rows` `[count]` i64; output `logits` `[count]`.
///
/// # Errors
/// [`GraphError`]
pub fn scoring(plan: &StepPlan, layers: &Layers, count: usize) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let parameters = parameters(layers, plan.network.kernel);
    let params = g.input("params", DataType::F32, &[length_of(&parameters)]);
    let rows = g.input("rows", DataType::I64, &[count]);
    let images = g.input("images", DataType::F32, &[plan.rows, plan.network.height, plan.network.width]);
    let weights = split_parameters(&mut g, params, &parameters)?;
    let images = g.gather(images, rows)?;
    let logits = forward(&mut g, plan, layers, &weights, images, None)?;
    Ok((g, vec![("logits", logits)]))
}

/// The graph of an exported model with `weights` inside: input `image` `[1, height, width]`, output `probability` `[1]`.
///
/// # Errors
/// [`GraphError`]
pub fn exported(plan: &StepPlan, layers: &Layers, flat: &[f32]) -> Result<(Graph, Outputs), GraphError> {
    let mut g = Graph::default();
    let images = g.input("image", DataType::F32, &[1, plan.network.height, plan.network.width]);
    let weights: Vec<Id> = parameters(layers, plan.network.kernel)
        .iter()
        .map(|p| g.floats(&p.shape, flat[p.start..p.start + p.len()].to_vec()))
        .collect();
    let logits = forward(&mut g, plan, layers, &weights, images, None)?;
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
}

impl State {
    fn new(g: &mut Graph, plan: &StepPlan, layers: &Layers) -> Self {
        let parameters = parameters(layers, plan.network.kernel);
        let params = g.input("params", DataType::F32, &[length_of(&parameters)]);
        let step = g.input("step", DataType::I64, &[1]);
        let batch = g.input("batch", DataType::I64, &[1]);
        Self { parameters, params, step, batch }
    }
}

/// Length of the flat vector.
fn length_of(parameters: &[Parameter]) -> usize {
    parameters.last().map_or(0, |p| p.start + p.len())
}

/// Forward and backward over `count` rows of the batch from row `first` on.
///
/// Returns the gradient `[P]` of the batch's mean loss, and loss and correct rows `[2]`, both summed over the rows.
fn backward(
    g: &mut Graph,
    plan: &StepPlan,
    layers: &Layers,
    state: &State,
    first: Id,
    count: usize,
) -> Result<(Id, Id), GraphError> {
    let SimpleCnn { height, width, .. } = plan.network;
    let weights = split_parameters(g, state.params, &state.parameters)?;
    let dropout = Dropout::new(g, plan, layers, state.step, first, count)?;
    let rows = select_rows(g, plan, state.batch, first, count)?;
    let images = g.input("images", DataType::F32, &[plan.rows, height, width]);
    let labels = g.input("labels", DataType::F32, &[plan.rows]);
    let x = g.gather(images, rows.numbers)?;
    let y = g.gather(labels, rows.numbers)?;
    let logits = forward(g, plan, layers, &weights, x, Some(&dropout))?;
    let loss = cross_entropy(g, logits, y, rows.weights)?;
    let mean = g.div(loss, rows.batch_count)?;
    let mut flat = Vec::new();
    for part in g.gradients(mean, &weights)? {
        let length = g.shape(part).iter().product();
        flat.push(g.reshape(part, &[length])?);
    }
    let gradient = g.apply(Op::Concat { axis: 0 }, &flat)?;
    let correct = correct(g, logits, y, rows.weights)?;
    let sums = g.apply(Op::Concat { axis: 0 }, &[loss, correct])?;
    Ok((gradient, sums))
}

/// Rows that a piece works on.
struct Rows {
    /// Row numbers in the data set, `[count]`
    numbers: Id,
    /// 1 for rows that count, 0 for padding, `[count]`
    weights: Id,
    /// Number of rows of the whole batch that count, `[1]`
    batch_count: Id,
}

/// The rows `first..first + count` of the batch that the counter names.
fn select_rows(
    g: &mut Graph,
    plan: &StepPlan,
    batch: Id,
    first: Id,
    count: usize,
) -> Result<Rows, GraphError> {
    let slots = plan.steps_per_epoch * plan.batch;
    let order = g.input("order", DataType::I64, &[slots]);
    let size = g.integer(plan.batch as i64);
    let start = g.mul(batch, size)?;
    let last = g.integer(plan.rows as i64 - 1);

    let whole = g.integers(&[plan.batch], (0..plan.batch as i64).collect());
    let whole = g.add(whole, start)?;
    let counted = g.at_least(last, whole)?;
    let batch_count = g.sum_all(counted)?;

    let slot = g.integers(&[count], (0..count as i64).collect());
    let slot = g.add(slot, first)?;
    let inside = g.integer(plan.batch as i64 - 1);
    let inside = g.at_least(inside, slot)?;
    let position = g.add(slot, start)?;
    let real = g.at_least(last, position)?;
    let weights = g.mul(inside, real)?;
    // Slots past the last one read row number 0 of the order; their weight is 0.
    let length = g.integer(slots as i64);
    let safe = g.modulo(position, length)?;
    Ok(Rows { numbers: g.gather(order, safe)?, weights, batch_count })
}

/// Adam's step and the counters.
fn finish_step(
    g: &mut Graph,
    plan: &StepPlan,
    state: &State,
    gradient: Id,
    sums: Id,
) -> Result<Outputs, GraphError> {
    let rates = g.input("rates", DataType::F32, &[plan.steps_per_epoch]);
    let rate = g.gather(rates, state.batch)?;
    let (params_next, m_next, v_next) = adam(g, state.params, gradient, rate)?;
    let before = g.input("sums", DataType::F32, &[2]);
    let one = g.integer(1);
    Ok(vec![
        ("params_next", params_next),
        ("m_next", m_next),
        ("v_next", v_next),
        ("step_next", g.add(state.step, one)?),
        ("batch_next", g.add(state.batch, one)?),
        ("sums_next", g.add(before, sums)?),
    ])
}

/// Logits `[n]` of images `[n, height, width]`.
fn forward(
    g: &mut Graph,
    plan: &StepPlan,
    layers: &Layers,
    weights: &[Id],
    images: Id,
    dropout: Option<&Dropout>,
) -> Result<Id, GraphError> {
    let n = g.shape(images)[0];
    let factor = g.float(plan.normalization);
    let scaled = g.mul(images, factor)?;
    let mut x = g.reshape(scaled, &[n, 1, plan.network.height, plan.network.width])?;
    let mut weights = weights.iter().copied();
    let mut next = || weights.next().expect("`parameters` lists two tensors a layer");
    for layer in &layers.convs {
        x = g.conv(x, next(), next())?;
        // relu(max(…)) = max(relu(…)), with the same gradient, over a quarter of the elements.
        if layer.pooled {
            x = g.max_pool(x)?;
        }
        x = g.relu(x)?;
    }
    let features = g.shape(x)[1..].iter().product();
    x = g.reshape(x, &[n, features])?;
    for (number, layer) in layers.denses.iter().enumerate() {
        let product = g.matmul(x, next())?;
        x = g.add(product, next())?;
        if layer.name != "output" {
            x = g.relu(x)?;
            if let Some(dropout) = dropout {
                x = dropout.apply(g, x, number)?;
            }
        }
    }
    g.reshape(x, &[n])
}

/// Weighted sum of the binary cross-entropy on logits, in nats: softplus(z) - y·z.
fn cross_entropy(g: &mut Graph, logits: Id, labels: Id, weights: Id) -> Result<Id, GraphError> {
    let softplus = g.softplus(logits)?;
    let product = g.mul(labels, logits)?;
    let loss = g.sub(softplus, product)?;
    let weighted = g.mul(loss, weights)?;
    g.sum_all(weighted)
}

/// Number of rows on the right side of probability 0.5.
fn correct(g: &mut Graph, logits: Id, labels: Id, weights: Id) -> Result<Id, GraphError> {
    let zero = g.float(0.0);
    let called = g.at_least(logits, zero)?;
    // 1 - (called - label)²: no comparison of floats for equality needed.
    let difference = g.sub(called, labels)?;
    let square = g.mul(difference, difference)?;
    let one = g.float(1.0);
    let right = g.sub(one, square)?;
    let weighted = g.mul(right, weights)?;
    g.sum_all(weighted)
}

/// One step of Adam (Kingma & Ba 2015) as Keras computes it; returns params, m, v.
///
/// `rate` `[1]` is `learning rate · √(1 - β₂ᵗ) / (1 - β₁ᵗ)` with t from 1.
fn adam(g: &mut Graph, params: Id, gradient: Id, rate: Id) -> Result<(Id, Id, Id), GraphError> {
    let shape = g.shape(params).to_vec();
    let m = g.input("m", DataType::F32, &shape);
    let v = g.input("v", DataType::F32, &shape);
    let towards = |g: &mut Graph, old: Id, new: Id, share: f64| {
        let share = g.float(share as f32);
        let difference = g.sub(new, old)?;
        let part = g.mul(difference, share)?;
        g.add(old, part)
    };
    let m_next = towards(g, m, gradient, 1.0 - BETA_1)?;
    let square = g.mul(gradient, gradient)?;
    let v_next = towards(g, v, square, 1.0 - BETA_2)?;
    let epsilon = g.float(EPSILON);
    let root = g.sqrt(v_next)?;
    let scale = g.add(root, epsilon)?;
    let scaled = g.mul(m_next, rate)?;
    let change = g.div(scaled, scale)?;
    Ok((g.sub(params, change)?, m_next, v_next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_by_its_size_and_the_network_alone() {
        assert_eq!(default_pieces(128, 600_000), 32);
        // 8 million parameters: 32 gradients would take 1 GB.
        assert_eq!(default_pieces(128, 8_000_000), 8);
        assert_eq!(default_pieces(128, 2_000_000), 16);
        // Pieces of 5 rows: 26 are enough for 130 rows.
        assert_eq!(default_pieces(130, 600_000), 26);
        assert_eq!(default_pieces(1, 600_000), 1);
    }
}
