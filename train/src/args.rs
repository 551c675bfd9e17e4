//! Command line of `train`.

use std::path::PathBuf;

use bytesize::ByteSize;
use shared::cli::LogArgs;
use shared::runtime::DeviceChoice;

/// Train a trial, or the trials of a study until its budget is spent
///
/// Reads the training and validation splits of a folder that `prepare` made; writes `history.csv`,
/// `checkpoint.safetensors`, `model.onnx` and `result.json` into the trial's folder. A training that was
/// killed or stopped goes on from its last epoch when the same command is given again.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "train", version, group = clap::ArgGroup::new("what").required(true))]
pub struct Args {
    /// Folder of one trial, such as `study/trials/0007`
    #[arg(long, value_name = "DIR", group = "what")]
    pub trial: Option<PathBuf>,
    /// Folder of a study: ask for trials, train and tell until the budget is spent
    #[arg(long, value_name = "DIR", group = "what")]
    pub study: Option<PathBuf>,
    /// Folder with the splits, as `prepare` made it
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where to compute: auto, cpu, cuda or cuda:N
    ///
    /// `auto` takes the first GPU if there is one and says what it chose. There is never a silent fall-back
    /// from the GPU to the CPU.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Precision of products; by default f32 on the CPU and tf32 on CUDA
    ///
    /// Weights, loss and the optimiser are 32-bit floats always, and so is the scoring of the validation rows.
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Memory for the data, such as 8G or 500MB; by default 60 % of what is free
    ///
    /// Images and tables past it are kept in a file in TMPDIR, or made again for each part of an epoch. The
    /// result does not depend on it.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Memory of the GPU for the data; by default 60 % of what is free there
    #[arg(long, value_name = "SIZE")]
    pub device_memory: Option<ByteSize>,
    /// CPU threads of all trainings together; by default all cores
    ///
    /// The result does not depend on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Trials to train side by side in this process
    #[arg(long, value_name = "N", default_value_t = 1, requires = "study", value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,
    /// Stop this worker after so many trials
    #[arg(long, value_name = "N", requires = "study")]
    pub max_trials: Option<u64>,
    /// Logging
    #[command(flatten)]
    pub log: LogArgs,
}

/// How products are rounded
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32-bit floats throughout
    F32,
    /// 32-bit floats, factors rounded to 10 bits of mantissa on CUDA's matrix units
    Tf32,
    /// 16-bit floats for products, activations and their gradients, with a dynamic loss scale; needs a GPU
    Fp16,
}

impl Precision {
    /// Name in `result.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
        }
    }
}
