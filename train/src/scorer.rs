//! Scores of a whole data set with the weights of a training in progress.

use std::sync::{Mutex, PoisonError};

use ort::session::{IoBinding, Session};
use ort::value::Tensor;
use shared::network::Layers;
use shared::runtime::{self, Device, Settings};

use crate::engine::{EngineError, encode, failed};
use crate::graph::lower::Target;
use crate::memory::Memory;
use crate::step::{self, StepPlan};

/// Rows that one scoring run takes on the CPU: few enough for their feature maps to stay in the cache.
const SCORING_ROWS_CPU: usize = 32;
/// Rows that one scoring run takes on a GPU.
const SCORING_ROWS_GPU: usize = 256;

/// Scores one data set with the weights of a training.
pub struct Scorer {
    memory: Memory,
    sessions: Vec<Lane>,
    params: Tensor<f32>,
    rows: usize,
    /// Rows of one run
    count: usize,
}

/// One thread's scoring session.
struct Lane {
    session: Session,
    numbers: Tensor<i64>,
    logits: Tensor<f32>,
    binding: IoBinding,
}

/// Pieces of the scores that are still to be filled.
type Queue<'a> = Mutex<std::iter::Enumerate<std::slice::ChunksMut<'a, f32>>>;

impl Lane {
    /// Fill pieces until none is left.
    fn score(&mut self, memory: &Memory, queue: &Queue, rows: usize) -> ort::Result<()> {
        let last = rows as i64 - 1;
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((chunk, goal)) = job else { return Ok(()) };
            let count = self.numbers.shape().num_elements();
            let first = (chunk * count) as i64;
            let numbers: Vec<i64> = (first..first + count as i64).map(|row| row.min(last)).collect();
            memory.fill(&mut self.numbers, &numbers)?;
            self.session.run_binding(&self.binding).map(drop)?;
            let found = memory.read(&self.logits)?;
            goal.copy_from_slice(&found[..goal.len()]);
        }
    }
}

impl Scorer {
    /// Put the data on the device and open the sessions.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn new(
        plan: &StepPlan,
        layers: &Layers,
        images: &[f32],
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        let rows = images.len() / (plan.network.height * plan.network.width);
        let plan = StepPlan { rows, ..plan.clone() };
        let (target, count) = match settings.device {
            Device::Cpu => (Target::Cpu, SCORING_ROWS_CPU),
            Device::Cuda(_) => (Target::Cuda, SCORING_ROWS_GPU),
        };
        let model = encode(step::scoring(&plan, layers, count)?, target);
        let threads = match (settings.device, settings.threads) {
            (Device::Cuda(_), _) => 1,
            (Device::Cpu, 0) => std::thread::available_parallelism().map_or(1, usize::from),
            (Device::Cpu, n) => n,
        };
        let settings = Settings { threads: 1, ..settings.clone() };
        let mut opened = Vec::new();
        for _ in 0..threads.min(rows.div_ceil(count)).max(1) {
            opened.push(runtime::session(&model, &settings)?);
        }
        let build = || -> ort::Result<Self> {
            let memory = Memory::of(&opened[0], settings.device)?;
            let shape = [rows, plan.network.height, plan.network.width];
            let images = memory.tensor(&shape, images)?;
            let length = layers.parameters(plan.network.kernel);
            let params = memory.tensor(&[length], &vec![0.0; length])?;
            let mut sessions = Vec::new();
            for session in opened {
                let numbers = memory.tensor(&[count], &vec![0_i64; count])?;
                let mut logits = memory.tensor(&[count], &vec![0.0_f32; count])?;
                let mut binding = session.create_binding()?;
                binding.bind_input("images", &images)?;
                binding.bind_input("params", &params)?;
                binding.bind_input("rows", &numbers)?;
                binding.bind_output("logits", &mut logits)?;
                sessions.push(Lane { session, numbers, logits, binding });
            }
            Ok(Self { memory, sessions, params, rows, count })
        };
        build().map_err(failed("put the validation data on the device"))
    }

    /// Logits of all rows, in their order.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn score(&mut self, params: &[f32]) -> Result<Vec<f32>, EngineError> {
        let mut attempt = || -> ort::Result<Vec<f32>> {
            self.memory.fill(&mut self.params, params)?;
            let mut logits = vec![0.0; self.rows];
            let queue = Mutex::new(logits.chunks_mut(self.count).enumerate());
            match self.sessions.as_mut_slice() {
                [lane] => lane.score(&self.memory, &queue, self.rows)?,
                lanes => std::thread::scope(|scope| {
                    let rows = self.rows;
                    let queue = &queue;
                    let running: Vec<_> = lanes
                        .iter_mut()
                        // Several lanes are of the CPU: the GPU has one.
                        .map(|lane| scope.spawn(move || lane.score(&Memory { gpu: None }, queue, rows)))
                        .collect();
                    running.into_iter().try_for_each(|thread| {
                        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    })
                })?,
            }
            Ok(logits)
        };
        attempt().map_err(failed("score the validation data"))
    }
}
