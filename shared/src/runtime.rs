//! ONNX Runtime start-up: where the library is found, which device is used, how a session is opened.

mod placement;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::{ArbitrarilyConfigurableExecutionProvider, CUDA};
use ort::session::Session;
use ort::session::builder::SessionBuilder;

pub use placement::{NodeList, PlacedNode, nodes};

/// Version of ONNX Runtime that set-up fetches.
pub const VERSION: &str = "1.31.1";

/// Name of the library in every place where it is looked for.
const LIBRARY: &str = "libonnxruntime.so";

/// A device that the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if the library and the machine have CUDA, else the CPU
    Auto,
    /// This device or an error
    Fixed(Device),
}

/// A device that runs a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The processor
    Cpu,
    /// A CUDA GPU by its number
    Cuda(u32),
}

/// What is done about nodes that are computed on the CPU although a GPU was asked for.
///
/// Nodes that only handle shapes and constants belong there, and never count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCpu {
    /// An error names them
    Refused,
    /// A warning names them
    Warned,
    /// Nothing
    Ignored,
}

/// How a session is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it runs
    pub device: Device,
    /// Threads of one operator on the CPU; 0 leaves the choice to ONNX Runtime
    pub threads: usize,
    /// Whether CUDA may round f32 products to tf32
    pub tf32: bool,
    /// Whether CUDA captures the graph at its first runs and replays it later
    pub cuda_graph: bool,
    /// The CUDA stream to use, as its address; it must outlive the session. ONNX Runtime's own if none
    pub stream: Option<usize>,
    /// What is done about nodes on the CPU beside a GPU
    pub on_cpu: OnCpu,
    /// Whether what only depends on constants is computed when the session opens; on the CPU it always is
    pub fold_constants: bool,
}

impl Settings {
    /// A session on `device` with full f32 products, all of it there.
    pub fn new(device: Device, threads: usize) -> Self {
        Self {
            device,
            threads,
            tf32: false,
            cuda_graph: false,
            stream: None,
            on_cpu: OnCpu::Refused,
            fold_constants: false,
        }
    }

    /// Threads of the program's own: as many as cores, if the number was left open.
    pub fn threads_or_all(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// ONNX Runtime can't be had, or a session can't be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum RuntimeError {
    #[error(
        "no ONNX Runtime library found; run `scripts/setup.sh` (or `scripts/setup.sh --gpu`) in the project's folder, or set ORT_DYLIB_PATH; looked at: {looked_at}"
    )]
    NoLibrary { looked_at: String },
    #[error("ORT_DYLIB_PATH names `{}`, which is no file; correct or unset it", path.display())]
    WrongVariable { path: PathBuf },
    #[error("can't load ONNX Runtime from `{}`; it must be version {VERSION} or newer of the 1.x series", path.display())]
    Load {
        path: PathBuf,
        #[source]
        source: ort::LoadDynamicError,
    },
    #[error(
        "device {device} asked for, but `{}` beside the library is missing; run `scripts/setup.sh --gpu`, or use `--device cpu`",
        path.display()
    )]
    NoCudaProvider { device: Device, path: PathBuf },
    #[error("can't open a session on {device}")]
    Session {
        device: Device,
        #[source]
        source: ort::Error,
    },
    #[error(
        "{device} was asked for, but ONNX Runtime computes on the CPU: {nodes}; its CUDA provider lacks these operators for their types, so use others, or `--device cpu`"
    )]
    OnCpu { device: Device, nodes: NodeList },
    #[error("can't start ONNX Runtime")]
    Start(#[source] ort::Error),
}

/// What `--device` may not be.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no device; give auto, cpu, cuda or cuda:N")]
pub struct NoDevice(String);

