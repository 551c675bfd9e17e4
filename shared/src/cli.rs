//! What every binary does the same way: logging set-up, error report and exit code.

use std::error::Error;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Exit code of a stage that a signal stopped and that goes on when started again (`EX_TEMPFAIL`).
pub const EXIT_RESUMABLE: u8 = 75;

/// Form of the log lines on standard error
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Flags that every stage has
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// Say more (`-v` debug, `-vv` trace)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say only warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Form of the log lines on standard error
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// Start logging to standard error; `MTID_LOG` (a `tracing` filter) overrides the flags.
pub fn start_logging(args: &LogArgs) {
    let level = match (args.quiet, args.verbose) {
        (true, _) => "warn",
        (false, 0) => "info,ort=warn",
        (false, 1) => "debug,ort=warn",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_env("MTID_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(crate::progress::stderr_between_bars)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start (tests that call `run` twice) keeps the first subscriber.
    let _ = match args.log_format {
        LogFormat::Text => builder.with_target(false).without_time().try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// An error of a stage, with what the process should exit with.
pub trait StageError: Error {
    /// Whether a signal stopped the stage and the same command line goes on from there.
    fn is_resumable(&self) -> bool {
        false
    }
}

/// End of a stage: the result goes to standard output, an error and its causes to standard error.
pub fn finish<T: Display, E: StageError>(outcome: Result<T, E>) -> ExitCode {
    match outcome {
        Ok(result) => {
            let text = result.to_string();
            // A reader that has gone, such as `head`, wants no more: that is no failure.
            if !text.is_empty() && writeln!(std::io::stdout(), "{text}").is_err() {
                tracing::debug!("nobody reads standard output any more");
            }
            ExitCode::SUCCESS
        }
        Err(error) if error.is_resumable() => {
            report("stopped", &error);
            ExitCode::from(EXIT_RESUMABLE)
        }
        Err(error) => {
            report("error", &error);
            ExitCode::FAILURE
        }
    }
}

/// Print an error and the chain of its causes, a line each.
fn report(word: &str, error: &dyn Error) {
    eprintln!("{word}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
}
