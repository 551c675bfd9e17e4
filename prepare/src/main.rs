//! Binary `prepare`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = prepare::Args::parse();
    shared::cli::start_logging(&args.log);
    shared::cli::finish(prepare::run(&args))
}
