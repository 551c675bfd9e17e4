//! Scores of a whole data set with the weights of a training in progress.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ort::session::{IoBinding, Session};
use ort::value::Tensor;
use shared::network::Layers;
use shared::runtime::{self, Device, Settings};
use shared::signal;
use shared::split::Images;

use crate::engine::{EngineError, calm, encode, failed, tables};
use crate::forward::MapRows;
use crate::graph::lower::Target;
use crate::memory::Memory;
use crate::sites::Sites;
use crate::step::{self, StepPlan};

/// Rows that one scoring run takes on the CPU.
const SCORING_ROWS_CPU: usize = 64;
/// Rows that one scoring run takes on a GPU.
const SCORING_ROWS_GPU: usize = 1024;

/// Scores one data set with the weights of a training.
pub struct Scorer {
    device: Device,
    memory: Memory,
    lanes: Vec<Lane>,
    params: Tensor<f32>,
    runs: Runs,
}

/// The data set in runs of equal size.
struct Runs {
    sites: Sites,
    kernel: usize,
    /// Rows of one run
    count: usize,
}

/// One thread's scoring session.
struct Lane {
    session: Session,
    logits: Tensor<f32>,
    /// One for whatever run comes next on the CPU; one for each run on a GPU, where the tables stay
    bindings: Vec<IoBinding>,
}

/// Pieces of the scores that are still to be filled.
type Queue<'a> = Mutex<std::iter::Enumerate<std::slice::ChunksMut<'a, f32>>>;

impl Runs {
    /// Bind the tables of run `number`; rows past the data set's are empty images.
    fn bind(&self, binding: &mut IoBinding, number: usize) -> ort::Result<()> {
        let first = number * self.count;
        let images: Vec<Option<usize>> =
            (first..first + self.count).map(|row| (row < self.sites.rows()).then_some(row)).collect();
        tables::bind(binding, self.sites.batch(&images), self.kernel)
    }

    fn number(&self) -> usize {
        self.sites.rows().div_ceil(self.count)
    }
}

impl Lane {
    fn new(
        session: Session,
        memory: &Memory,
        params: &Tensor<f32>,
        runs: &Runs,
        stay: bool,
    ) -> ort::Result<Self> {
        let mut logits = memory.zeros::<f32>(&[runs.count])?;
        let mut bindings = Vec::new();
        for number in 0..if stay { runs.number() } else { 1 } {
            let mut binding = session.create_binding()?;
            binding.bind_input("params", params)?;
            binding.bind_output("logits", &mut logits)?;
            if stay {
                runs.bind(&mut binding, number)?;
            }
            bindings.push(binding);
        }
        Ok(Self { session, logits, bindings })
    }

    /// Fill pieces until none is left.
    fn score(&mut self, memory: &Memory, queue: &Queue, runs: &Runs) -> ort::Result<()> {
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, goal)) = job else { return Ok(()) };
            // Who asked for the scores looks at the signal too.
            if signal::stop_requested() {
                return Ok(());
            }
            let at = if memory.gpu.is_some() { number } else { 0 };
            if memory.gpu.is_none() {
                runs.bind(&mut self.bindings[0], number)?;
            }
            self.session.run_binding(&self.bindings[at]).map(drop)?;
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
        images: &Images,
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        let _calm = calm::use_of(settings.device);
        let geometry = plan.geometry(layers);
        let sites = Sites::new(&geometry, images, plan.normalization, settings.threads_or_all());
        let (count, threads) = match settings.device {
            Device::Cpu => (SCORING_ROWS_CPU, settings.threads_or_all()),
            Device::Cuda(_) => (SCORING_ROWS_GPU, 1),
        };
        let model = encode(step::scoring(plan, layers, &MapRows::open(&geometry), count)?, Target::Stock);
        let runs = Runs { sites, kernel: plan.network.kernel, count };
        let settings = Settings { threads: 1, ..settings.clone() };
        let mut opened = Vec::new();
        for _ in 0..threads.min(runs.number()).max(1) {
            opened.push(runtime::open_session(&model, &settings)?);
        }
        let memory = Memory::on(&settings)?;
        let build = || -> ort::Result<Self> {
            let params = memory.zeros(&[layers.parameters(plan.network.kernel)])?;
            let stay = memory.gpu.is_some();
            let lanes = opened
                .into_iter()
                .map(|session| Lane::new(session, &memory, &params, &runs, stay))
                .collect::<ort::Result<Vec<Lane>>>()?;
            Ok(Self { device: settings.device, memory, lanes, params, runs })
        };
        let begin = Instant::now();
        let scorer = build().map_err(failed("put the validation data on the device"))?;
        tracing::debug!("validation data on {} after {:.2?}", settings.device, begin.elapsed());
        Ok(scorer)
    }

    /// Logits of all rows, in their order.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn score(&mut self, params: &[f32]) -> Result<Vec<f32>, EngineError> {
        let _calm = calm::use_of(self.device);
        let Self { memory, lanes, params: device, runs, .. } = self;
        let mut attempt = || -> ort::Result<Vec<f32>> {
            memory.fill(device, params)?;
            let mut logits = vec![0.0; runs.sites.rows()];
            let queue = Mutex::new(logits.chunks_mut(runs.count).enumerate());
            match lanes.as_mut_slice() {
                [lane] => lane.score(memory, &queue, runs)?,
                lanes => std::thread::scope(|scope| {
                    let (queue, runs) = (&queue, &*runs);
                    let running: Vec<_> = lanes
                        .iter_mut()
                        // Several lanes are of the CPU: the GPU has one.
                        .map(|lane| scope.spawn(move || lane.score(&Memory { gpu: None }, queue, runs)))
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
