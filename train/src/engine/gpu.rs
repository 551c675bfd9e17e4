//! The data set on a GPU, and the kernels that put the tables of a batch together there.

#![expect(unsafe_code, reason = "kernels of our own are launched by address")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, DriverError, LaunchConfig,
    PushKernelArg,
};
use cudarc::nvrtc::{self, CompileError, CompileOptions, Ptx};
use ort::operator::OperatorDomain;
use ort::value::Tensor;
use shared::network::Layers;
use shared::runtime::Device;

use super::EngineError;
use super::feed::Epoch;
use super::upload::Uploader;
use super::{blocks, fused, kernels};
use crate::args::Precision;
use crate::blocks::{MOST_MAPS, TABLE_WORDS};
use crate::graph::Graph;
use crate::memory::Memory;
use crate::scale;

/// Blocks that fill the rows past a batch's sites.
const FILLING_BLOCKS: u32 = 32;

/// A GPU that can't be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum GpuError {
    #[error("CUDA failed to {doing}")]
    Driver {
        doing: &'static str,
        #[source]
        source: DriverError,
    },
    #[error(
        "`{library}` was not found, which training on a GPU needs; add its folder to LD_LIBRARY_PATH, or fetch it with `scripts/setup.sh --gpu --with-cuda`"
    )]
    NoLibrary { library: &'static str },
    #[error("NVRTC can't compile the kernels")]
    Compile(#[from] CompileError),
    #[error("ONNX Runtime does not take our operators")]
    Operators(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{conv_layers} conv layers are more than the GPU's kernels are made for; use at most {most}")]
    Layers { conv_layers: usize, most: usize },
}

pub(super) fn failed(doing: &'static str) -> impl Fn(DriverError) -> GpuError {
    move |source| GpuError::Driver { doing, source }
}

/// One stage of `pack.cu`'s `Stage`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct StagePointers {
    taps: u64,
    readers: u64,
    taps_out: u64,
    readers_out: u64,
    quiet_out: u64,
}

/// `pack.cu`'s `Data`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Pointers {
    maps: i32,
    kernel: i32,
    batch: i32,
    rows: i32,
    positions: i32,
    begin: i32,
    pixels: u64,
    places: u64,
    labels: u64,
    order: u64,
    starts: [u64; MOST_MAPS],
    stages: [StagePointers; MOST_MAPS - 1],
    capacity: [i32; MOST_MAPS],
    firsts: u64,
    images: u64,
    pixels_out: u64,
    places_out: u64,
    found_out: u64,
    absent_out: u64,
    labels_out: u64,
    weights_out: u64,
    count_out: u64,
}

const _: () = assert!(size_of::<Pointers>() == 8 * TABLE_WORDS);

impl Pointers {
    /// As the words of a tensor.
    fn words(&self) -> &[i64] {
        // SAFETY: plain numbers in C's layout, without padding, of this size and alignment.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), TABLE_WORDS) }
    }
}

/// A stage's tables.
pub(super) struct StageTables {
    pub taps: Tensor<i32>,
    pub readers: Tensor<i32>,
    /// Unless the step is made of blocks
    pub quiet: Option<Tensor<f32>>,
}

/// Where a step reads its tables: tensors of fixed shape that the kernels fill.
pub(super) struct Tables {
    /// Rows of each map
    pub capacity: Vec<usize>,
    pub pixels: Tensor<f32>,
    pub stages: Vec<StageTables>,
    pub places: Tensor<i32>,
    pub found: Tensor<i32>,
    /// Unless the step is made of blocks
    pub absent: Option<Tensor<f32>>,
    pub labels: Tensor<f32>,
    pub weights: Tensor<f32>,
    pub count: Tensor<f32>,
    /// Where all of these lie, and the data that they are made from: a [`Pointers`]
    pub pointers: Tensor<i64>,
}

/// Scratch memory of one of the two directions of a step.
struct Lane {
    firsts: CudaSlice<i32>,
    images: CudaSlice<i32>,
}

/// A GPU with the kernels that put batches together.
pub(super) struct Gpu {
    number: u32,
    /// Where ONNX Runtime works
    stream: Arc<CudaStream>,
    /// Puts the next batch together beside a step of blocks
    side: Arc<Side>,
    /// Marks the end of what was queued
    end: CudaEvent,
    module: Arc<CudaModule>,
    lanes: [Lane; 2],
    choose: CudaFunction,
    /// Where rows are put
    copies: Arc<CudaStream>,
}

