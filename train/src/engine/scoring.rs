//! Sessions that score: of stock operators, on a GPU of our blocks where they can compute a network.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use ort::operator::OperatorDomain;
use ort::session::{IoBinding, Session};
use shared::network::Layers;
use shared::runtime::{self, Device, Settings};

use super::gpu::{GpuError, Opened, failed, uncovered};
use super::tables::Inputs;
use super::{EngineError, blocks, encode, tables};
use crate::args::Precision;
use crate::forward::MapRows;
use crate::graph::lower::{FUSED, Target};
use crate::step::{self, StepPlan};

/// A session that scores `count` rows at a time with any weights, in f32: see [`step::scoring`].
pub(crate) struct Scoring {
    // Before its stream, which it works on.
    pub session: Session,
    _stream: Option<Arc<CudaStream>>,
}

impl Scoring {
    /// Bind those of a run's tables that the session computes with.
    pub fn bind(&self, binding: &mut IoBinding, tables: &Inputs) -> ort::Result<()> {
        let inputs = self.session.inputs();
        let needed = |(name, _): &&(String, _)| inputs.iter().any(|input| input.name() == name);
        tables::bind_all(binding, tables.iter().filter(needed))
    }

    /// Open so many sessions.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn open(
        number: usize,
        plan: &StepPlan,
        layers: &Layers,
        count: usize,
        settings: &Settings,
    ) -> Result<Vec<Self>, EngineError> {
        let maps = MapRows::open(&plan.geometry(layers));
        if let Device::Cuda(gpu) = settings.device {
            match uncovered(gpu as usize, layers, plan.network.kernel)? {
                None => {
                    let blocks = || Self::of_blocks(plan, layers, &maps, count, settings, gpu as usize);
                    return (0..number).map(|_| blocks()).collect();
                }
                Some(reason) => {
                    tracing::warn!("no fused blocks for the validation, which is slower without: {reason}");
                }
            }
        }
        let model = encode(step::scoring(plan, layers, &maps, count)?, Target::Stock);
        let stock = || Ok(Self { session: runtime::open_session(&model, settings)?, _stream: None });
        (0..number).map(|_| stock()).collect()
    }

    fn of_blocks(
        plan: &StepPlan,
        layers: &Layers,
        maps: &MapRows,
        count: usize,
        settings: &Settings,
        gpu: usize,
    ) -> Result<Self, EngineError> {
        let (graph, outputs) = step::scoring_by_blocks(plan, layers, maps, count);
        let Opened { context, module } = Opened::new(gpu, Precision::F32)?;
        let stream = context.new_stream().map_err(failed("open a stream"))?;
        let domain = OperatorDomain::new(FUSED).map_err(|error| GpuError::Operators(error.into()))?;
        let operators = blocks::operators(domain, &graph, &module, &stream, None)?;
        let model = encode((graph, outputs), Target::Fused);
        let settings = Settings { stream: Some(stream.cu_stream() as usize), ..settings.clone() };
        let session = runtime::session_with(&model, &settings, |builder| {
            Ok(builder.with_memory_pattern(false)?.with_operators(Arc::clone(&operators))?)
        })?;
        Ok(Self { session, _stream: Some(stream) })
    }
}
