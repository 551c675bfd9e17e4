//! Command line of the stage `search`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = search::Args::parse();
    shared::cli::start_logging(&args.log);
    shared::cli::finish(search::run(&args))
}
