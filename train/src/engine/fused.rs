//! Operators of our own for ONNX Runtime's CUDA provider: one kernel where stock operators need several.

#![expect(unsafe_code, reason = "kernels of our own are launched by address")]

use std::sync::Arc;

use cudarc::driver::{
    CudaFunction, CudaModule, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::{DynTensorValueType, Shape, SymbolicDimensions, TensorElementType, ValueType};

use shared::onnx::DataType;

use crate::graph::lower::{FUSED, FUSED_OPERATORS, FusedOperator};

/// Threads of a block.
const THREADS: u32 = 256;

/// `fused.cu`'s `Args`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Args {
    inputs: [u64; 6],
    outputs: [u64; 3],
    rows: i32,
    columns: i32,
}

// SAFETY: plain numbers in C's layout, without padding.
unsafe impl DeviceRepr for Args {}

/// All operators but the blocks, with kernels of `module` on `stream`.
///
/// # Errors
/// What CUDA or ONNX Runtime say.
pub(super) fn domain(
    module: &Arc<CudaModule>,
    stream: &Arc<CudaStream>,
) -> Result<OperatorDomain, Box<dyn std::error::Error + Send + Sync>> {
    let mut domain = OperatorDomain::new(FUSED)?;
    for what in FUSED_OPERATORS {
        let function = module.load_function(what.kernel)?;
        domain = domain.add(OnGpu { what, function, stream: stream.clone() })?;
    }
    Ok(domain)
}

/// One operator.
#[derive(Clone)]
struct OnGpu {
    what: &'static FusedOperator,
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Operator for OnGpu {
    type Kernel<'attr> = Node;

    fn name(&self) -> &str {
        self.what.name
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CUDAExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        inputs(self.what)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        outputs(self.what)
    }

    fn create_kernel(&self, context: &KernelContext<'_>) -> ort::Result<Node> {
        let shape: Vec<i64> =
            context.get("shape").ok_or_else(|| ort::Error::new("a fused operator has no `shape`"))?;
        Ok(Node { operator: self.clone(), shape })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer(self.what, context)
    }
}

fn inputs(what: &FusedOperator) -> impl Iterator<Item = OperatorInput> {
    what.inputs.iter().map(|&kind| OperatorInput::required(element(kind)))
}

fn outputs(what: &FusedOperator) -> impl Iterator<Item = OperatorOutput> {
    (0..what.outputs).map(|_| OperatorOutput::required(element(what.output)))
}

/// Tell ONNX Runtime the types and shapes of the outputs.
fn infer(what: &FusedOperator, context: &mut ShapeInferenceContext) -> ort::Result<()> {
    let first: Vec<i64> = context.attr("shape")?;
    for output in 0..what.outputs {
        let shape = shape_of(what, output, &first);
        context.set_output(output, &tensor_type(what.output, &shape))?;
    }
    Ok(())
}

/// Shape of an output where that of the first is this.
fn shape_of(what: &FusedOperator, output: usize, first: &[i64]) -> Vec<i64> {
    match what.further {
        Some(length) if output > 0 => vec![length],
        _ => first.to_vec(),
    }
}

/// A tensor as ONNX Runtime's shape inference takes it.
pub(super) fn tensor_type(kind: DataType, shape: &[i64]) -> ValueType {
    ValueType::Tensor {
        ty: element(kind),
        dimension_symbols: SymbolicDimensions::empty(shape.len()),
        shape: Shape::new(shape.iter().copied()),
    }
}

/// ONNX Runtime's name of an element type.
pub(super) fn element(kind: DataType) -> TensorElementType {
    match kind {
        DataType::U8 => TensorElementType::Uint8,
        DataType::I32 => TensorElementType::Int32,
        DataType::I64 => TensorElementType::Int64,
        DataType::F16 => TensorElementType::Float16,
        _ => TensorElementType::Float32,
    }
}

/// An operator in a graph.
struct Node {
    operator: OnGpu,
    shape: Vec<i64>,
}

impl Node {
    fn launch(&self, args: &Args, length: i32) -> Result<(), DriverError> {
        let OnGpu { what, function, stream } = &self.operator;
        let threads = (i64::from(args.rows) * i64::from(args.columns)) as u32 / what.outputs_per_thread;
        let (blocks, block) = if what.one_block { (1, 1024) } else { (threads.div_ceil(THREADS), THREADS) };
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (block, 1, 1), shared_mem_bytes: 0 };
        let mut kernel = stream.launch_builder(function);
        kernel.arg(args);
        if what.one_block {
            kernel.arg(&length);
        }
        // SAFETY: every kernel of fused.cu takes `Args`, those of one block the length of their inputs too; the shapes were
        // checked when the graph was built.
        unsafe { kernel.launch(config).map(drop) }
    }
}

