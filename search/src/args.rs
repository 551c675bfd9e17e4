//! Arguments of the stage `search`; the doc comments are the help text.

use std::path::PathBuf;

use shared::cli::LogArgs;
use shared::study::sampler::SamplerKind;

/// Hyper-parameter study: proposes trials and shows what came of them
#[derive(Debug, clap::Parser)]
#[command(version)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Logging
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to do with a study.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a study from a config; one that exists with the same config stays as it is
    Create(CreateArgs),
    /// Add waiting trials and print their folders, one a line
    Ask(AskArgs),
    /// Show every trial
    Status(StatusArgs),
    /// Show the best trial
    Best(StudyArgs),
    /// Write all trials as a table, or the whole study as a web page
    Export(ExportArgs),
    /// Show how much each parameter matters (fANOVA)
    Importance(StudyArgs),
    /// Write the Markdown entry of a laboratory book
    Notes(NotesArgs),
}

/// Flags of `search create`
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The users' JSON config
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Folder of the study
    #[arg(long, value_name = "DIR")]
    pub study: PathBuf,

    /// Check the config and show what would be searched, but write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// How the next trial is chosen [default: tpe]
    #[arg(long, value_enum)]
    pub sampler: Option<SamplerKind>,

    /// Seed of parameters, weights and shuffles [default: the config's `random_seed`]
    #[arg(long)]
    pub seed: Option<u64>,

    /// Most trials that do not fail [default: the config's `hp_max_evals`]
    ///
    /// Give a larger number later to go on with a study that is done.
    #[arg(long, value_name = "TRIALS", value_parser = clap::value_parser!(u64).range(1..))]
    pub budget: Option<u64>,

    /// Stop trials early that fall behind [default: none]
    #[arg(long, value_enum)]
    pub pruner: Option<PrunerName>,

    /// Epochs that every trial may train before the pruner looks at it [default: a tenth of the config's `epochs`]
    #[arg(long, value_name = "EPOCHS", requires = "pruner")]
    pub prune_after: Option<u64>,

    /// Halving: one trial of so many goes on at each rung
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..), requires = "pruner")]
    pub prune_factor: u64,

    /// Prune only after so many epochs without a better value
    #[arg(long, value_name = "EPOCHS", requires = "pruner")]
    pub patience: Option<u64>,

    /// No new trial once the first one started so many hours ago
    #[arg(long, value_name = "HOURS")]
    pub time_budget: Option<f64>,

    /// No new trial after so many finished ones that brought nothing better
    #[arg(long, value_name = "TRIALS")]
    pub stop_after: Option<u64>,

    /// Most trials that run at the same time
    #[arg(long, value_name = "TRIALS")]
    pub max_in_flight: Option<u64>,

    /// Learn from another study's complete trials, or from any Optuna journal
    #[arg(long, value_name = "STUDY")]
    pub from: Vec<PathBuf>,

    /// Trials from a JSON list or a CSV table: with a value they teach the sampler, without one they are tried first
    #[arg(long, value_name = "FILE")]
    pub enqueue: Vec<PathBuf>,

    /// Seconds of silence after which a worker counts as dead [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub lease_seconds: Option<f64>,

    /// How often a trial whose worker died is started again [default: 3]
    #[arg(long, value_name = "TIMES")]
    pub retry_limit: Option<u64>,
}

/// A pruner by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PrunerName {
    /// No trial is stopped
    None,
    /// Trials below the median of the complete ones
    Median,
    /// Asynchronous successive halving
    Asha,
    /// Successive halving with several first rungs
    Hyperband,
}

/// Flags of `search status`
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Folder of the study
    #[arg(long, value_name = "DIR")]
    pub study: PathBuf,

    /// Show the table again every few seconds until the study is done
    #[arg(long)]
    pub watch: bool,
}

/// Form of an export
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Comma-separated values, a line per trial
    Csv,
    /// A list of objects, with all reported values
    Json,
    /// A table for pandas, Polars or `DuckDB`
    Parquet,
    /// A web page with figures that needs no network
    Html,
}

/// Flags of `search export`
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Folder of the study
    #[arg(long, value_name = "DIR")]
    pub study: PathBuf,

    /// Form of the export
    #[arg(long, value_enum, default_value = "html")]
    pub format: Format,

    /// File to write [default: standard output for csv and json, else `STUDY/study.html` or `STUDY/trials.parquet`]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Flags of `search notes`
#[derive(Debug, clap::Args)]
pub struct NotesArgs {
    /// Folder of the study
    #[arg(long, value_name = "DIR")]
    pub study: PathBuf,

    /// An earlier study, to name what changed since
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,

    /// Report of the best model, for F1 and the number of test clusters
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,

    /// Number or name of the batch job
    #[arg(long, value_name = "ID")]
    pub job: Option<String>,
}

/// The study that a command looks at
#[derive(Debug, clap::Args)]
pub struct StudyArgs {
    /// Folder of the study
    #[arg(long, value_name = "DIR")]
    pub study: PathBuf,
}

/// Flags of `search ask`
#[derive(Debug, clap::Args)]
pub struct AskArgs {
    /// Folder of the study
    #[arg(long, value_name = "DIR")]
    pub study: PathBuf,

    /// How many trials to add; fewer are added where the budget ends
    #[arg(long, default_value_t = 1)]
    pub count: u64,
}
