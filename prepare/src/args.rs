//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use shared::cli::LogArgs;
use shared::config::Balance;
use shared::plane::Plane;
use shared::split::Split;

/// Turn NPZ clusters into Parquet train, validation and test splits
///
/// Reads every `*_plane{plane}.npz` below the input folders, splits the clusters by whole events so that
/// none leaks, and writes OUT/{train,validation,test}/part-*.parquet and, last, OUT/manifest.json. The rows
/// depend on the files, the config and the seed only, not on threads, shards or the order of files.
#[derive(Debug, Clone, clap::Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// What else to do
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How to prepare
    #[command(flatten)]
    pub prepare: PrepareArgs,

    /// Logging
    #[command(flatten)]
    pub log: LogArgs,
}

/// What `prepare` does besides preparing
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Show what is in NPZ files or split folders
    Inspect(InspectArgs),
}

/// Flags of `prepare inspect`
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// NPZ files, folders of NPZ files, split folders, or one split such as DIR/test
    #[arg(required = true, value_name = "DIR|FILE")]
    pub paths: Vec<PathBuf>,

    /// Draw the cluster in this row (of the NPZ file, or of `--source` in a split folder)
    #[arg(long, value_name = "N")]
    pub row: Option<u64>,

    /// Source of the cluster to draw, as the column `source` names it
    #[arg(long, value_name = "NAME", requires = "row")]
    pub source: Option<String>,

    /// Write the picture as PNG instead of drawing it in the terminal
    #[arg(long, value_name = "FILE", requires = "row")]
    pub png: Option<PathBuf>,
}

/// Flags of `prepare`
#[derive(Debug, Clone, clap::Args)]
pub struct PrepareArgs {
    /// The users' JSON config
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,

    /// Folder with NPZ files, searched recursively; replaces the config's `data_directories`
    #[arg(long, value_name = "DIR")]
    pub input: Vec<PathBuf>,

    /// Folder to write; appears when it is complete
    #[arg(long, value_name = "DIR", required = true)]
    pub output: Option<PathBuf>,

    /// Wire plane, U, V or X; the config's if left out
    #[arg(long)]
    pub plane: Option<Plane>,

    /// Make the classes equally frequent; the config's `balance_data` and `balance_method` if left out
    #[arg(long, value_enum)]
    pub balance: Option<BalanceArg>,

    /// Splits to balance
    #[arg(long, value_enum, default_value_t = BalanceScope::Train)]
    pub balance_scope: BalanceScope,

    /// What stays together in one split
    #[arg(long, value_enum, default_value_t = SplitBy::Event)]
    pub split_by: SplitBy,

    /// What happens to images that occur more than once
    #[arg(long, value_enum, default_value_t = Duplicates::HeldOut)]
    pub duplicates: Duplicates,

    /// Most clusters to use: whole files in a seeded order, the last one cut
    #[arg(long, value_name = "N")]
    pub max_samples: Option<u64>,

    /// Put all clusters in this one split: a new production as a test set
    #[arg(long, value_name = "SPLIT")]
    pub only: Option<Split>,

    /// Split folder of an earlier training; clusters that it trained or validated on are reported and, unless
    /// `--duplicates keep`, left out
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,

    /// What to do about a file that is not usable
    #[arg(long, value_enum, default_value_t = OnBadFile::Skip)]
    pub on_bad_file: OnBadFile,

    /// Fail if more files than this are not usable
    #[arg(long, value_name = "N")]
    pub max_bad: Option<u64>,

    /// Do one phase only, for batch systems: scan (any number of shards), plan (one job), write (any number)
    #[arg(long, value_enum)]
    pub phase: Option<Phase>,

    /// Share of the phase's work: I counts from 0
    #[arg(long, value_name = "I/N", default_value = "0/1", requires = "phase")]
    pub shard: Shard,

    /// Worker threads; one per core if left out
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Replace a finished folder that another command line made
    #[arg(long)]
    pub overwrite: bool,
}

/// How to make the classes equally frequent
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BalanceArg {
    /// Leave them as they are
    None,
    /// Leave out clusters of the larger class
    Undersample,
    /// Repeat clusters of the smaller class
    Oversample,
}

impl From<BalanceArg> for Balance {
    fn from(arg: BalanceArg) -> Self {
        match arg {
            BalanceArg::None => Self::None,
            BalanceArg::Undersample => Self::Undersample,
            BalanceArg::Oversample => Self::Oversample,
        }
    }
}

/// Splits to balance
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BalanceScope {
    /// The training split
    Train,
    /// Every split
    All,
}

/// What stays together in one split
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// All clusters of an event, in every plane; whole files where the metadata name no event
    Event,
    /// All clusters of a file, in every plane
    File,
    /// Nothing: a cluster's neighbours may be in another split
    Cluster,
}

/// What happens to images that occur more than once
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duplicates {
    /// Leave out validation and test clusters whose image is in an earlier split
    HeldOut,
    /// Keep all; images are then read once and not compared
    Keep,
    /// Keep each image once, in the earliest split that has it
    Drop,
}

/// What to do about a file that is not usable
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnBadFile {
    /// Go on without it, and list it with the reason
    Skip,
    /// Fail
    Fail,
}

/// A phase of the work
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Phase {
    /// Read metadata and image digests
    Scan,
    /// Decide the split of every row
    Plan,
    /// Write the rows
    Write,
}

impl Phase {
    /// The flag's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Plan => "plan",
            Self::Write => "write",
        }
    }
}

/// Share `index` of `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0
    pub index: u32,
    /// At least 1
    pub count: u32,
}

impl Shard {
    /// The only share.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// The part of `0..total` that is this share's.
    pub fn range(self, total: usize) -> std::ops::Range<usize> {
        let at = |index: u32| (total as u64 * u64::from(index) / u64::from(self.count)) as usize;
        at(self.index)..at(self.index + 1)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if index < count && count <= 10_000 => Ok(Self { index, count }),
            _ => Err("give I/N with I from 0 to N − 1 and N at most 10000, such as 0/3".to_owned()),
        }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}
