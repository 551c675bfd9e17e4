//! Scores of a whole data set with the weights of a training in progress.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ort::session::IoBinding;
use ort::value::Tensor;
use shared::network::Layers;
use shared::runtime::{self, Device, Settings};
use shared::signal;

use crate::budget::Residence;
use crate::engine::scoring::Scoring;
use crate::engine::tables::Inputs;
use crate::engine::{EngineError, calm, failed, tables};
use crate::memory::Memory;
use crate::shelf::{Key, Place, Shelf};
use crate::sites::{Batch, Geometry, Sites};
use crate::step::StepPlan;
use crate::store::{Store, StoreError};

/// Rows that one scoring run takes on the CPU.
const SCORING_ROWS_CPU: usize = 64;
/// Rows that one scoring run takes on a GPU.
const SCORING_ROWS_GPU: usize = 1024;

/// Tables of all rows that are scored. Nothing in them belongs to a training.
pub struct ScoringTables(Held);

enum Held {
    /// For the runs' tables, put together when they are needed
    Sites(Sites),
    /// The inputs of each run on a GPU
    Inputs(Vec<Inputs>),
}

/// Scores one data set with the weights of a training.
pub struct Scorer {
    memory: Memory,
    lanes: Vec<Lane>,
    params: Tensor<f32>,
    runs: Runs,
    /// Threads that make tables ahead on a GPU
    threads: usize,
    /// Among the trainings that share memory, if the tables are not shared
    _place: Option<Place>,
}

/// The data set in runs of equal size.
struct Runs {
    device: Device,
    images: Arc<Store>,
    /// Those of all rows, if they stay
    tables: Option<Arc<ScoringTables>>,
    geometry: Geometry,
    scale: f32,
    kernel: usize,
    /// Rows of one run
    count: usize,
}

/// One thread's scoring session.
struct Lane {
    scoring: Scoring,
    logits: Tensor<f32>,
    /// One for whatever run comes next, or one for each run on a GPU where all tables stay
    bindings: Vec<IoBinding>,
}

/// Pieces of the scores that are still to be filled.
type Queue<'a> = Mutex<std::iter::Enumerate<std::slice::ChunksMut<'a, f32>>>;

impl Runs {
    /// The tables of all rows.
    fn all(&self, memory: &Memory, threads: usize) -> Result<ScoringTables, EngineError> {
        let sites = Sites::new(&self.geometry, &*self.images.all()?, self.scale, threads);
        if memory.gpu.is_none() {
            return Ok(ScoringTables(Held::Sites(sites)));
        }
        let host = Memory { gpu: None };
        let place = |name: &str| if is_scored(name) { memory } else { &host };
        let mut all: Vec<Inputs> = (0..self.number()).map(|_| Inputs::new()).collect();
        ahead(
            self.number(),
            threads,
            |number| Ok(self.batch_of(&sites, number)),
            |number, batch| {
                let _calm = calm::use_of(self.device);
                all[number] = tables::inputs(batch, self.kernel, place).map_err(failed("copy tables"))?;
                Ok(true)
            },
        )?;
        Ok(ScoringTables(Held::Inputs(all)))
    }

    /// The tables of run `number`, from the sites of all rows; rows past the data set's are empty images.
    fn batch_of(&self, sites: &Sites, number: usize) -> Batch {
        let slots = number * self.count..(number + 1) * self.count;
        let images: Vec<_> = slots.map(|row| (row < self.images.rows()).then_some(row)).collect();
        sites.batch(&images)
    }

    /// The tables of run `number`.
    fn batch(&self, number: usize) -> Result<Batch, StoreError> {
        if let Some(Held::Sites(sites)) = self.tables.as_ref().map(|tables| &tables.0) {
            return Ok(self.batch_of(sites, number));
        }
        let first = number * self.count;
        let rows: Vec<usize> = (first..self.images.rows().min(first + self.count)).collect();
        let sites = Sites::new(&self.geometry, &self.images.read(&rows)?, self.scale, 1);
        let images: Vec<_> = (0..self.count).map(|row| (row < rows.len()).then_some(row)).collect();
        Ok(sites.batch(&images))
    }

    /// The inputs of each run, if they are on a GPU.
    fn inputs(&self) -> Option<&[Inputs]> {
        match self.tables.as_ref().map(|tables| &tables.0) {
            Some(Held::Inputs(inputs)) => Some(inputs),
            _ => None,
        }
    }

    fn number(&self) -> usize {
        self.images.rows().div_ceil(self.count)
    }
}

/// Whether the scoring graph computes with a table: the others are for gradients.
fn is_scored(name: &str) -> bool {
    name.starts_with("taps") || ["pixels", "places"].contains(&name)
}

