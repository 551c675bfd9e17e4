//! `simulate`: writes simulated clusters as NPZ files.

use std::process::ExitCode;

use clap::Parser as _;

#[expect(clippy::print_stdout, reason = "the summary is the result")]
fn main() -> ExitCode {
    match simulator::run(&simulator::Options::parse()) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error and its causes to stderr.
fn report(error: &dyn std::error::Error) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
}
