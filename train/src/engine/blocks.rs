//! Blocks of our own as operators of ONNX Runtime's CUDA provider: one operator for each block of a graph.

#![expect(unsafe_code, reason = "kernels of our own are launched by address")]

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{
    CudaFunction, CudaModule, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ort::value::DynTensorValueType;
use shared::onnx::DataType;

use super::fused::{element, tensor_type};
use super::gpu::{GpuError, Side};
use crate::blocks::args::{CellGrad, Goal, Gradient, Head, KernelGrad, PlaceGrad, Product, Stem, Weights};
use crate::blocks::{BLOCK_ROWS, Block, Work};
use crate::graph::lower::operator_name;
use crate::graph::{Graph, Id, OPEN, Op};

/// Shared memory that any block of threads may ask for: of 48 kB, which what a kernel always has counts to.
const SHARED_WITHOUT_LEAVE: usize = 32 * 1024;

/// Plain numbers in C's layout.
macro_rules! told {
    ($($name:ty),+) => {
        $(
            // SAFETY: plain numbers in C's layout, as the kernels have them.
            unsafe impl DeviceRepr for $name {}
        )+
    };
}
told!(Weights, Stem, Product, KernelGrad, CellGrad, PlaceGrad, Head, Gradient);

/// A domain with an operator for each block of a graph, which run on `stream`.
///
/// # Errors
/// [`GpuError::Operators`]
pub(super) fn operators(
    domain: OperatorDomain,
    graph: &Graph,
    module: &Arc<CudaModule>,
    stream: &Arc<CudaStream>,
    side: Option<&Arc<Side>>,
) -> Result<Arc<OperatorDomain>, GpuError> {
    let domain = add_to(domain, graph, module, stream, side).map_err(GpuError::Operators)?;
    #[expect(clippy::arc_with_non_send_sync, reason = "what ONNX Runtime's session builder takes")]
    let domain = Arc::new(domain);
    Ok(domain)
}

fn add_to(
    mut domain: OperatorDomain,
    graph: &Graph,
    module: &Arc<CudaModule>,
    stream: &Arc<CudaStream>,
    side: Option<&Arc<Side>>,
) -> Result<OperatorDomain, Box<dyn std::error::Error + Send + Sync>> {
    for (at, node) in graph.nodes().iter().enumerate() {
        let Op::Block(block) = &node.op else { continue };
        let operator = OnGpu {
            declared: Declared::new(graph, Id(at), block),
            block: Arc::new((**block).clone()),
            function: load(module, &block.work)?,
            stream: stream.clone(),
            side: side.cloned(),
        };
        domain = domain.add(operator)?;
    }
    Ok(domain)
}

/// The kernel of a block, with leave to take the shared memory that it asks for.
fn load(module: &Arc<CudaModule>, work: &Work) -> Result<CudaFunction, DriverError> {
    let function = module.load_function(&work.kernel())?;
    let shared = work.shared_bytes();
    if shared > SHARED_WITHOUT_LEAVE {
        let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(most, shared as i32)?;
    }
    Ok(function)
}

/// What ONNX Runtime knows of a block before it runs.
#[derive(Clone)]
pub(super) struct Declared {
    name: String,
    inputs: Vec<DataType>,
    outputs: Vec<(DataType, Vec<usize>)>,
}

impl Declared {
    pub fn new(graph: &Graph, id: Id, block: &Block) -> Self {
        let inputs = graph.node(id).inputs.iter().map(|&input| graph.kind(input)).collect();
        Self { name: operator_name(id), inputs, outputs: block.outputs.clone() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn inputs(&self) -> impl Iterator<Item = OperatorInput> {
        self.inputs.iter().map(|&kind| OperatorInput::required(element(kind)))
    }

    pub fn outputs(&self) -> impl Iterator<Item = OperatorOutput> {
        self.outputs.iter().map(|&(kind, _)| OperatorOutput::required(element(kind)))
    }

    pub fn infer(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        for (number, (kind, shape)) in self.outputs.iter().enumerate() {
            context.set_output(number, &tensor_type(*kind, &signed(shape, -1)))?;
        }
        Ok(())
    }
}

/// A shape as ONNX Runtime takes it; open lengths are `open`.
fn signed(shape: &[usize], open: i64) -> Vec<i64> {
    shape.iter().map(|&length| if length < OPEN { length as i64 } else { open }).collect()
}

/// A block's operator.
#[derive(Clone)]
struct OnGpu {
    declared: Declared,
    block: Arc<Block>,
    function: CudaFunction,
    stream: Arc<CudaStream>,
    /// In a step
    side: Option<Arc<Side>>,
}

impl Operator for OnGpu {
    type Kernel<'attr> = Self;

    fn name(&self) -> &str {
        self.declared.name()
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CUDAExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        self.declared.inputs()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        self.declared.outputs()
    }

    fn create_kernel(&self, _: &KernelContext<'_>) -> ort::Result<Self> {
        Ok(self.clone())
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        self.declared.infer(context)
    }
}

/// Addresses of a block's inputs and outputs, and rows of the inputs; 0 for those that it has not.
struct Addresses {
    inputs: Vec<u64>,
    rows: Vec<i32>,
    outputs: Vec<u64>,
}

impl Addresses {
    fn input(&self, number: usize) -> u64 {
        self.inputs.get(number).copied().unwrap_or(0)
    }

    fn rows(&self, number: usize) -> i32 {
        self.rows.get(number).copied().unwrap_or(0)
    }

    fn output(&self, number: usize) -> u64 {
        self.outputs.get(number).copied().unwrap_or(0)
    }
}

impl Kernel for OnGpu {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let mut at = Addresses { inputs: Vec::new(), rows: Vec::new(), outputs: Vec::new() };
        for number in 0..self.declared.inputs.len() {
            let value = context.input(number)?.ok_or_else(|| ort::Error::new("an input is missing"))?;
            let tensor = value.downcast::<DynTensorValueType>()?;
            at.inputs.push(tensor.data_ptr() as u64);
            at.rows.push(tensor.shape().first().map_or(1, |&rows| rows as i32));
        }
        let open = match &self.block.work {
            Work::Stem(_) => at.rows(0),
            Work::Product { goal: Goal::Pooled, .. } => at.rows(2) / 4,
            _ => 0,
        };
        for (number, (_, shape)) in self.declared.outputs.iter().enumerate() {
            let value = context
                .output(number, signed(shape, open.into()))?
                .ok_or_else(|| ort::Error::new("an output is missing"))?;
            at.outputs.push(value.downcast::<DynTensorValueType>()?.data_ptr() as u64);
        }
        self.run(&at).map_err(|error| ort::Error::new(error.to_string()))
    }
}

impl OnGpu {
    fn run(&self, at: &Addresses) -> Result<(), DriverError> {
        match &self.block.work {
            Work::Weights(args) => {
                if let Some(side) = &self.side {
                    side.begin(&self.stream, at.input(2), at.input(1))?;
                }
                let args =
                    Weights { params: at.input(0), packed: at.output(0), turned: at.output(1), ..**args };
                self.launch(&args)
            }
            Work::Stem(args) => {
                // The stem's weights and bias are the first ones.
                let [pixels, weights] = [0, 1].map(|number| at.input(number));
                self.launch(&Stem { pixels, weights, out: at.output(0), count: at.rows(0), ..*args })
            }
            Work::StemGrad(args) => {
                let [pixels, out, d] = [0, 1, 2].map(|number| at.input(number));
                self.launch(&Stem { pixels, out, d, parts: at.output(0), ..*args })
            }
            Work::Product { args, goal, weights_at, bias_at, .. } => {
                let args = product(args, *goal, [*weights_at, *bias_at], at);
                self.launch_for(args.count as usize, &args)
            }
            Work::KernelGrad { args, .. } => {
                let [rows, index, slopes, parts] = [0, 1, 2, 3].map(|number| at.input(number));
                let [out, sums, sums_too] = [0, 1, 2].map(|number| at.output(number));
                let args = KernelGrad { rows, index, slopes, out, parts, sums, sums_too, ..*args };
                self.launch(&args)
            }
            Work::CellGrad(args) => {
                let [d, choice, index, first] = [0, 1, 2, 3].map(|number| at.input(number));
                let args =
                    CellGrad { d, choice, index, first, out: at.output(0), parts: at.output(1), ..*args };
                self.launch(&args)
            }
            Work::PlaceGrad(args) => {
                let [d, found, places] = [0, 1, 2].map(|number| at.input(number));
                let args = PlaceGrad { d, found, places, out: at.output(0), parts: at.output(1), ..*args };
                self.launch(&args)
            }
            Work::Head(args) => self.launch(&head(args, at)),
            Work::Logits(args) => {
                let [parts, params] = [0, 1].map(|number| at.input(number));
                self.launch(&Head { parts, params, logits: at.output(0), ..**args })
            }
            Work::Gradient { args, places } => {
                if let Some(side) = &self.side {
                    side.end(&self.stream)?;
                }
                self.launch(&gradient(args, places, at))
            }
        }
    }

    fn launch<A: DeviceRepr>(&self, args: &A) -> Result<(), DriverError> {
        self.launch_on(self.block.grid, args)
    }

    /// The same for a product of so many rows.
    fn launch_for<A: DeviceRepr>(&self, rows: usize, args: &A) -> Result<(), DriverError> {
        let [_, y, z] = self.block.grid;
        self.launch_on([rows.div_ceil(BLOCK_ROWS), y, z], args)
    }

    fn launch_on<A: DeviceRepr>(&self, grid: [usize; 3], args: &A) -> Result<(), DriverError> {
        let work = &self.block.work;
        let config = LaunchConfig {
            grid_dim: grid.map(|blocks| blocks as u32).into(),
            block_dim: (work.threads() as u32, 1, 1),
            shared_mem_bytes: work.shared_bytes() as u32,
        };
        let mut kernel = self.stream.launch_builder(&self.function);
        kernel.arg(args);
        // SAFETY: the kernel takes this struct; shapes are those that the block was made for.
        unsafe { kernel.launch(config).map(drop) }
    }
}

fn product(args: &Product, goal: Goal, [weights_at, bias_at]: [usize; 2], at: &Addresses) -> Product {
    let pooled = goal == Goal::Pooled;
    Product {
        rows: at.input(0),
        weights: at.input(1) + weights_at as u64,
        index: at.input(2),
        further: if pooled { 0 } else { at.input(3) },
        bias: if pooled { at.input(3) + bias_at as u64 } else { 0 },
        out: at.output(0),
        parts: at.output(0),
        choice: at.output(1),
        limit: at.rows(0),
        count: if pooled { at.rows(2) } else { args.count },
        ..*args
    }
}

fn head(args: &Head, at: &Addresses) -> Head {
    Head {
        parts: at.input(0),
        params: at.input(1),
        turned: at.input(2),
        labels: at.input(3),
        weights: at.input(4),
        count: at.input(5),
        step: at.input(6),
        scale: at.input(7),
        hidden: at.output(0),
        slopes: at.output(1),
        first: at.output(2),
        rows: at.output(3),
        ..*args
    }
}

fn gradient(args: &Gradient, places: &[[usize; 2]], at: &Addresses) -> Gradient {
    let mut args = Gradient {
        step: at.input(0),
        batch: at.input(1),
        sums: at.input(2),
        rows: at.input(3),
        scale: if at.outputs.len() > 4 { at.input(4) } else { 0 },
        out: at.output(0),
        step_next: at.output(1),
        batch_next: at.output(2),
        sums_next: at.output(3),
        scale_next: at.output(4),
        ..*args
    };
    for (part, &[from, with]) in args.parts.iter_mut().zip(places) {
        part.from = at.input(part.from as usize) + 4 * from as u64;
        part.with = at.input(part.with as usize) + 4 * with as u64;
    }
    args
}