/// Make the tables of `number` runs on some threads, and take each here; `take` says whether to go on.
fn ahead(
    number: usize,
    threads: usize,
    make: impl Fn(usize) -> Result<Batch, StoreError> + Sync,
    mut take: impl FnMut(usize, Batch) -> Result<bool, EngineError>,
) -> Result<(), EngineError> {
    let next = AtomicUsize::new(0);
    let (send, receive) = sync_channel(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (send, next, make) = (send.clone(), &next, &make);
            scope.spawn(move || {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody takes it after an error or a signal.
                    if run >= number || send.send((run, make(run))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        // Its own end lets the threads end, whatever the outcome.
        let receive = receive;
        for (run, batch) in &receive {
            if !take(run, batch?)? {
                break;
            }
        }
        Ok(())
    })
}

impl Lane {
    fn new(
        scoring: Scoring,
        memory: &Memory,
        params: &Tensor<f32>,
        runs: &Runs,
    ) -> Result<Self, EngineError> {
        let prepare = failed("prepare the scoring");
        let mut logits = memory.zeros::<f32>(&[runs.count]).map_err(&prepare)?;
        let mut bindings = Vec::new();
        for number in 0..runs.inputs().map_or(1, <[Inputs]>::len) {
            let mut binding = scoring.session.create_binding().map_err(&prepare)?;
            binding.bind_input("params", params).map_err(&prepare)?;
            binding.bind_output("logits", &mut logits).map_err(&prepare)?;
            if let Some(inputs) = runs.inputs() {
                scoring.bind(&mut binding, &inputs[number]).map_err(&prepare)?;
            }
            bindings.push(binding);
        }
        Ok(Self { scoring, logits, bindings })
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
            // Where all tables stay on a GPU, they are bound already.
            let binding = if runs.inputs().is_some() { number } else { 0 };
            if runs.inputs().is_none() {
                self.bind(runs, runs.batch(number)?)?;
            }
            self.run(memory, runs.device, binding, goal)?;
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
        ahead(
            runs.number(),
            threads,
            |number| runs.batch(number),
            |number, batch| {
                if signal::stop_requested() {
                    return Ok(false);
                }
                self.bind(runs, batch)?;
                let end = logits.len().min((number + 1) * runs.count);
                self.run(memory, runs.device, 0, &mut logits[number * runs.count..end])?;
                Ok(true)
            },
        )
    }

    /// Bind the tables of whatever run comes next.
    fn bind(&mut self, runs: &Runs, batch: Batch) -> Result<(), EngineError> {
        let _calm = calm::use_of(runs.device);
        let host = Memory { gpu: None };
        tables::inputs(batch, runs.kernel, |_| &host)
            .and_then(|inputs| self.scoring.bind(&mut self.bindings[0], &inputs))
            .map_err(failed("bind tables"))
    }

    /// Run a binding and take its scores.
    fn run(
        &mut self,
        memory: &Memory,
        device: Device,
        binding: usize,
        goal: &mut [f32],
    ) -> Result<(), EngineError> {
        // One run after another, so that a capture waits for one and not for all.
        let _calm = calm::use_of(device);
        let mut run = || -> ort::Result<()> {
            self.scoring.session.run_binding(&self.bindings[binding]).map(drop)?;
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
        Self::sharing(&Shelf::default(), plan, layers, images, residence, settings)
    }

    /// The same with tables from a shelf for these images, if they are to stay.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn sharing(
        shelf: &Shelf<ScoringTables>,
        plan: &StepPlan,
        layers: &Layers,
        images: &Arc<Store>,
        residence: Residence,
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        runtime::start()?;
        let begin = Instant::now();
        let (device, geometry) = (settings.device, plan.geometry(layers));
        let (scale, kernel) = (plan.normalization, plan.network.kernel);
        let all_threads = settings.threads_or_all();
        let (count, threads) = match device {
            Device::Cpu => (SCORING_ROWS_CPU, all_threads),
            Device::Cuda(_) => (SCORING_ROWS_GPU, 1),
        };
        let settings = Settings { threads: 1, ..settings.clone() };
        let memory = {
            let _calm = calm::use_of(device);
            Memory::on(&settings)?
        };
        let key = Key { geometry: geometry.clone(), scale, device };
        let images = Arc::clone(images);
        let mut runs = Runs { device, images, tables: None, geometry, scale, kernel, count };
        let mut place = None;
        match residence {
            Residence::Whole => {
                let make = || runs.all(&memory, shelf.threads(all_threads));
                runs.tables = Some(shelf.get(&key, make)?);
            }
            Residence::Parts => place = Some(shelf.place()),
        }
        tracing::debug!("validation data there after {:.2?}", begin.elapsed());
        let _calm = calm::use_of(device);
        let params = memory.zeros(&[layers.parameters(kernel)]).map_err(failed("prepare the scoring"))?;
        let sessions = Scoring::open(threads.min(runs.number()).max(1), plan, layers, count, &settings)?;
        let lanes = sessions
            .into_iter()
            .map(|scoring| Lane::new(scoring, &memory, &params, &runs))
            .collect::<Result<_, _>>()?;
        tracing::debug!("scoring on {device} ready after {:.2?}", begin.elapsed());
        Ok(Self { memory, lanes, params, runs, threads: all_threads, _place: place })
    }

    /// Logits of all rows, in their order.
    ///
    /// # Errors
    /// [`EngineError::Run`]
    pub fn score(&mut self, params: &[f32]) -> Result<Vec<f32>, EngineError> {
        let Self { memory, lanes, params: device, runs, threads, .. } = self;
        {
            let _calm = calm::use_of(runs.device);
            memory.fill(device, params).map_err(failed("score the validation data"))?;
        }
        let mut logits = vec![0.0; runs.images.rows()];
        if let ([lane], None, true) = (lanes.as_mut_slice(), &runs.tables, memory.gpu.is_some()) {
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
