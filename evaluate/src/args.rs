//! The command line and what its values may be.

use std::path::PathBuf;
use std::str::FromStr;

use shared::runtime::DeviceChoice;

use crate::contract::{InputLayout, OutputKind};

/// Report how well a model finds main tracks in a test set
///
/// Writes a folder with report.html to look at, report.txt and report.json with all numbers, predictions.parquet
/// with every score, and the figures. A cluster is called main track when its score is at or above the threshold.
#[derive(Debug, Clone, clap::Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// Another task than one report
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to report on
    #[command(flatten)]
    pub report: Option<ReportArgs>,
    /// How to run the model
    #[command(flatten)]
    pub inference: InferenceArgs,
    /// How much to say
    #[command(flatten)]
    pub log: shared::cli::LogArgs,
}

/// The tasks besides one report
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Compare reports on the same clusters: is one model better than another?
    Compare(CompareArgs),
    /// Write the scores of NPZ files without labels, one row in, one row out
    Predict(PredictArgs),
    /// Print what a model says about itself, as JSON
    Inspect(InspectArgs),
}

/// What is compared
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// Report folders; each is compared with the first
    #[arg(value_name = "REPORT", num_args = 2.., required = true)]
    pub reports: Vec<PathBuf>,

    /// Folder for the comparison
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,

    /// Replace another comparison
    #[arg(long)]
    pub overwrite: bool,
}

/// What is scored
#[derive(Debug, Clone, clap::Args)]
pub struct PredictArgs {
    /// Model to run
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,

    /// NPZ files with `images` (f32 `[N, H, W]`, raw ADC), in the order of the output; nothing else in them is read
    #[arg(long, value_name = "NPZ", num_args = 1.., required = true)]
    pub input: Vec<PathBuf>,

    /// File for the scores: `.parquet`, or `.csv`
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,

    /// How to run the model
    #[command(flatten)]
    pub inference: InferenceArgs,

    /// Replace the output file
    #[arg(long)]
    pub overwrite: bool,
}

/// What is looked at
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// Model to look at
    #[arg(value_name = "FILE")]
    pub model: PathBuf,

    /// Print only this value, such as `plane`
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

/// What one report is made from
#[derive(Debug, Clone, clap::Args)]
pub struct ReportArgs {
    /// Model to judge, as `train` exports it
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,

    /// Test split, such as `splits/test` of a folder that `prepare` made
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,

    /// Folder for the report
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,

    /// Where the threshold comes from: `validation`, a number, `purity=P` or `efficiency=E`
    ///
    /// `validation` is the threshold with the best F1 on validation data, which `train` stored in the model. A
    /// wanted purity or efficiency is looked up on the validation split too, never on the test split.
    #[arg(long, value_name = "RULE", default_value = "validation")]
    pub threshold: ThresholdRule,

    /// Validation split to choose thresholds on [default: the one beside the test split]
    #[arg(long, value_name = "DIR")]
    pub validation: Option<PathBuf>,

    /// Split folder that the model was trained on; clusters of the test split that are in its training split too are
    /// counted and warned about
    #[arg(long, value_name = "DIR")]
    pub training: Option<PathBuf>,

    /// Another model to show beside the first, on the same clusters; may be repeated
    #[arg(long, value_name = "FILE")]
    pub also: Vec<PathBuf>,

    /// Version before this one, to say what changed since: the folder of a report, of a study, or of a trial
    ///
    /// Settings that differ are listed. From a report on the same clusters also come the differences of the numbers,
    /// paired cluster by cluster, with a verdict.
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,

    /// Share of main tracks to re-weight the numbers to, besides 50:50
    #[arg(long, value_name = "SHARE", value_parser = open_share)]
    pub prevalence: Option<f64>,

    /// Replace a report of something else, or make the same one again
    #[arg(long)]
    pub overwrite: bool,
}

/// How a model is run
#[derive(Debug, Clone, clap::Args)]
pub struct InferenceArgs {
    /// Device to run the model on: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,

    /// Processor threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,

    /// Clusters that the model sees at a time [default: 64 on the CPU and 1024 on a GPU for models that `train`
    /// exported, 8 and 2048 for others]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<std::num::NonZeroUsize>,

    /// Order of the input's axes, for a model of another program [default: found out from its shape]
    #[arg(long, value_enum, value_name = "LAYOUT")]
    pub input_layout: Option<InputLayout>,

    /// Meaning of the output, for a model of another program [default: found out from its last operator]
    #[arg(long, value_enum, value_name = "KIND")]
    pub output_kind: Option<OutputKind>,

    /// Factor on the ADC counts, for a model of another program that doesn't scale them itself
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub input_scale: f32,

    /// Score whole images with the ONNX graph as it is, also where `train` exported it
    ///
    /// A model that `train` exported is computed where its images have something, which gives the same scores many
    /// times faster. The model itself must agree on the first clusters.
    #[arg(long)]
    pub whole_images: bool,
}

fn open_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("give a number between 0 and 1".into()),
    }
}

/// How the threshold on the score is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ThresholdRule {
    /// Best F1 of the main-track class on validation data
    Validation,
    /// This score
    Fixed(f32),
    /// At least this purity on validation data, with the most efficiency
    Purity(f64),
    /// At least this efficiency on validation data, with the most purity
    Efficiency(f64),
}

/// A text that is no rule for the threshold.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no rule for the threshold; give `validation`, a score from 0 to 1, `purity=P` or `efficiency=E` with P and E above 0 and up to 1"
)]
pub struct NoRule(String);

impl FromStr for ThresholdRule {
    type Err = NoRule;

    fn from_str(text: &str) -> Result<Self, NoRule> {
        let no_rule = || NoRule(text.to_owned());
        let share = |value: &str| {
            let share: f64 = value.parse().map_err(|_| no_rule())?;
            if share > 0.0 && share <= 1.0 { Ok(share) } else { Err(no_rule()) }
        };
        match text.split_once('=') {
            None if text == "validation" => Ok(Self::Validation),
            Some(("purity", value)) => Ok(Self::Purity(share(value)?)),
            Some(("efficiency", value)) => Ok(Self::Efficiency(share(value)?)),
            _ => match text.parse() {
                Ok(score) if (0.0..=1.0).contains(&score) => Ok(Self::Fixed(score)),
                _ => Err(no_rule()),
            },
        }
    }
}

impl std::fmt::Display for ThresholdRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Validation => f.write_str("validation"),
            Self::Fixed(score) => write!(f, "{score}"),
            Self::Purity(share) => write!(f, "purity={share}"),
            Self::Efficiency(share) => write!(f, "efficiency={share}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_shown_alike_and_others_refused() {
        for text in ["validation", "0.5", "purity=0.95", "efficiency=0.9"] {
            assert_eq!(text.parse::<ThresholdRule>().unwrap().to_string(), text);
        }
        for text in ["", "1.5", "-1", "nan", "purity=0", "purity=2", "efficiency=x", "f1=0.9"] {
            assert!(text.parse::<ThresholdRule>().is_err(), "{text}");
        }
    }
}