impl FromStr for DeviceChoice {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        let number = |n: &str| n.parse().map_err(|_| NoDevice(text.to_owned()));
        Ok(match text.split_once(':') {
            None if text == "auto" => Self::Auto,
            None if text == "cpu" => Self::Fixed(Device::Cpu),
            None if text == "cuda" => Self::Fixed(Device::Cuda(0)),
            Some(("cuda", n)) => Self::Fixed(Device::Cuda(number(n)?)),
            _ => return Err(NoDevice(text.to_owned())),
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// The device to use; `auto` logs what it chose and why.
    ///
    /// # Errors
    /// [`RuntimeError`] if the library is missing.
    pub fn resolve(self) -> Result<Device, RuntimeError> {
        let Self::Auto = self else {
            let Self::Fixed(device) = self else { unreachable!("there are two variants") };
            return Ok(device);
        };
        let provider = cuda_provider(&library()?);
        let driver = Path::new("/dev/nvidiactl").exists();
        let (device, why) = match (provider.is_file(), driver) {
            (true, true) => (Device::Cuda(0), "the library has CUDA and this machine a GPU".to_owned()),
            (true, false) => (Device::Cpu, "this machine has no NVIDIA driver".to_owned()),
            (false, true) => (
                Device::Cpu,
                format!(
                    "there is a GPU, but `{}` is missing: `scripts/setup.sh --gpu` fetches it",
                    provider.display()
                ),
            ),
            (false, false) => (Device::Cpu, "this machine has no GPU".to_owned()),
        };
        tracing::info!("device auto: {device}, since {why}");
        Ok(device)
    }
}

/// Open a model.
///
/// # Errors
/// [`RuntimeError`]; never a silent fall-back from the GPU to the CPU.
pub fn session(model: &[u8], settings: &Settings) -> Result<Session, RuntimeError> {
    session_with(model, settings, Ok)
}

/// [`session`] for a model whose inputs have other shapes at every run: plans of its memory would never be used again.
///
/// # Errors
/// [`RuntimeError`]
pub fn open_session(model: &[u8], settings: &Settings) -> Result<Session, RuntimeError> {
    session_with(model, settings, |builder| Ok(builder.with_memory_pattern(false)?))
}

/// [`session`] with more options.
///
/// # Errors
/// [`RuntimeError`]
pub fn session_with(
    model: &[u8],
    settings: &Settings,
    more: impl Fn(SessionBuilder) -> ort::Result<SessionBuilder>,
) -> Result<Session, RuntimeError> {
    let device = settings.device;
    let open = |settings: &Settings| {
        let opened = more(builder(settings)?).and_then(|mut builder| builder.commit_from_memory(model));
        opened.map_err(|source| RuntimeError::Session { device, source })
    };
    let opened = open(settings);
    if opened.is_err() && settings.cuda_graph {
        // A node on the CPU keeps ONNX Runtime from capturing; the same session without that tells which.
        let plain = Settings { cuda_graph: false, ..settings.clone() };
        check_nodes(&open(&plain).or(opened)?, model, &plain)?;
        return open(settings);
    }
    let session = opened?;
    check_nodes(&session, model, settings)?;
    Ok(session)
}

/// Look where the nodes of a session are computed that was opened with these settings, as [`Settings::on_cpu`] says.
///
/// - `model`: the bytes of the model, for what its nodes read
///
/// # Errors
/// [`RuntimeError::OnCpu`]
pub fn check_nodes(session: &Session, model: &[u8], settings: &Settings) -> Result<(), RuntimeError> {
    let device = settings.device;
    if device == Device::Cpu || settings.on_cpu == OnCpu::Ignored {
        return Ok(());
    }
    let all = nodes(session).map_err(|source| RuntimeError::Session { device, source })?;
    let number = all.len();
    let on_cpu: Vec<_> = all.into_iter().filter(|node| node.provider == placement::CPU).collect();
    tracing::debug!(
        "{} of {number} nodes are computed on the CPU: {}",
        on_cpu.len(),
        NodeList(on_cpu.clone())
    );
    let nodes = NodeList(placement::with_data(model, on_cpu));
    if nodes.0.is_empty() {
        return Ok(());
    }
    if settings.on_cpu == OnCpu::Refused {
        return Err(RuntimeError::OnCpu { device, nodes });
    }
    tracing::warn!(
        "{} of {number} nodes of the model are computed on the CPU, not on {device}, and what they read and write is copied: {nodes}",
        nodes.0.len()
    );
    Ok(())
}

/// A session builder with the device and threads set, for callers that set more.
///
/// # Errors
/// [`RuntimeError`]
pub fn builder(settings: &Settings) -> Result<SessionBuilder, RuntimeError> {
    let environment = environment()?;
    let device = settings.device;
    let attempt = || -> ort::Result<SessionBuilder> {
        let mut builder = Session::builder(&environment)?.with_intra_threads(settings.threads)?;
        if let Device::Cuda(number) = device {
            let number = i32::try_from(number).unwrap_or(i32::MAX);
            let mut cuda = CUDA::default()
                .with_device_id(number)
                .with_tf32(settings.tf32)
                .with_cuda_graph(settings.cuda_graph)
                .with_arbitrary_config("cudnn_conv_algo_search", "EXHAUSTIVE");
            if let Some(stream) = settings.stream {
                cuda = cuda
                    .with_arbitrary_config("has_user_compute_stream", "1")
                    .with_arbitrary_config("user_compute_stream", stream.to_string());
            }
            builder = builder.with_execution_providers([cuda.build().error_on_failure()])?;
            if !settings.fold_constants {
                // Zeros as large as a feature map are filled in when they are needed, not kept as a constant.
                builder = builder.with_disabled_optimizers("ConstantFolding")?;
            }
            if settings.on_cpu != OnCpu::Ignored {
                builder = builder.with_config_entry(placement::RECORD, "1")?;
            }
        }
        Ok(builder)
    };
    if let Device::Cuda(_) = device {
        let path = cuda_provider(&library()?);
        if !path.is_file() {
            return Err(RuntimeError::NoCudaProvider { device, path });
        }
    }
    attempt().map_err(|source| RuntimeError::Session { device, source })
}

/// Start ONNX Runtime, which tensors need before there is a session.
///
/// # Errors
/// [`RuntimeError`]
pub fn start() -> Result<(), RuntimeError> {
    environment().map(drop)
}

/// The one environment of this process, started at the first call.
fn environment() -> Result<Environment, RuntimeError> {
    static STARTED: Mutex<Option<Environment>> = Mutex::new(None);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = started.as_ref() {
        return Ok(environment.clone());
    }
    let path = library()?;
    let environment = ort::init_from(&path)
        .map_err(|source| RuntimeError::Load { path: path.clone(), source })?
        .with_name("mt-identifier")
        .with_telemetry(false)
        .build()
        .map_err(RuntimeError::Start)?;
    tracing::debug!("ONNX Runtime from {}", path.display());
    *started = Some(environment.clone());
    Ok(environment)
}

/// The library: `ORT_DYLIB_PATH`, then the project's cache, then an active Python environment.
///
/// # Errors
/// [`RuntimeError::NoLibrary`], [`RuntimeError::WrongVariable`]
pub fn library() -> Result<PathBuf, RuntimeError> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()).map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { Err(RuntimeError::WrongVariable { path }) };
    }
    let candidates: Vec<PathBuf> = cached().into_iter().chain(in_python()).collect();
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| RuntimeError::NoLibrary {
        looked_at: candidates.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
    })
}

