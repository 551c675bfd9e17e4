//! A step on a GPU: kernels put the batch's tables together, then one graph, captured once for each direction.

use std::sync::Arc;
use std::time::Instant;

use ort::session::{IoBinding, RunOptions, Session};
use ort::value::Tensor;
use shared::network::Layers;
use shared::runtime::{self, Settings};

use super::feed::Epoch;
use super::gpu::{Gpu, GpuError, StageTables, Tables};
use super::{EngineError, State, bind_state, calm, encode, failed};
use crate::blocks::TABLE_WORDS;
use crate::forward::{MapRows, table_name};
use crate::graph::lower::Target;
use crate::memory::Memory;
use crate::step::{self, StepPlan};

/// What steps need.
pub(super) struct Whole {
    step: Option<Step>,
    gpu: Gpu,
    plan: StepPlan,
    layers: Layers,
    settings: Settings,
    /// Whether steps are made of blocks of our own
    blocks: bool,
}

/// The step's session for maps of fixed capacities.
struct Step {
    session: Session,
    bindings: [IoBinding; 2],
    /// Captures nothing
    plain: RunOptions,
    /// Captures. ONNX Runtime runs on within the run: as often as it needs to (twice), then the run that it captures. A
    /// run that ends without a captured graph is an error of its own
    capturing: [RunOptions; 2],
    /// Once captured: nobody waits for a step
    hot: [RunOptions; 2],
    captured: [bool; 2],
    capacity: Vec<usize>,
    /// The batch whose tables are ready, or being put together, for the next step
    next: Option<usize>,
    /// One set of tables for each direction
    tables: [Tables; 2],
}

impl Whole {
    /// Steps on this GPU.
    ///
    /// # Errors
    /// [`GpuError`]
    pub fn new(gpu: Gpu, plan: &StepPlan, layers: &Layers, settings: &Settings) -> Result<Self, GpuError> {
        let settings = Settings { stream: Some(gpu.stream() as usize), ..settings.clone() };
        let uncovered = gpu.uncovered(layers, plan.network.kernel)?;
        if let Some(reason) = &uncovered {
            tracing::warn!("no fused blocks for this training, which is slower without: {reason}");
        }
        let blocks = uncovered.is_none();
        Ok(Self { step: None, gpu, plan: plan.clone(), layers: layers.clone(), settings, blocks })
    }

    /// Get ready for the batches of the epoch, or of its part at hand.
    pub fn start_part(
        &mut self,
        epoch: &Epoch,
        memory: &Memory,
        states: &mut [State; 2],
        rates: &Tensor<f32>,
    ) -> Result<(), EngineError> {
        // Counting is work of the CPU.
        let needed = epoch.most_rows();
        let fits = |step: &Step| needed.iter().zip(&step.capacity).all(|(needed, room)| needed <= room);
        let capacity = match &self.step {
            Some(step) if fits(step) => None,
            _ => Some(roomy(&epoch.likely_rows())),
        };
        let _calm = calm::use_of(self.settings.device);
        if let Some(capacity) = capacity {
            self.step = None;
            self.step = Some(self.open(capacity, memory, states, rates)?);
        }
        let step = self.step.as_mut().expect("it is open");
        step.next = None;
        for (lane, tables) in step.tables.iter_mut().enumerate() {
            self.gpu.set_tables(lane, tables, epoch, memory)?;
        }
        Ok(())
    }

    /// The session for maps of `capacity` rows.
    fn open(
        &self,
        capacity: Vec<usize>,
        memory: &Memory,
        states: &mut [State; 2],
        rates: &Tensor<f32>,
    ) -> Result<Step, EngineError> {
        tracing::debug!("a step has room for {capacity:?} rows of its maps");
        let begin = Instant::now();
        let maps = MapRows { rows: capacity };
        let (graph, outputs) = step::whole_step(&self.plan, &self.layers, &maps, self.blocks)?;
        let operators = self.gpu.operators(&graph)?;
        let model = encode((graph, outputs), Target::Fused);
        let settings = Settings { cuda_graph: true, ..self.settings.clone() };
        let session = runtime::session_with(&model, &settings, |builder| {
            Ok(builder.with_operators(Arc::clone(&operators))?)
        })?;
        let mut build = || -> ort::Result<_> {
            let new = || Tables::new(memory, &self.plan, &self.layers, &maps, self.blocks);
            let tables = [new()?, new()?];
            let mut bindings =
                [bind_state(&session, rates, states, 0)?, bind_state(&session, rates, states, 1)?];
            for (binding, [mine, next]) in bindings.iter_mut().zip([[0, 1], [1, 0]]) {
                tables[mine].bind(binding)?;
                if self.blocks {
                    binding.bind_input("next_tables", &tables[next].pointers)?;
                }
            }
            // Each direction is a captured graph of its own; -1 captures none.
            let run = |number: &str, wait: bool| -> ort::Result<RunOptions> {
                let mut options = RunOptions::new()?;
                options.set("gpu_graph_id", number)?;
                if !wait {
                    options.set("disable_synchronize_execution_providers", "1")?;
                }
                Ok(options)
            };
            let capturing = [run("1", true)?, run("2", true)?];
            Ok((tables, bindings, run("-1", true)?, capturing, [run("1", false)?, run("2", false)?]))
        };
        let (tables, bindings, plain, capturing, hot) =
            build().map_err(failed("prepare the training step"))?;
        tracing::debug!("the step's session is open after {:.2?}", begin.elapsed());
        let (captured, capacity) = ([false; 2], maps.rows);
        Ok(Step { session, bindings, plain, capturing, hot, captured, capacity, next: None, tables })
    }

