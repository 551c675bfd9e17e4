//! Sessions and device memory of one training: a step is a run of ONNX Runtime, the state never leaves the device.

mod blocks;
pub(crate) mod calm;
mod feed;
mod fused;
mod gpu;
mod kernels;
mod pieces;
pub(crate) mod scoring;
pub(crate) mod tables;
mod upload;
mod whole;

pub use feed::DataTables;
pub use gpu::{GpuError, free_memory};
use std::sync::Arc;
use std::time::Instant;

use ort::session::{IoBinding, Session};
use ort::value::Tensor;
use prost::Message;
use shared::network::Layers;
use shared::runtime::{self, Device, RuntimeError, Settings};
use shared::split::Images;

use crate::budget::Residence;
use crate::graph::lower::{Target, lower};
use crate::graph::{Graph, GraphError};
use crate::memory::Memory;
use crate::scale;
use crate::shelf::Shelf;
use crate::step::{Outputs, StepPlan};
use crate::store::{Store, StoreError};
use feed::Epoch;

/// A training that can't go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum EngineError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error(transparent)]
    Store(#[from] StoreError),
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

/// What a training learns from.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Raw ADC
    pub images: Arc<Store>,
    /// 1 for a main track, else 0, `[rows]`
    pub labels: Vec<f32>,
    /// Whether the tables of all rows stay
    pub residence: Residence,
    /// Tables of these rows, for all trainings that learn from them
    pub shelf: Arc<Shelf<DataTables>>,
}

impl Rows {
    /// Rows whose tables stay.
    pub fn whole(images: Images, labels: Vec<f32>) -> Self {
        Self { images: Arc::new(images.into()), labels, residence: Residence::Whole, shelf: Arc::default() }
    }
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
    /// State of the loss scale of a training in half precision (see [`scale`]); others leave it as it is
    pub scale: [f32; 3],
}

impl Weights {
    /// The state before the first step.
    pub fn start(params: Vec<f32>) -> Self {
        let zeros = vec![0.0; params.len()];
        Self { params, m: zeros.clone(), v: zeros, step: 0, scale: scale::START }
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
    scale: Tensor<f32>,
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
            scale: memory.tensor(&[scale::START.len()], &scale::START)?,
        })
    }
}

/// A training in progress.
pub struct Engine {
    device: Device,
    memory: Memory,
    /// The step reads one and writes the other, in turn
    states: [State; 2],
    current: usize,
    rates: Tensor<f32>,
    epoch: Epoch,
    runner: Runner,
}