/// Free bytes of GPU `number`.
///
/// # Errors
/// [`GpuError`]
pub fn free_memory(number: usize) -> Result<usize, GpuError> {
    libraries()?;
    let context = CudaContext::new(number).map_err(failed("open the GPU"))?;
    Ok(context.mem_get_info().map_err(failed("ask for the GPU's free memory"))?.0)
}

/// Why the blocks can't compute a network on GPU `number`; they can for `None`.
///
/// # Errors
/// [`GpuError`]
pub(super) fn uncovered(number: usize, layers: &Layers, kernel: usize) -> Result<Option<String>, GpuError> {
    libraries()?;
    let context = CudaContext::new(number).map_err(failed("open the GPU"))?;
    let (major, minor) = context.compute_capability().map_err(failed("ask for the GPU's architecture"))?;
    // Before, tensor cores have no tf32, and no copies past the registers.
    if major < 8 {
        return Ok(Some(format!("the GPU's compute capability is {major}.{minor}, below 8.0")));
    }
    Ok(crate::blocks::uncovered(layers, kernel))
}

/// Look for the libraries before they are used: where one is missing `cudarc` would panic.
fn libraries() -> Result<(), GpuError> {
    // SAFETY: both only try to open a library.
    let (driver, nvrtc) =
        unsafe { (cudarc::driver::sys::is_culib_present(), cudarc::nvrtc::sys::is_culib_present()) };
    match (driver, nvrtc) {
        (true, true) => Ok(()),
        (false, _) => Err(GpuError::NoLibrary { library: "libcuda.so.1" }),
        (true, false) => Err(GpuError::NoLibrary { library: "libnvrtc.so.13" }),
    }
}

/// The kernels for an architecture and a precision, compiled once on a machine (see [`kernels`]).
fn compiled(architecture: &str, precision: Precision) -> Result<Ptx, GpuError> {
    static DONE: Mutex<BTreeMap<(String, &str), Ptx>> = Mutex::new(BTreeMap::new());
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (architecture.to_owned(), precision.name());
    if let Some(image) = done.get(&key) {
        return Ok(image.clone());
    }
    let image = Ptx::from_src(code(architecture, precision, kernels::folder().as_deref())?);
    done.insert(key, image.clone());
    Ok(image)
}

/// The kernels in PTX, kept in a folder if there is one.
fn code(architecture: &str, precision: Precision, folder: Option<&Path>) -> Result<String, CompileError> {
    let words = vec![
        format!("--gpu-architecture={architecture}"),
        format!("--define-macro=LOSS_SCALE_MOST={:.1}f", scale::MOST),
        format!("--define-macro=LOSS_SCALE_PATIENCE={:.1}f", scale::PATIENCE),
        format!("--define-macro=PRECISION={}", precision as u8),
    ];
    let source = concat!(
        include_str!("cuda/pack.cu"),
        include_str!("cuda/fused.cu"),
        include_str!("cuda/tensor_cores.cu"),
        include_str!("cuda/product.cu"),
        include_str!("cuda/kernel_grad.cu"),
        include_str!("cuda/rows.cu"),
        include_str!("cuda/weights.cu"),
        include_str!("cuda/head.cu"),
        include_str!("cuda/gradient.cu"),
    );
    let made_from = format!("NVRTC {} {words:?}\n{source}", compiler());
    let options = CompileOptions { options: words, ..Default::default() };
    kernels::cached(folder, &format!("kernels-{architecture}-{}", precision.name()), &made_from, || {
        nvrtc::compile_ptx_with_opts(source, options).map(|image| image.to_src())
    })
}

/// Version of NVRTC: a newer one's code may be too new for the driver of another machine with the same home.
fn compiler() -> String {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are written before the call returns.
    let outcome = unsafe { nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    format!("{major}.{minor} {outcome:?}")
}

/// The address of a slice on the device.
fn address<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    use cudarc::driver::DevicePtr;
    slice.device_ptr(stream).0
}

/// A GPU with the kernels for a precision.
pub(super) struct Opened {
    pub context: Arc<CudaContext>,
    pub module: Arc<CudaModule>,
}

impl Opened {
    pub fn new(number: usize, precision: Precision) -> Result<Self, GpuError> {
        libraries()?;
        let context = CudaContext::new(number).map_err(failed("open the GPU"))?;
        // SAFETY: what several streams use is guarded by the events of `Side`, or by `wait`.
        unsafe { context.disable_event_tracking() };
        let (major, minor) =
            context.compute_capability().map_err(failed("ask for the GPU's architecture"))?;
        let begin = Instant::now();
        let image = compiled(&format!("sm_{major}{minor}"), precision)?;
        tracing::debug!("kernels there after {:.2?}", begin.elapsed());
        let module = context.load_module(image).map_err(failed("load the kernels"))?;
        Ok(Self { context, module })
    }
}

