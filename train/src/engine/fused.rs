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

/// All operators, with kernels of `module` on `stream`.
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
        self.what.inputs.iter().map(|kind| {
            OperatorInput::required(match kind {
                DataType::I64 => TensorElementType::Int64,
                _ => TensorElementType::Float32,
            })
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        (0..self.what.outputs).map(|_| OperatorOutput::required(TensorElementType::Float32))
    }

    fn create_kernel(&self, context: &KernelContext<'_>) -> ort::Result<Node> {
        let shape: Vec<i64> =
            context.get("shape").ok_or_else(|| ort::Error::new("a fused operator has no `shape`"))?;
        Ok(Node { operator: self.clone(), shape })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let shape: Vec<i64> = context.attr("shape")?;
        for output in 0..self.what.outputs {
            let ty = ValueType::Tensor {
                ty: TensorElementType::Float32,
                dimension_symbols: SymbolicDimensions::empty(shape.len()),
                shape: Shape::new(shape.iter().copied()),
            };
            context.set_output(output, &ty)?;
        }
        Ok(())
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
                .output(number, self.shape.clone())?
                .ok_or_else(|| ort::Error::new("an output is missing"))?;
            let tensor = value.downcast::<DynTensorValueType>()?;
            args.outputs[number] = tensor.data_ptr() as u64;
        }
        args.columns = self.shape.last().map_or(1, |&columns| columns as i32);
        args.rows = (self.shape.iter().product::<i64>() / i64::from(args.columns)) as i32;
        self.launch(&args, length).map_err(|error| ort::Error::new(error.to_string()))
    }
}
