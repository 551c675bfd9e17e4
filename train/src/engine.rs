//! Sessions and device memory of one training: a step is a run of ONNX Runtime, the state never leaves the device.

use std::sync::atomic::{AtomicUsize, Ordering};

use ort::session::{IoBinding, RunOptions, Session};
use ort::value::Tensor;
use prost::Message;
use shared::network::Layers;
use shared::runtime::{self, Device, RuntimeError, Settings};

use crate::graph::lower::{Target, lower};
use crate::graph::{Graph, GraphError};
use crate::memory::Memory;
use crate::step::{self, Outputs, StepPlan};

/// A training that can't go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum EngineError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("can't build the training graph")]
    Graph(#[from] GraphError),
    #[error("ONNX Runtime failed to {doing}")]
    Run {
        doing: &'static str,
        #[source]
        source: ort::Error,
    },
}

pub(crate) fn failed(doing: &'static str) -> impl Fn(ort::Error) -> EngineError {
    move |source| EngineError::Run { doing, source }
}

/// Images and labels on the host.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    /// Raw ADC, `[rows, height, width]`
    pub images: &'a [f32],
    /// 1 for a main track, else 0, `[rows]`
    pub labels: Vec<f32>,
}

/// Weights and the optimiser's memory on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Parameters, `[P]`
    pub params: Vec<f32>,
    /// Adam's first moment, `[P]`
    pub m: Vec<f32>,
    /// Adam's second moment, `[P]`
    pub v: Vec<f32>,
    /// Steps taken
    pub step: i64,
}

impl Weights {
    /// The state before the first step.
    pub fn start(params: Vec<f32>) -> Self {
        let zeros = vec![0.0; params.len()];
        Self { params, m: zeros.clone(), v: zeros, step: 0 }
    }
}

/// State of the training on the device: what one step reads and the next one writes.
struct State {
    params: Tensor<f32>,
    m: Tensor<f32>,
    v: Tensor<f32>,
    step: Tensor<i64>,
    batch: Tensor<i64>,
    sums: Tensor<f32>,
}

impl State {
    fn new(memory: &Memory, length: usize) -> ort::Result<Self> {
        let zeros = vec![0.0; length];
        Ok(Self {
            params: memory.tensor(&[length], &zeros)?,
            m: memory.tensor(&[length], &zeros)?,
            v: memory.tensor(&[length], &zeros)?,
            step: memory.tensor(&[1], &[0])?,
            batch: memory.tensor(&[1], &[0])?,
            sums: memory.tensor(&[2], &[0.0; 2])?,
        })
    }
}

/// The data set and the epoch's plan on the device.
struct Inputs {
    images: Tensor<f32>,
    labels: Tensor<f32>,
    order: Tensor<i64>,
    rates: Tensor<f32>,
}

/// How a step runs.
enum Runner {
    /// One graph a step
    Whole { session: Box<Session>, bindings: [IoBinding; 2], options: [RunOptions; 2] },
    /// Pieces by threads, then the update
    Pieces { workers: Vec<Worker>, update: Box<Session>, bindings: [IoBinding; 2], pieces: usize },
}

/// One thread's session; one binding for each of the two states and each piece.
struct Worker {
    session: Session,
    bindings: [Vec<IoBinding>; 2],
}

/// A training in progress.
pub struct Engine {
    memory: Memory,
    inputs: Inputs,
    /// The step reads one and writes the other, in turn
    states: [State; 2],
    current: usize,
    runner: Runner,
}

