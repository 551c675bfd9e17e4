//! A step on the CPU: pieces of a batch on single-threaded sessions, then the update.

use std::sync::atomic::{AtomicUsize, Ordering};

use ort::session::{IoBinding, Session};
use ort::value::Tensor;
use shared::network::Layers;
use shared::runtime::{self, Settings};

use super::feed::Epoch;
use super::{EngineError, State, bind_state, encode, failed, tables};
use crate::graph::lower::Target;
use crate::memory::Memory;
use crate::step::{self, StepPlan};

/// Sessions and tensors of a step.
pub(super) struct Pieces {
    workers: Vec<Worker>,
    results: Vec<Piece>,
    /// Rows of a piece
    rows: usize,
    kernel: usize,
    update: Box<Session>,
    bindings: [IoBinding; 2],
}

/// One thread's session.
struct Worker {
    session: Session,
    binding: IoBinding,
}

/// Results of one piece.
struct Piece {
    gradient: Tensor<f32>,
    sums: Tensor<f32>,
}

impl Pieces {
    pub fn new(
        plan: &StepPlan,
        layers: &Layers,
        states: &mut [State; 2],
        rates: &Tensor<f32>,
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        // One thread a session: an operator that shares its work between threads may round differently with their number.
        let single = Settings { threads: 1, ..settings.clone() };
        let threads = settings.threads_or_all();
        let gradient = encode(step::piece_gradient(plan, layers)?, Target::Stock);
        let update = runtime::session(&encode(step::update(plan, layers)?, Target::Stock), &single)?;
        let length = layers.parameters(plan.network.kernel);
        let pieces = (0..plan.pieces)
            .map(|_| Piece::new(length))
            .collect::<ort::Result<Vec<Piece>>>()
            .map_err(failed("allocate the training's tensors"))?;
        let mut workers = Vec::new();
        for _ in 0..threads.min(plan.pieces) {
            let session = runtime::open_session(&gradient, &single)?;
            let binding = session.create_binding().map_err(failed("bind tensors"))?;
            workers.push(Worker { session, binding });
        }
        let mut bind = |from: usize| -> ort::Result<IoBinding> {
            let mut binding = bind_state(&update, rates, states, from)?;
            for (number, piece) in pieces.iter().enumerate() {
                binding.bind_input(step::piece_name("gradient", number), &piece.gradient)?;
                binding.bind_input(step::piece_name("sums", number), &piece.sums)?;
            }
            Ok(binding)
        };
        let bindings = [bind(0).map_err(failed("bind tensors"))?, bind(1).map_err(failed("bind tensors"))?];
        Ok(Self {
            workers,
            results: pieces,
            rows: plan.piece_rows(),
            kernel: plan.network.kernel,
            update: Box::new(update),
            bindings,
        })
    }

    /// Take the step from `state`, which has the number `from`.
    pub fn step(&mut self, epoch: &Epoch, state: &State, from: usize) -> ort::Result<()> {
        let (rows, kernel) = (self.rows, self.kernel);
        let next = AtomicUsize::new(0);
        let pieces: Vec<_> = self.results.iter_mut().map(std::sync::Mutex::new).collect();
        let work = |worker: &mut Worker| -> ort::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = pieces.get(number) else { return Ok(()) };
                // Each number is taken once, so nobody waits here.
                let mut piece = piece.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                worker.run(epoch, state, number * rows, rows, kernel, &mut piece)?;
            }
        };
        let (first, others) = self.workers.split_first_mut().expect("there is at least one worker");
        std::thread::scope(|scope| {
            let running: Vec<_> = others.iter_mut().map(|worker| scope.spawn(|| work(worker))).collect();
            let mut outcome = work(first);
            for thread in running {
                outcome = outcome.and(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            outcome
        })?;
        self.update.run_binding(&self.bindings[from]).map(drop)
    }
}

impl Piece {
    fn new(length: usize) -> ort::Result<Self> {
        let memory = Memory { gpu: None };
        Ok(Self {
            gradient: memory.tensor(&[length], &vec![0.0; length])?,
            sums: memory.tensor(&[2], &[0.0; 2])?,
        })
    }
}

impl Worker {
    /// Compute `count` rows of the batch from row `first` on into `piece`.
    fn run(
        &mut self,
        epoch: &Epoch,
        state: &State,
        first: usize,
        count: usize,
        kernel: usize,
        piece: &mut Piece,
    ) -> ort::Result<()> {
        let Self { session, binding } = self;
        let chosen = epoch.rows(first, count);
        tables::bind(binding, epoch.part.tables.sites.batch(&chosen.images), kernel)?;
        tables::bind_list(binding, "labels", chosen.labels)?;
        tables::bind_list(binding, "weights", chosen.weights)?;
        tables::bind_list(binding, "count", vec![epoch.counted() as f32])?;
        binding.bind_input("params", &state.params)?;
        // Both are for dropout only.
        if session.inputs().iter().any(|input| input.name() == "step") {
            binding.bind_input("step", &state.step)?;
            tables::bind_list(binding, "first", vec![first as i64])?;
        }
        if session.inputs().iter().any(|input| input.name() == "scale") {
            binding.bind_input("scale", &state.scale)?;
        }
        binding.bind_output("gradient", &mut piece.gradient)?;
        binding.bind_output("sums", &mut piece.sums)?;
        session.run_binding(binding).map(drop)
    }
}