/// How a step runs.
enum Runner {
    Pieces(Box<pieces::Pieces>),
    Whole(Box<whole::Whole>),
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
        runtime::start()?;
        let begin = Instant::now();
        let geometry = plan.geometry(layers);
        let gpu = match settings.device {
            Device::Cpu => None,
            Device::Cuda(number) => {
                let _calm = calm::use_of(settings.device);
                Some(gpu::Gpu::new(number as usize, geometry.stages() + 1, plan.batch, plan.precision)?)
            }
        };
        // Parts are made beside the steps, which take all cores of the CPU for themselves.
        let threads = match (rows.residence, settings.device) {
            (Residence::Parts, Device::Cpu) => 1,
            _ => settings.threads_or_all(),
        };
        let uploader = gpu.as_ref().map(gpu::Gpu::uploader);
        let epoch = Epoch::new(plan, geometry, rows, threads, uploader)?;
        tracing::debug!("active sites found in {:.2?}", begin.elapsed());
        let _calm = calm::use_of(settings.device);
        let length = layers.parameters(plan.network.kernel);
        let tensors = |memory: &Memory| -> ort::Result<_> {
            let rates = memory.tensor(&[plan.rates()], &vec![0.0_f32; plan.rates()])?;
            Ok(([State::new(memory, length)?, State::new(memory, length)?], rates))
        };
        let memory = Memory::on(settings)?;
        let (mut states, rates) = tensors(&memory).map_err(failed("allocate the training's tensors"))?;
        let runner = match gpu {
            None => {
                Runner::Pieces(Box::new(pieces::Pieces::new(plan, layers, &mut states, &rates, settings)?))
            }
            Some(gpu) => Runner::Whole(Box::new(whole::Whole::new(gpu, plan, layers, settings)?)),
        };
        tracing::debug!("training on {} ready after {:.2?}", settings.device, begin.elapsed());
        Ok(Self { device: settings.device, memory, states, current: 0, rates, epoch, runner })
    }

    /// Start from these weights.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn load(&mut self, weights: &Weights) -> Result<(), EngineError> {
        self.wait()?;
        let _calm = calm::use_of(self.device);
        let memory = &self.memory;
        let [first, second] = &mut self.states;
        // Only steps in half precision hand it on from one state to the other.
        let scales = [&mut first.scale, &mut second.scale];
        scales
            .into_iter()
            .try_for_each(|scale| memory.fill(scale, &weights.scale))
            .map_err(failed("load the weights"))?;
        let state = &mut self.states[self.current];
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
        self.wait()?;
        let _calm = calm::use_of(self.device);
        let state = &self.states[self.current];
        let read = || -> ort::Result<Weights> {
            let scale = self.memory.read(&state.scale)?;
            Ok(Weights {
                params: self.memory.read(&state.params)?,
                m: self.memory.read(&state.m)?,
                v: self.memory.read(&state.v)?,
                step: self.memory.read(&state.step)?[0],
                scale: std::array::from_fn(|at| scale[at]),
            })
        };
        read().map_err(failed("read the weights"))
    }

    /// Start an epoch, or go on in one.
    ///
    /// - `order`: row numbers, `[steps · batch]`; those past the data set's length are padding
    /// - `rates`: Adam's rate with its bias correction, `[steps]`
    /// - `done`: steps of the epoch that were taken before, and their sums as [`Self::sums`] gave them
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn start_epoch(
        &mut self,
        order: &[i64],
        rates: &[f32],
        done: (usize, (f64, f64)),
    ) -> Result<(), EngineError> {
        let (steps, (loss, correct)) = done;
        self.wait()?;
        self.epoch.start(order, steps)?;
        {
            let _calm = calm::use_of(self.device);
            let state = &mut self.states[self.current];
            let mut fill = || -> ort::Result<()> {
                self.memory.fill(&mut self.rates, rates)?;
                self.memory.fill(&mut state.batch, &[steps as i64])?;
                self.memory.fill(&mut state.sums, &[loss as f32, correct as f32])
            };
            fill().map_err(failed("start an epoch"))?;
        }
        self.start_part()
    }

    /// Get ready for the steps of the part at hand.
    fn start_part(&mut self) -> Result<(), EngineError> {
        match &mut self.runner {
            Runner::Pieces(_) => Ok(()),
            Runner::Whole(whole) => {
                whole.start_part(&self.epoch, &self.memory, &mut self.states, &self.rates)
            }
        }
    }

    /// Take one optimiser step.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn step(&mut self) -> Result<(), EngineError> {
        if self.epoch.is_used_up() {
            self.wait()?;
            self.epoch.advance()?;
            self.start_part()?;
        }
        match &mut self.runner {
            Runner::Pieces(pieces) => pieces
                .step(&self.epoch, &self.states[self.current], self.current)
                .map_err(failed("run a training step"))?,
            Runner::Whole(whole) => whole.step(&self.epoch, self.current)?,
        }
        self.current = 1 - self.current;
        self.epoch.batch += 1;
        Ok(())
    }

    /// Loss in nats and correct rows of the epoch so far, both summed over its rows.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn sums(&self) -> Result<(f64, f64), EngineError> {
        self.wait()?;
        let _calm = calm::use_of(self.device);
        let sums = self.memory.read(&self.states[self.current].sums).map_err(failed("read the loss"))?;
        Ok((f64::from(sums[0]), f64::from(sums[1])))
    }
}

impl Engine {
    /// Wait until the device has done what it was told.
    fn wait(&self) -> Result<(), EngineError> {
        match &self.runner {
            Runner::Pieces(_) => Ok(()),
            Runner::Whole(whole) => whole.wait(),
        }
    }
}

/// A graph and its outputs as the bytes of an ONNX model.
pub(crate) fn encode((graph, outputs): (Graph, Outputs), target: Target) -> Vec<u8> {
    lower(&graph, &outputs, target).encode_to_vec()
}

/// Inputs of the state that the session has, and the rates: graphs leave out what they don't need.
fn bind_inputs(
    session: &Session,
    binding: &mut IoBinding,
    rates: &Tensor<f32>,
    state: &State,
) -> ort::Result<()> {
    for input in session.inputs() {
        match input.name() {
            "rates" => binding.bind_input("rates", rates)?,
            "params" => binding.bind_input("params", &state.params)?,
            "m" => binding.bind_input("m", &state.m)?,
            "v" => binding.bind_input("v", &state.v)?,
            "step" => binding.bind_input("step", &state.step)?,
            "batch" => binding.bind_input("batch", &state.batch)?,
            "sums" => binding.bind_input("sums", &state.sums)?,
            "scale" => binding.bind_input("scale", &state.scale)?,
            _ => {}
        }
    }
    Ok(())
}

/// Inputs from state `from`, outputs into the other one.
fn bind_state(
    session: &Session,
    rates: &Tensor<f32>,
    states: &mut [State; 2],
    from: usize,
) -> ort::Result<IoBinding> {
    let mut binding = session.create_binding()?;
    bind_inputs(session, &mut binding, rates, &states[from])?;
    let to = &mut states[1 - from];
    binding.bind_output("params_next", &mut to.params)?;
    binding.bind_output("m_next", &mut to.m)?;
    binding.bind_output("v_next", &mut to.v)?;
    binding.bind_output("step_next", &mut to.step)?;
    binding.bind_output("batch_next", &mut to.batch)?;
    binding.bind_output("sums_next", &mut to.sums)?;
    if session.outputs().iter().any(|output| output.name() == "scale_next") {
        binding.bind_output("scale_next", &mut to.scale)?;
    }
    Ok(binding)
}