impl Engine {
    /// Put the data on the device and open the sessions.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn new(
        plan: &StepPlan,
        layers: &Layers,
        rows: &Rows,
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        match settings.device {
            Device::Cpu => Self::on_cpu(plan, layers, rows, settings),
            Device::Cuda(_) => Self::on_cuda(plan, layers, rows, settings),
        }
    }

    fn on_cpu(
        plan: &StepPlan,
        layers: &Layers,
        rows: &Rows,
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        // One thread a session: an operator that shares its work between threads may round differently with their number.
        let single = Settings { threads: 1, ..settings.clone() };
        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let gradient = encode(step::piece_gradient(plan, layers)?, Target::Cpu);
        let update = runtime::session(&encode(step::update(plan, layers)?, Target::Cpu), &single)?;
        let memory = Memory { gpu: None };
        let length = layers.parameters(plan.network.kernel);
        let build = || -> ort::Result<_> {
            let inputs = Inputs::new(&memory, plan, rows)?;
            let states = [State::new(&memory, length)?, State::new(&memory, length)?];
            let mut pieces = Vec::new();
            for piece in 0..plan.pieces {
                pieces.push(Piece::new(&memory, length, piece as i64)?);
            }
            Ok((inputs, states, pieces))
        };
        let (inputs, mut states, mut pieces) = build().map_err(failed("allocate the training's tensors"))?;
        let mut workers = Vec::new();
        for _ in 0..threads.min(plan.pieces) {
            let session = runtime::session(&gradient, &single)?;
            workers
                .push(Worker::new(session, &inputs, &states, &mut pieces).map_err(failed("bind tensors"))?);
        }
        let bind = |from: usize, states: &mut [State; 2]| -> ort::Result<IoBinding> {
            let mut binding = bind_state(&update, &inputs, states, from)?;
            for (number, piece) in pieces.iter().enumerate() {
                binding.bind_input(step::piece_name("gradient", number), &piece.gradient)?;
                binding.bind_input(step::piece_name("sums", number), &piece.sums)?;
            }
            Ok(binding)
        };
        let bindings = [
            bind(0, &mut states).map_err(failed("bind tensors"))?,
            bind(1, &mut states).map_err(failed("bind tensors"))?,
        ];
        let runner = Runner::Pieces { workers, update: Box::new(update), bindings, pieces: plan.pieces };
        Ok(Self { memory, inputs, states, current: 0, runner })
    }

    fn on_cuda(
        plan: &StepPlan,
        layers: &Layers,
        rows: &Rows,
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        let model = encode(step::whole_step(plan, layers)?, Target::Cuda);
        let settings = Settings { cuda_graph: true, ..settings.clone() };
        let session = runtime::session(&model, &settings)?;
        let length = layers.parameters(plan.network.kernel);
        let build = || -> ort::Result<_> {
            let memory = Memory::of(&session, settings.device)?;
            let inputs = Inputs::new(&memory, plan, rows)?;
            let mut states = [State::new(&memory, length)?, State::new(&memory, length)?];
            let bindings = [
                bind_state(&session, &inputs, &mut states, 0)?,
                bind_state(&session, &inputs, &mut states, 1)?,
            ];
            // Each direction is a captured graph of its own.
            let captured = |number: &str| -> ort::Result<RunOptions> {
                let mut options = RunOptions::new()?;
                options.set("gpu_graph_id", number)?;
                Ok(options)
            };
            Ok((memory, inputs, states, bindings, [captured("1")?, captured("2")?]))
        };
        let (memory, inputs, states, bindings, options) =
            build().map_err(failed("put the data on the device"))?;
        let runner = Runner::Whole { session: Box::new(session), bindings, options };
        Ok(Self { memory, inputs, states, current: 0, runner })
    }

    /// Start from these weights.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn load(&mut self, weights: &Weights) -> Result<(), EngineError> {
        let state = &mut self.states[self.current];
        let memory = &self.memory;
        let mut fill = || -> ort::Result<()> {
            memory.fill(&mut state.params, &weights.params)?;
            memory.fill(&mut state.m, &weights.m)?;
            memory.fill(&mut state.v, &weights.v)?;
            memory.fill(&mut state.step, &[weights.step])
        };
        fill().map_err(failed("load the weights"))
    }

    /// Where the training stands.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn weights(&self) -> Result<Weights, EngineError> {
        let state = &self.states[self.current];
        let read = || -> ort::Result<Weights> {
            Ok(Weights {
                params: self.memory.read(&state.params)?,
                m: self.memory.read(&state.m)?,
                v: self.memory.read(&state.v)?,
                step: self.memory.read(&state.step)?[0],
            })
        };
        read().map_err(failed("read the weights"))
    }

    /// Start an epoch.
    ///
    /// - `order`: row numbers, `[steps · batch]`; those past the data set's length are padding
    /// - `rates`: Adam's rate with its bias correction, `[steps]`
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn start_epoch(&mut self, order: &[i64], rates: &[f32]) -> Result<(), EngineError> {
        let state = &mut self.states[self.current];
        let (memory, inputs) = (&self.memory, &mut self.inputs);
        let mut fill = || -> ort::Result<()> {
            memory.fill(&mut inputs.order, order)?;
            memory.fill(&mut inputs.rates, rates)?;
            memory.fill(&mut state.batch, &[0])?;
            memory.fill(&mut state.sums, &[0.0; 2])
        };
        fill().map_err(failed("start an epoch"))
    }

    /// Take one optimiser step.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn step(&mut self) -> Result<(), EngineError> {
        let from = self.current;
        match &mut self.runner {
            Runner::Whole { session, bindings, options } => {
                session.run_binding_with_options(&bindings[from], &options[from]).map(drop)
            }
            Runner::Pieces { workers, update, bindings, pieces } => run_pieces(workers, from, *pieces)
                .and_then(|()| update.run_binding(&bindings[from]).map(drop)),
        }
        .map_err(failed("run a training step"))?;
        self.current = 1 - from;
        Ok(())
    }

    /// Loss in nats and correct rows of the epoch so far, both summed over its rows.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn sums(&self) -> Result<(f64, f64), EngineError> {
        let sums = self.memory.read(&self.states[self.current].sums).map_err(failed("read the loss"))?;
        Ok((f64::from(sums[0]), f64::from(sums[1])))
    }
}

