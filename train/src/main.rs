//! Binary `train`: see `train --help`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    shared::cli::finish(train::run(&train::Args::parse()))
}