impl Kernel for Node {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let mut args = Args::default();
        let mut length = 0;
        for number in 0..self.operator.what.inputs.len() {
            let value = context.input(number)?.ok_or_else(|| ort::Error::new("an input is missing"))?;
            let tensor = value.downcast::<DynTensorValueType>()?;
            args.inputs[number] = tensor.data_ptr() as u64;
            length = length.max(tensor.shape().num_elements() as i32);
        }
        for number in 0..self.operator.what.outputs {
            let value = context
                .output(number, shape_of(self.operator.what, number, &self.shape))?
                .ok_or_else(|| ort::Error::new("an output is missing"))?;
            let tensor = value.downcast::<DynTensorValueType>()?;
            args.outputs[number] = tensor.data_ptr() as u64;
        }
        args.columns = self.shape.last().map_or(1, |&columns| columns as i32);
        args.rows = (self.shape.iter().product::<i64>() / i64::from(args.columns)) as i32;
        self.launch(&args, length).map_err(|error| ort::Error::new(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use shared::network::SimpleCnn;
    use shared::runtime::{self, Device, Settings};

    use super::*;
    use crate::Precision;
    use crate::engine::blocks::Declared as OfBlock;
    use crate::engine::encode;
    use crate::forward::MapRows;
    use crate::graph::lower::Target;
    use crate::graph::{Graph, Id, Op};
    use crate::step::{self, StepPlan};

    /// What ONNX Runtime sees of an operator before it runs.
    struct Declared(&'static FusedOperator);

    /// The same of a block.
    struct DeclaredBlock(OfBlock);

    struct Never;

    impl Kernel for Never {
        fn compute(&mut self, _: &ComputeContext) -> ort::Result<()> {
            Err(ort::Error::new("declared only"))
        }
    }

    impl Operator for Declared {
        type Kernel<'attr> = Never;

        fn name(&self) -> &str {
            self.0.name
        }

        fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
            inputs(self.0)
        }

        fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
            outputs(self.0)
        }

        fn create_kernel(&self, _: &KernelContext<'_>) -> ort::Result<Never> {
            Ok(Never)
        }

        fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
            infer(self.0, context)
        }
    }

    impl Operator for DeclaredBlock {
        type Kernel<'attr> = Never;

        fn name(&self) -> &str {
            self.0.name()
        }

        fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
            self.0.inputs()
        }

        fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
            self.0.outputs()
        }

        fn create_kernel(&self, _: &KernelContext<'_>) -> ort::Result<Never> {
            Ok(Never)
        }

        fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
            self.0.infer(context)
        }
    }

    fn domain() -> OperatorDomain {
        FUSED_OPERATORS
            .iter()
            .try_fold(OperatorDomain::new(FUSED).unwrap(), |domain, what| domain.add(Declared(what)))
            .unwrap()
    }

    fn blocks(graph: &Graph) -> Vec<DeclaredBlock> {
        let blocks = graph.nodes().iter().enumerate().filter_map(|(at, node)| match &node.op {
            Op::Block(block) => Some(DeclaredBlock(OfBlock::new(graph, Id(at), block))),
            _ => None,
        });
        blocks.collect()
    }

    /// A session of a graph with our operators on the CPU, where none of them can be computed.
    fn opened(graph: Graph, outputs: step::Outputs) -> ort::session::Session {
        let domain = blocks(&graph).into_iter().fold(domain(), |domain, block| domain.add(block).unwrap());
        #[expect(clippy::arc_with_non_send_sync, reason = "what ONNX Runtime's session builder takes")]
        let domain = Arc::new(domain);
        let model = encode((graph, outputs), Target::Fused);
        runtime::builder(&Settings::new(Device::Cpu, 1))
            .unwrap()
            .with_operators(domain)
            .map_err(ort::Error::from)
            .and_then(|mut builder| builder.commit_from_memory(&model))
            .unwrap()
    }

    fn plan(filters: usize, conv_layers: usize, weight_decay: f64, precision: Precision) -> StepPlan {
        let network = SimpleCnn {
            height: 128,
            width: 16,
            filters,
            kernel: 3,
            conv_layers,
            dense_layers: 2,
            units: 64,
            dropout: 0.1,
        };
        let clip = crate::optimizer::Clip::GlobalNorm(1.0);
        StepPlan {
            network,
            normalization: 1.0,
            batch: 32,
            rows: 64,
            steps_per_epoch: 2,
            pieces: 1,
            loss: crate::loss::Loss::default(),
            optimizer: crate::optimizer::Optimizer { weight_decay, clip },
            seed: 1,
            trial: 1,
            precision,
        }
    }

    #[test]
    fn onnx_runtime_accepts_the_types_and_shapes_of_the_gpus_step() {
        runtime::start().unwrap();
        for precision in [Precision::F32, Precision::Tf32, Precision::Fp16] {
            for (filters, conv_layers, weight_decay, fused) in [
                (85, 2, 0.0, false),
                (85, 2, 0.0, true),
                (21, 4, 0.1, false),
                (21, 4, 0.1, true),
                (10, 0, 0.0, false),
            ] {
                let plan = plan(filters, conv_layers, weight_decay, precision);
                let layers = plan.network.layers().unwrap();
                let maps = MapRows { rows: vec![1600; conv_layers + 1] };
                let (graph, outputs) = step::whole_step(&plan, &layers, &maps, fused).unwrap();
                assert!(!fused || crate::blocks::uncovered(&layers, 3).is_none());
                let session = opened(graph, outputs);
                let outputs = session.outputs().iter().map(ort::value::Outlet::name).collect::<Vec<_>>();
                assert_eq!(outputs.contains(&"scale_next"), precision == Precision::Fp16);
            }
        }
    }

    #[test]
    fn onnx_runtime_accepts_blocks_of_open_lengths_that_score() {
        runtime::start().unwrap();
        let plan = plan(85, 2, 0.0, Precision::Fp16);
        let layers = plan.network.layers().unwrap();
        let maps = MapRows::open(&plan.geometry(&layers));
        let (graph, outputs) = step::scoring_by_blocks(&plan, &layers, &maps, 100);
        let session = opened(graph, outputs);
        let mut inputs: Vec<_> = session.inputs().iter().map(ort::value::Outlet::name).collect();
        inputs.sort_unstable();
        assert_eq!(inputs, ["params", "pixels", "places", "taps1", "taps2"]);
    }
}