/// Let the threads take pieces until none is left.
fn run_pieces(workers: &mut [Worker], from: usize, pieces: usize) -> ort::Result<()> {
    let next = AtomicUsize::new(0);
    let work = |worker: &mut Worker| -> ort::Result<()> {
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return Ok(());
            }
            worker.session.run_binding(&worker.bindings[from][piece]).map(drop)?;
        }
    };
    let (first, others) = workers.split_first_mut().expect("there is at least one worker");
    std::thread::scope(|scope| {
        let running: Vec<_> = others.iter_mut().map(|worker| scope.spawn(|| work(worker))).collect();
        let mut outcome = work(first);
        for thread in running {
            outcome = outcome.and(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        outcome
    })
}

/// A graph and its outputs as the bytes of an ONNX model.
pub(crate) fn encode((graph, outputs): (Graph, Outputs), target: Target) -> Vec<u8> {
    lower(&graph, &outputs, target).encode_to_vec()
}

impl Inputs {
    fn new(memory: &Memory, plan: &StepPlan, rows: &Rows) -> ort::Result<Self> {
        let slots = plan.steps_per_epoch * plan.batch;
        Ok(Self {
            images: memory.tensor(&[plan.rows, plan.network.height, plan.network.width], rows.images)?,
            labels: memory.tensor(&[plan.rows], &rows.labels)?,
            order: memory.tensor(&[slots], &vec![0; slots])?,
            rates: memory.tensor(&[plan.steps_per_epoch], &vec![0.0; plan.steps_per_epoch])?,
        })
    }
}

/// Results of one piece.
struct Piece {
    number: Tensor<i64>,
    gradient: Tensor<f32>,
    sums: Tensor<f32>,
}

impl Piece {
    fn new(memory: &Memory, length: usize, number: i64) -> ort::Result<Self> {
        Ok(Self {
            number: memory.tensor(&[1], &[number])?,
            gradient: memory.tensor(&[length], &vec![0.0; length])?,
            sums: memory.tensor(&[2], &[0.0; 2])?,
        })
    }
}

impl Worker {
    fn new(
        session: Session,
        inputs: &Inputs,
        states: &[State; 2],
        pieces: &mut [Piece],
    ) -> ort::Result<Self> {
        let mut bindings = [Vec::new(), Vec::new()];
        for (state, bindings) in states.iter().zip(&mut bindings) {
            for piece in pieces.iter_mut() {
                let mut binding = session.create_binding()?;
                bind_inputs(&session, &mut binding, inputs, state)?;
                binding.bind_input("piece", &piece.number)?;
                binding.bind_output("gradient", &mut piece.gradient)?;
                binding.bind_output("sums", &mut piece.sums)?;
                bindings.push(binding);
            }
        }
        Ok(Self { session, bindings })
    }
}

/// Inputs that the session has: graphs leave out what they don't need.
fn bind_inputs(
    session: &Session,
    binding: &mut IoBinding,
    inputs: &Inputs,
    state: &State,
) -> ort::Result<()> {
    for input in session.inputs() {
        match input.name() {
            "images" => binding.bind_input("images", &inputs.images)?,
            "labels" => binding.bind_input("labels", &inputs.labels)?,
            "order" => binding.bind_input("order", &inputs.order)?,
            "rates" => binding.bind_input("rates", &inputs.rates)?,
            "params" => binding.bind_input("params", &state.params)?,
            "m" => binding.bind_input("m", &state.m)?,
            "v" => binding.bind_input("v", &state.v)?,
            "step" => binding.bind_input("step", &state.step)?,
            "batch" => binding.bind_input("batch", &state.batch)?,
            "sums" => binding.bind_input("sums", &state.sums)?,
            _ => {}
        }
    }
    Ok(())
}

/// Inputs from state `from`, outputs into the other one.
fn bind_state(
    session: &Session,
    inputs: &Inputs,
    states: &mut [State; 2],
    from: usize,
) -> ort::Result<IoBinding> {
    let mut binding = session.create_binding()?;
    bind_inputs(session, &mut binding, inputs, &states[from])?;
    let to = &mut states[1 - from];
    binding.bind_output("params_next", &mut to.params)?;
    binding.bind_output("m_next", &mut to.m)?;
    binding.bind_output("v_next", &mut to.v)?;
    binding.bind_output("step_next", &mut to.step)?;
    binding.bind_output("batch_next", &mut to.batch)?;
    binding.bind_output("sums_next", &mut to.sums)?;
    Ok(binding)
}
