//! The stage `search`: makes studies, asks for trials, and shows what came of them.

mod args;
mod error;
mod show;
mod table;

use shared::config::Config;
use shared::study::{Created, Options, Study, StudyError, StudyFile};

pub use args::{Args, AskArgs, Command, CreateArgs, StudyArgs};
pub use error::Error;

/// Carry out one command; returns what belongs on standard output.
///
/// # Errors
/// [`Error`]
pub fn run(args: &Args) -> Result<String, Error> {
    match &args.command {
        Command::Create(args) => create(args),
        Command::Ask(args) => Ok(ask(args)?),
        Command::Status(args) => Ok(show::status(&Study::open(&args.study)?)?),
        Command::Best(args) => Ok(show::best(&Study::open(&args.study)?)?),
    }
}

fn create(args: &CreateArgs) -> Result<String, Error> {
    let config = Config::read(&args.config)?;
    let options =
        Options { seed: args.seed, sampler: args.sampler, budget: args.budget, ..Options::default() };
    if args.dry_run {
        return Ok(describe(&StudyFile::new(&args.study, &config, &options)?));
    }
    Ok(match Study::create(&args.study, &config, &options)? {
        Created::New(study) => {
            format!("made study `{}`\n{}", study.dir().display(), describe(study.settings()))
        }
        Created::Exists(study, notes) if notes.is_empty() => {
            format!("study `{}` exists with this configuration; nothing to do", study.dir().display())
        }
        Created::Exists(study, notes) => {
            format!("study `{}` exists; changed {}", study.dir().display(), notes.join(", "))
        }
    })
}

fn describe(file: &StudyFile) -> String {
    let mut lines = vec![format!(
        "{} trials of at most {} epochs, {} of {}, seed {}",
        file.limits.budget,
        file.experiment.epochs,
        if file.maximise() { "maximum" } else { "minimum" },
        file.experiment.objective.name(),
        file.seed
    )];
    lines.extend(file.space.iter().map(|(name, options)| format!("  {name}: {options}")));
    lines.join("\n")
}

fn ask(args: &AskArgs) -> Result<String, StudyError> {
    let study = Study::open(&args.study)?;
    let numbers = study.ask(args.count)?;
    if (numbers.len() as u64) < args.count {
        tracing::warn!(
            "the study's limits allow {} of {} trials; `search create` with a larger `--budget` raises them",
            numbers.len(),
            args.count
        );
    }
    let folders = numbers.iter().map(|&number| study.folder_of(number).display().to_string());
    Ok(folders.collect::<Vec<String>>().join("\n"))
}
