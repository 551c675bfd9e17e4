//! Blocks of our own as operators of ONNX Runtime's CUDA provider: one operator for each block of a graph.

#![expect(unsafe_code, reason = "kernels of our own are launched by address")]

use std::collections::BTreeMap;
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
use super::gpu::Side;
use crate::blocks::args::{CellGrad, Goal, Gradient, Head, KernelGrad, PlaceGrad, Product, Stem, Weights};
use crate::blocks::{Block, Work, head_bytes};
use crate::graph::lower::operator_name;
use crate::graph::{Graph, Id, Op};

/// Shared memory that a block of threads may ask for; without a word it gets half of it.
const MOST_SHARED: i32 = 100 * 1024;
/// Threads of a block, for most kernels.
const THREADS: u32 = 256;
/// Threads of a block of `head`.
const HEAD_THREADS: u32 = 512;

/// Plain numbers in C's layout.
macro_rules! told {
    ($($name:ty),+) => {
        $(
            // SAFETY: plain numbers in C's layout, as `blocks.cu` has them.
            unsafe impl DeviceRepr for $name {}
        )+
    };
}
told!(Weights, Stem, Product, KernelGrad, CellGrad, PlaceGrad, Head, Gradient);

/// Add an operator for each block of a graph.
///
/// # Errors
/// What CUDA or ONNX Runtime say.
pub(super) fn add_to(
    mut domain: OperatorDomain,
    graph: &Graph,
    module: &Arc<CudaModule>,
    stream: &Arc<CudaStream>,
    side: &Arc<Side>,
) -> Result<OperatorDomain, Box<dyn std::error::Error + Send + Sync>> {
    let mut functions: BTreeMap<String, CudaFunction> = BTreeMap::new();
    for (at, node) in graph.nodes().iter().enumerate() {
        let Op::Block(block) = &node.op else { continue };
        let name = kernel_name(&block.work);
        if !functions.contains_key(&name) {
            let function = module.load_function(&name)?;
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, MOST_SHARED)?;
            functions.insert(name.clone(), function);
        }
        let operator = OnGpu {
            declared: Declared::new(graph, Id(at), block),
            block: Arc::new((**block).clone()),
            function: functions[&name].clone(),
            stream: stream.clone(),
            side: side.clone(),
        };
        domain = domain.add(operator)?;
    }
    Ok(domain)
}

fn kernel_name(work: &Work) -> String {
    match work {
        Work::Weights(_) => "pack_weights".into(),
        Work::Stem(_) => "stem".into(),
        Work::StemGrad(_) => "stem_grad".into(),
        Work::Product { goal, columns_of_block, .. } => {
            let goal = match goal {
                Goal::Pooled => "pooled",
                Goal::Rows => "rows",
                Goal::Parts => "parts",
            };
            format!("product_{goal}_{columns_of_block}")
        }
        Work::KernelGrad { size, .. } => format!("kernel_grad_{size}"),
        Work::CellGrad(_) => "cell_grad".into(),
        Work::PlaceGrad(_) => "place_grad".into(),
        Work::Head(_) => "head".into(),
        Work::Gradient { .. } => "gradient".into(),
    }
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
            context.set_output(number, &tensor_type(*kind, &signed(shape)))?;
        }
        Ok(())
    }
}

fn signed(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&length| length as i64).collect()
}

/// A block's operator.
#[derive(Clone)]
struct OnGpu {
    declared: Declared,
    block: Arc<Block>,
    function: CudaFunction,
    stream: Arc<CudaStream>,
    side: Arc<Side>,
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

/// Addresses of a block's inputs and outputs; 0 for those that it has not.
struct Addresses {
    inputs: Vec<u64>,
    outputs: Vec<u64>,
    element: u64,
}

impl Addresses {
    fn input(&self, number: usize) -> u64 {
        self.inputs.get(number).copied().unwrap_or(0)
    }