/// Places below every folder above the program and above the working folder; a GPU build comes first.
fn cached() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let here = std::env::current_dir().ok();
    let mut found = Vec::new();
    for start in [program, here].into_iter().flatten() {
        for folder in start.ancestors() {
            let cache = folder.join(".cache/onnxruntime");
            // A tarball has the library beside the programs.
            found.push(folder.join("lib").join(LIBRARY));
            for flavour in ["gpu", "cpu"] {
                found.push(cache.join(format!("{VERSION}-{flavour}")).join(LIBRARY));
            }
        }
    }
    let existing: Vec<PathBuf> = found.iter().filter(|path| path.is_file()).cloned().collect();
    if existing.is_empty() { found.into_iter().take(3).collect() } else { existing }
}

/// Libraries of an active virtual or Conda environment.
fn in_python() -> Vec<PathBuf> {
    let roots = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os);
    let mut found = Vec::new();
    for root in roots {
        let Ok(versions) = std::fs::read_dir(Path::new(&root).join("lib")) else { continue };
        for version in versions.flatten() {
            let capi = version.path().join("site-packages/onnxruntime/capi");
            found.push(capi.join(format!("{LIBRARY}.{VERSION}")));
        }
    }
    found
}

fn cuda_provider(library: &Path) -> PathBuf {
    library.with_file_name("libonnxruntime_providers_cuda.so")
}
