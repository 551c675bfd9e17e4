//! The `evaluate` program: reads the command line, runs [`evaluate::run`], ends the process.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = evaluate::Args::parse();
    shared::cli::start_logging(&args.log);
    shared::cli::finish(evaluate::run(&args))
}