    /// Take the step from the state of number `from`.
    pub fn step(&mut self, epoch: &Epoch, from: usize) -> Result<(), EngineError> {
        if self.step.as_ref().is_some_and(|step| step.captured == [false; 2]) {
            self.first_run(epoch, from)?;
        }
        let step = self.step.as_mut().expect("an epoch was started");
        let begin = Instant::now();
        let capture = !step.captured[from];
        let _capturing = capture.then(calm::capture);
        let _calm = if capture { None } else { calm::use_of(self.settings.device) };
        let waited = begin.elapsed();
        if step.next != Some(epoch.batch) {
            self.gpu.pack(&step.tables[from], epoch.first_of(epoch.batch))?;
        }
        let options = if capture { &step.capturing } else { &step.hot };
        step.session
            .run_binding_with_options(&step.bindings[from], &options[from])
            .map(drop)
            .map_err(failed("run a training step"))?;
        // Blocks put it together while they run.
        let next = epoch.batch + 1;
        step.next = (self.blocks && epoch.has(next)).then_some(next);
        if capture {
            step.captured[from] = true;
            let took = begin.elapsed().saturating_sub(waited);
            tracing::debug!("step {} captured in {took:.2?} after a wait of {waited:.2?}", from + 1);
        }
        Ok(())
    }

    /// Run a new session once without a capture, so that what it allocates and loads keeps nobody out.
    ///
    /// The run writes the state that the captured one writes from the same one again.
    fn first_run(&mut self, epoch: &Epoch, from: usize) -> Result<(), EngineError> {
        let step = self.step.as_mut().expect("an epoch was started");
        let begin = Instant::now();
        let _calm = calm::use_of(self.settings.device);
        self.gpu.pack(&step.tables[from], epoch.first_of(epoch.batch))?;
        step.next = Some(epoch.batch);
        step.session
            .run_binding_with_options(&step.bindings[from], &step.plain)
            .map(drop)
            .map_err(failed("run a training step"))?;
        tracing::debug!("first run of the step's session after {:.2?}", begin.elapsed());
        Ok(())
    }

    /// Wait until all steps are done.
    pub fn wait(&self) -> Result<(), EngineError> {
        {
            let _calm = calm::use_of(self.settings.device);
            self.gpu.mark()?;
        }
        calm::until(self.settings.device, || self.gpu.is_done())?;
        let _calm = calm::use_of(self.settings.device);
        Ok(self.gpu.wait()?)
    }
}

/// A little more than what is likely, so that few epochs need a new session. Products like lengths that are multiples of 8.
fn roomy(needed: &[usize]) -> Vec<usize> {
    needed.iter().map(|rows| (rows + rows / 20).next_multiple_of(8)).collect()
}

impl Tables {
    fn new(
        memory: &Memory,
        plan: &StepPlan,
        layers: &Layers,
        maps: &MapRows,
        blocks: bool,
    ) -> ort::Result<Self> {
        let (geometry, rows) = (plan.geometry(layers), &maps.rows);
        let kernel = geometry.kernel();
        let mut stages = Vec::new();
        for stage in 0..geometry.stages() {
            let members = 4 * rows[stage + 1];
            stages.push(StageTables {
                taps: memory.zeros(&[members, kernel])?,
                readers: memory.zeros(&[rows[stage], kernel])?,
                quiet: if blocks { None } else { Some(memory.zeros(&[kernel, members])?) },
            });
        }
        let places = plan.batch * geometry.positions();
        Ok(Self {
            capacity: rows.clone(),
            pixels: memory.zeros(&[rows[0], kernel + 1])?,
            stages,
            places: memory.zeros(&[places])?,
            found: memory.zeros(&[rows[geometry.stages()]])?,
            absent: if blocks { None } else { Some(memory.zeros(&[places])?) },
            labels: memory.zeros(&[plan.batch])?,
            weights: memory.zeros(&[plan.batch])?,
            count: memory.zeros(&[1])?,
            pointers: memory.zeros(&[TABLE_WORDS])?,
        })
    }

    fn bind(&self, binding: &mut IoBinding) -> ort::Result<()> {
        binding.bind_input("pixels", &self.pixels)?;
        for (number, StageTables { taps, readers, quiet }) in self.stages.iter().enumerate() {
            binding.bind_input(table_name("taps", number), taps)?;
            binding.bind_input(table_name("readers", number), readers)?;
            if let Some(quiet) = quiet {
                binding.bind_input(table_name("quiet", number), quiet)?;
            }
        }
        binding.bind_input("places", &self.places)?;
        binding.bind_input("found", &self.found)?;
        if let Some(absent) = &self.absent {
            binding.bind_input("absent", absent)?;
        }
        binding.bind_input("labels", &self.labels)?;
        binding.bind_input("weights", &self.weights)?;
        binding.bind_input("count", &self.count)
    }
}