impl Gpu {
    /// Open GPU `number` and compile the kernels for it, for networks of `maps` maps and batches of `batch` rows.
    ///
    /// # Errors
    /// [`GpuError`]
    pub fn new(number: usize, maps: usize, batch: usize, precision: Precision) -> Result<Self, GpuError> {
        if maps > MOST_MAPS {
            return Err(GpuError::Layers { conv_layers: maps - 1, most: MOST_MAPS - 1 });
        }
        let Opened { context, module } = Opened::new(number, precision)?;
        let function = |name| module.load_function(name).map_err(failed("find a kernel"));
        let open = || context.new_stream().map_err(failed("open a stream"));
        let (stream, beside, copies) = (open()?, open()?, open()?);
        let lane = || -> Result<Lane, DriverError> {
            Ok(Lane { firsts: stream.alloc_zeros(maps * (batch + 1))?, images: stream.alloc_zeros(batch)? })
        };
        let lane = || lane().map_err(failed("allocate on the GPU"));
        let event = || context.new_event(None).map_err(failed("make an event"));
        let side = Side {
            stream: beside,
            fork: event()?,
            join: event()?,
            choose_next: function("choose_next")?,
            pack: function("pack")?,
            batch: batch as u32,
        };
        Ok(Self {
            number: number as u32,
            lanes: [lane()?, lane()?],
            choose: function("choose")?,
            stream,
            end: event()?,
            side: Arc::new(side),
            copies,
            module,
        })
    }

    /// What puts rows on this GPU.
    pub fn uploader(&self) -> Uploader {
        Uploader { stream: self.copies.clone(), device: Device::Cuda(self.number) }
    }

    /// Our own operators and the blocks of a graph, which run on [`Self::stream`].
    ///
    /// # Errors
    /// [`GpuError::Operators`]
    pub fn operators(&self, graph: &Graph) -> Result<Arc<OperatorDomain>, GpuError> {
        let domain = fused::domain(&self.module, &self.stream).map_err(GpuError::Operators)?;
        blocks::operators(domain, graph, &self.module, &self.stream, Some(&self.side))
    }

    /// Why the blocks can't compute a network here; they can for `None`.
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn uncovered(&self, layers: &Layers, kernel: usize) -> Result<Option<String>, GpuError> {
        uncovered(self.number as usize, layers, kernel)
    }

    /// The stream of all work, for ONNX Runtime.
    pub fn stream(&self) -> *mut () {
        self.stream.cu_stream().cast()
    }

    /// Wait until everything is done.
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn wait(&self) -> Result<(), GpuError> {
        self.stream.synchronize().map_err(failed("wait for the GPU"))
    }

    /// Mark the end of what is queued, for [`Self::is_done`].
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn mark(&self) -> Result<(), GpuError> {
        self.end.record(&self.stream).map_err(failed("wait for the GPU"))
    }

    /// Whether everything up to the mark is done.
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn is_done(&self) -> Result<bool, GpuError> {
        let bound = self.stream.context().bind_to_thread();
        bound.and_then(|()| self.end.try_is_complete()).map_err(failed("wait for the GPU"))
    }