    fn output(&self, number: usize) -> u64 {
        self.outputs.get(number).copied().unwrap_or(0)
    }
}

impl Kernel for OnGpu {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let mut inputs = Vec::with_capacity(self.declared.inputs.len());
        for number in 0..self.declared.inputs.len() {
            let value = context.input(number)?.ok_or_else(|| ort::Error::new("an input is missing"))?;
            inputs.push(value.downcast::<DynTensorValueType>()?.data_ptr() as u64);
        }
        let mut outputs = Vec::with_capacity(self.declared.outputs.len());
        for (number, (_, shape)) in self.declared.outputs.iter().enumerate() {
            let value = context
                .output(number, signed(shape))?
                .ok_or_else(|| ort::Error::new("an output is missing"))?;
            outputs.push(value.downcast::<DynTensorValueType>()?.data_ptr() as u64);
        }
        // Packed weights are halves or floats, as all that products read.
        let halves = self.declared.inputs.iter().chain(self.declared.outputs.iter().map(|(kind, _)| kind));
        let element = if halves.into_iter().any(|&kind| kind == DataType::F16) { 2 } else { 4 };
        let addresses = Addresses { inputs, outputs, element };
        self.run(&addresses).map_err(|error| ort::Error::new(error.to_string()))
    }
}

impl OnGpu {
    fn run(&self, at: &Addresses) -> Result<(), DriverError> {
        match &self.block.work {
            Work::Weights(args) => {
                self.side.begin(&self.stream, at.input(2), at.input(1))?;
                let args =
                    Weights { params: at.input(0), packed: at.output(0), turned: at.output(1), ..**args };
                self.launch(&args, THREADS, 0)
            }
            Work::Stem(args) => {
                // The stem's weights and bias are the first ones.
                let args = Stem { pixels: at.input(0), weights: at.input(1), out: at.output(0), ..*args };
                self.launch(&args, THREADS, 0)
            }
            Work::StemGrad(args) => {
                let [pixels, out, d] = [0, 1, 2].map(|number| at.input(number));
                self.launch(&Stem { pixels, out, d, parts: at.output(0), ..*args }, THREADS, 0)
            }
            Work::Product { columns_of_block, .. } => {
                // STAGES times BLOCK_ROWS + BN rows of STEP chunks.
                self.launch(&self.product(at), THREADS, 4 * (128 + columns_of_block) * 4 * 16)
            }
            Work::KernelGrad { args, size } => {
                let [rows, index, slopes, parts] = [0, 1, 2, 3].map(|number| at.input(number));
                let [out, sums, sums_too] = [0, 1, 2].map(|number| at.output(number));
                let args = KernelGrad { rows, index, slopes, out, parts, sums, sums_too, ..*args };
                // GRAD_STAGES of two tiles of GRAD_ROWS rows.
                let threads = if *size >= 128 { THREADS } else { THREADS / 2 };
                self.launch(&args, threads, 3 * 2 * 32 * size * at.element as usize)
            }
            Work::CellGrad(args) => {
                let [d, choice, index, first] = [0, 1, 2, 3].map(|number| at.input(number));
                let args =
                    CellGrad { d, choice, index, first, out: at.output(0), parts: at.output(1), ..*args };
                self.launch(&args, THREADS, 0)
            }
            Work::PlaceGrad(args) => {
                let [d, found, places] = [0, 1, 2].map(|number| at.input(number));
                let args = PlaceGrad { d, found, places, out: at.output(0), parts: at.output(1), ..*args };
                self.launch(&args, THREADS, 0)
            }
            Work::Head(args) => self.launch(&head(args, at), HEAD_THREADS, head_bytes(args.columns as usize)),
            Work::Gradient { args, places } => {
                self.side.end(&self.stream)?;
                self.launch(&gradient(args, places, at), THREADS, 0)
            }
        }
    }

    fn product(&self, at: &Addresses) -> Product {
        let Work::Product { args, goal, weights_at, bias_at, .. } = &self.block.work else {
            unreachable!("asked of products only")
        };
        let pooled = *goal == Goal::Pooled;
        Product {
            rows: at.input(0),
            weights: at.input(1) + *weights_at as u64 * at.element,
            index: at.input(2),
            further: if pooled { 0 } else { at.input(3) },
            bias: if pooled { at.input(3) + 4 * *bias_at as u64 } else { 0 },
            out: at.output(0),
            parts: at.output(0),
            choice: at.output(1),
            ..*args
        }
    }

    fn launch<A: DeviceRepr>(&self, args: &A, threads: u32, shared: usize) -> Result<(), DriverError> {
        let [x, y, z] = self.block.grid.map(|blocks| blocks as u32);
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (threads, 1, 1), shared_mem_bytes: shared as u32 };
        let mut kernel = self.stream.launch_builder(&self.function);
        kernel.arg(args);
        // SAFETY: the kernel takes this struct; shapes are those that the block was made for.
        unsafe { kernel.launch(config).map(drop) }
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
