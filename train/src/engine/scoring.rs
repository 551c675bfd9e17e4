//! Sessions that score: of stock operators, on a GPU of our blocks where they can compute a network.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use ort::operator::OperatorDomain;
use ort::session::{IoBinding, Session};
use shared::network::Layers;
use shared::runtime::{self, Device, Settings};

use super::gpu::{GpuError, Opened, failed};
use super::tables::Inputs;
use super::{EngineError, blocks, encode, tables};
use crate::args::Precision;
use crate::blocks::uncovered;
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

    /// Open a session.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn new(
        plan: &StepPlan,
        layers: &Layers,
        count: usize,
        settings: &Settings,
    ) -> Result<Self, EngineError> {
        let maps = MapRows::open(&plan.geometry(layers));
        if let Device::Cuda(number) = settings.device
            && uncovered(layers, plan.network.kernel).is_none()
        {
            let opened = Opened::new(number as usize, Precision::F32)?;
            if opened.takes_blocks {
                return Self::of_blocks(plan, layers, &maps, count, settings, &opened);
            }
        }
        let model = encode(step::scoring(plan, layers, &maps, count)?, Target::Stock);
        Ok(Self { session: runtime::open_session(&model, settings)?, _stream: None })
    }

    fn of_blocks(
        plan: &StepPlan,
        layers: &Layers,
        maps: &MapRows,
        count: usize,
        settings: &Settings,
        opened: &Opened,
    ) -> Result<Self, EngineError> {
        let (graph, outputs) = step::scoring_by_blocks(plan, layers, maps, count);
        let stream = opened.context.new_stream().map_err(failed("open a stream"))?;
        let domain = OperatorDomain::new(FUSED)
            .map_err(Into::into)
            .and_then(|domain| blocks::add_to(domain, &graph, &opened.module, &stream, None))
            .map_err(GpuError::Operators)?;
        #[expect(clippy::arc_with_non_send_sync, reason = "what ONNX Runtime's session builder takes")]
        let domain = Arc::new(domain);
        let model = encode((graph, outputs), Target::Fused);
        let settings = Settings { stream: Some(stream.cu_stream() as usize), ..settings.clone() };
        let session = runtime::session_with(&model, &settings, |builder| {
            Ok(builder.with_memory_pattern(false)?.with_operators(Arc::clone(&domain))?)
        })?;
        Ok(Self { session, _stream: Some(stream) })
    }
}
