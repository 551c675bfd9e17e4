//! Rates of reading, scoring, and both, for the comparisons in `scripts/bench`.

use std::path::PathBuf;

use clap::Parser;
use evaluate::InferenceArgs;

/// Time reading a split, scoring it, and both
#[derive(Debug, Parser)]
struct Args {
    /// Model to run
    #[arg(long)]
    model: PathBuf,
    /// Test split
    #[arg(long)]
    data: PathBuf,
    /// Clusters in memory for the timing of the sessions alone
    #[arg(long, default_value_t = 200_000)]
    in_memory: usize,
    /// How to run the model
    #[command(flatten)]
    inference: InferenceArgs,
    /// How much to say
    #[command(flatten)]
    log: shared::cli::LogArgs,
}

#[expect(clippy::print_stdout, reason = "the measurement is the result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    shared::cli::start_logging(&args.log);
    println!("{}", evaluate::stages::time(&args.model, &args.data, &args.inference, args.in_memory)?);
    Ok(())
}
