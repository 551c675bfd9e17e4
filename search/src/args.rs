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
    Status(StudyArgs),
    /// Show the best trial
    Best(StudyArgs),
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
    #[arg(long, value_name = "TRIALS")]
    pub budget: Option<u64>,
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
