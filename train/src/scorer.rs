//! Scores of a whole data set with the weights of a training in progress.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ort::session::{IoBinding, Session};
use ort::value::Tensor;
use shared::network::Layers;
use shared::runtime::{self, Device, Settings};
use shared::signal;

use crate::budget::Residence;
use crate::engine::{EngineError, calm, encode, failed, tables};
use crate::forward::MapRows;
use crate::graph::lower::Target;
use crate::memory::Memory;
use crate::sites::{Batch, Geometry, Sites};
use crate::step::{self, StepPlan};
use crate::store::{Store, StoreError};

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
    /// Threads that make tables ahead on a GPU
    threads: usize,
    /// Whether all tables are on a GPU
    stay: bool,
}

/// The data set in runs of equal size.
struct Runs {
    images: Arc<Store>,
    /// Sites of all rows, if they stay
    sites: Option<Sites>,
    geometry: Geometry,
    scale: f32,
    kernel: usize,
    /// Rows of one run
    count: usize,
}

/// One thread's scoring session.
struct Lane {
    session: Session,
    logits: Tensor<f32>,
    /// One for whatever run comes next, or one for each run on a GPU where all tables stay
    bindings: Vec<IoBinding>,
}

/// Pieces of the scores that are still to be filled.
type Queue<'a> = Mutex<std::iter::Enumerate<std::slice::ChunksMut<'a, f32>>>;

impl Runs {
    /// The tables of run `number`; rows past the data set's are empty images.
    fn batch(&self, number: usize) -> Result<Batch, StoreError> {
        let first = number * self.count;
        let slots = first..first + self.count;
        if let Some(sites) = &self.sites {
            let images: Vec<_> = slots.map(|row| (row < self.images.rows()).then_some(row)).collect();
            return Ok(sites.batch(&images));
        }
        let rows: Vec<usize> = (first..self.images.rows().min(slots.end)).collect();
        let sites = Sites::new(&self.geometry, &self.images.read(&rows)?, self.scale, 1);
        let images: Vec<_> = (0..self.count).map(|row| (row < rows.len()).then_some(row)).collect();
        Ok(sites.batch(&images))
    }

    fn bind(&self, binding: &mut IoBinding, batch: Batch) -> Result<(), EngineError> {
        tables::bind(binding, batch, self.kernel).map_err(failed("bind tables"))
    }

    fn number(&self) -> usize {
        self.images.rows().div_ceil(self.count)
    }
}

impl Lane {
    fn new(
        session: Session,
        memory: &Memory,
        params: &Tensor<f32>,
        runs: &Runs,
        stay: bool,
    ) -> Result<Self, EngineError> {
        let prepare = failed("prepare the scoring");
        let mut logits = memory.zeros::<f32>(&[runs.count]).map_err(&prepare)?;
        let mut bindings = Vec::new();
        for number in 0..if stay { runs.number() } else { 1 } {
            let mut binding = session.create_binding().map_err(&prepare)?;
            binding.bind_input("params", params).map_err(&prepare)?;
            binding.bind_output("logits", &mut logits).map_err(&prepare)?;
            if stay {
                runs.bind(&mut binding, runs.batch(number)?)?;
            }
            bindings.push(binding);
        }
        Ok(Self { session, logits, bindings })
    }

    /// Fill pieces until none is left.
    fn score(&mut self, memory: &Memory, queue: &Queue, runs: &Runs) -> Result<(), EngineError> {
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, goal)) = job else { return Ok(()) };
            // Who asked for the scores looks at the signal too.
            if signal::stop_requested() {
                return Ok(());
            }
            // Where all tables stay, they are bound already.
            let binding = if memory.gpu.is_some() { number } else { 0 };
            if memory.gpu.is_none() {
                runs.bind(&mut self.bindings[0], runs.batch(number)?)?;
            }
            self.run(memory, binding, goal)?;
        }
    }

    /// Fill all pieces with tables that other threads make ahead.
    fn score_ahead(
        &mut self,
        memory: &Memory,
        logits: &mut [f32],
        runs: &Runs,
        threads: usize,
    ) -> Result<(), EngineError> {
        let next = AtomicUsize::new(0);
        let (send, receive) = sync_channel(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        // Nobody takes it after an error or a signal.
                        if number >= runs.number() || send.send((number, runs.batch(number))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            // Its own end lets the threads end, whatever the outcome.
            let receive = receive;
            for (number, batch) in &receive {
                if signal::stop_requested() {
                    break;
                }
                runs.bind(&mut self.bindings[0], batch?)?;
                let end = logits.len().min((number + 1) * runs.count);
                self.run(memory, 0, &mut logits[number * runs.count..end])?;
            }
            Ok(())
        })
    }

    /// Run a binding and take its scores.
    fn run(&mut self, memory: &Memory, binding: usize, goal: &mut [f32]) -> Result<(), EngineError> {
        let mut run = || -> ort::Result<()> {
            self.session.run_binding(&self.bindings[binding]).map(drop)?;
            let found = memory.read(&self.logits)?;
            goal.copy_from_slice(&found[..goal.len()]);
            Ok(())
        };
        run().map_err(failed("score the validation data"))
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
        images: &Arc<Store>,
        residence: Residence,
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        runtime::start()?;
        let _calm = calm::use_of(settings.device);
        let begin = Instant::now();
        let geometry = plan.geometry(layers);
        let all_threads = settings.threads_or_all();
        let sites = match residence {
            Residence::Whole => Some(Sites::new(&geometry, &*images.all()?, plan.normalization, all_threads)),
            Residence::Parts => None,
        };
        let (count, threads) = match settings.device {
            Device::Cpu => (SCORING_ROWS_CPU, all_threads),
            Device::Cuda(_) => (SCORING_ROWS_GPU, 1),
        };
        let model = encode(step::scoring(plan, layers, &MapRows::open(&geometry), count)?, Target::Stock);
        let (scale, kernel) = (plan.normalization, plan.network.kernel);
        let mut runs = Runs { images: Arc::clone(images), sites, geometry, scale, kernel, count };
        let settings = Settings { threads: 1, ..settings.clone() };
        let memory = Memory::on(&settings)?;
        let params = memory.zeros(&[layers.parameters(kernel)]).map_err(failed("prepare the scoring"))?;
        let stay = memory.gpu.is_some() && residence == Residence::Whole;
        let mut lanes = Vec::new();
        for _ in 0..threads.min(runs.number()).max(1) {
            let session = runtime::open_session(&model, &settings)?;
            lanes.push(Lane::new(session, &memory, &params, &runs, stay)?);
        }
        if stay {
            runs.sites = None;
        }
        tracing::debug!("validation data on {} after {:.2?}", settings.device, begin.elapsed());
        Ok(Self { device: settings.device, memory, lanes, params, runs, threads: all_threads, stay })
    }

    /// Logits of all rows, in their order.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn score(&mut self, params: &[f32]) -> Result<Vec<f32>, EngineError> {
        let _calm = calm::use_of(self.device);
        let Self { memory, lanes, params: device, runs, threads, stay, .. } = self;
        memory.fill(device, params).map_err(failed("score the validation data"))?;
        let mut logits = vec![0.0; runs.images.rows()];
        if let ([lane], false, true) = (lanes.as_mut_slice(), *stay, memory.gpu.is_some()) {
            lane.score_ahead(memory, &mut logits, runs, *threads)?;
            return Ok(logits);
        }
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
    }
}