    /// Write the tables of the steps of direction `lane` into these tensors.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn set_tables(
        &self,
        lane: usize,
        tables: &mut Tables,
        epoch: &Epoch,
        memory: &Memory,
    ) -> Result<(), EngineError> {
        let (geometry, stream) = (epoch.part.tables.sites.geometry(), &self.stream);
        let on_gpu = "parts of a GPU's training are on it";
        let data = epoch.part.tables.on_gpu.as_ref().expect(on_gpu);
        let order = epoch.part.order.as_ref().expect(on_gpu);
        let at = |pointer: *const std::ffi::c_void| pointer as u64;
        let mut pointers = Pointers {
            maps: tables.capacity.len() as i32,
            kernel: geometry.kernel() as i32,
            batch: epoch.batch_rows as i32,
            rows: data.rows as i32,
            positions: geometry.positions() as i32,
            begin: epoch.begin() as i32,
            pixels: address(&data.pixels, stream),
            places: address(&data.places, stream),
            labels: address(&data.labels, stream),
            order: address(order, stream),
            firsts: address(&self.lanes[lane].firsts, stream),
            images: address(&self.lanes[lane].images, stream),
            pixels_out: at(tables.pixels.data_ptr()),
            places_out: at(tables.places.data_ptr()),
            found_out: at(tables.found.data_ptr()),
            absent_out: tables.absent.as_ref().map_or(0, |absent| at(absent.data_ptr())),
            labels_out: at(tables.labels.data_ptr()),
            weights_out: at(tables.weights.data_ptr()),
            count_out: at(tables.count.data_ptr()),
            ..Pointers::default()
        };
        for (map, starts) in data.starts.iter().enumerate() {
            pointers.starts[map] = address(starts, stream);
            pointers.capacity[map] = tables.capacity[map] as i32;
        }
        for (number, StageTables { taps, readers, quiet }) in tables.stages.iter().enumerate() {
            pointers.stages[number] = StagePointers {
                taps: address(&data.taps[number], stream),
                readers: address(&data.readers[number], stream),
                taps_out: at(taps.data_ptr()),
                readers_out: at(readers.data_ptr()),
                quiet_out: quiet.as_ref().map_or(0, |quiet| at(quiet.data_ptr())),
            };
        }
        memory.fill(&mut tables.pointers, pointers.words()).map_err(super::failed("set up the kernels"))
    }

    /// Queue the kernels that write these tables for the batch from position `first` of the part on.
    ///
    /// # Errors
    /// [`GpuError::Driver`]
    pub fn pack(&self, tables: &Tables, first: usize) -> Result<(), GpuError> {
        let (pointers, first) = (tables.pointers.data_ptr() as u64, first as i32);
        let launch = || -> Result<(), DriverError> {
            let mut choose = self.stream.launch_builder(&self.choose);
            // SAFETY: the arguments are those of `choose` in pack.cu; the capacity was checked for this epoch.
            unsafe { choose.arg(&pointers).arg(&first).launch(grid(1, 1024))? };
            self.side.pack(&self.stream, pointers)
        };
        launch().map_err(failed("start the kernels that put a batch together"))
    }
}

/// What puts the next step's batch together beside a step of blocks: a branch of the step's own graph.
pub(super) struct Side {
    stream: Arc<CudaStream>,
    fork: CudaEvent,
    join: CudaEvent,
    choose_next: CudaFunction,
    pack: CudaFunction,
    batch: u32,
}

impl Side {
    /// Begin, once all before on `main` is done: the tables at `pointers` are for the batch after the one whose number stands at
    /// `batch`.
    pub fn begin(&self, main: &CudaStream, pointers: u64, batch: u64) -> Result<(), DriverError> {
        self.fork.record(main)?;
        self.stream.wait(&self.fork)?;
        let mut choose = self.stream.launch_builder(&self.choose_next);
        // SAFETY: the arguments are those of `choose_next` in pack.cu; the capacity was checked for this epoch.
        unsafe { choose.arg(&pointers).arg(&batch).launch(grid(1, 1024))? };
        self.pack(&self.stream, pointers)?;
        self.join.record(&self.stream)
    }

    /// Let what comes on `main` wait for it.
    pub fn end(&self, main: &CudaStream) -> Result<(), DriverError> {
        main.wait(&self.join)
    }

    fn pack(&self, stream: &Arc<CudaStream>, pointers: u64) -> Result<(), DriverError> {
        let mut pack = stream.launch_builder(&self.pack);
        // SAFETY: the argument is that of `pack` in pack.cu, and `choose` or `choose_next` came before on this stream.
        unsafe { pack.arg(&pointers).launch(grid(self.batch + FILLING_BLOCKS, 128)).map(drop) }
    }
}

fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::lower::FUSED_OPERATORS;

    #[test]
    fn the_kernels_compile_for_each_architecture_once() {
        // SAFETY: it only tries to open a library.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            eprintln!("SKIPPED: no NVRTC here");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for (architecture, precision) in
            [("sm_80", Precision::F32), ("sm_90", Precision::Tf32), ("sm_90", Precision::Fp16)]
        {
            let compiled = code(architecture, precision, Some(folder.path())).unwrap();
            for kernel in FUSED_OPERATORS.iter().map(|what| what.kernel).chain([
                "choose",
                "choose_next",
                "pack",
                "head",
            ]) {
                assert!(compiled.contains(&format!(".entry {kernel}(")), "{architecture} has no `{kernel}`");
            }
            assert!(compiled.contains(&format!(".target {architecture}")));
            assert_eq!(code(architecture, precision, Some(folder.path())).unwrap(), compiled);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
