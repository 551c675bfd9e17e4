//! The stage `search`: makes studies, asks for trials, and shows what came of them.

mod args;
mod error;
mod export;
mod html;
mod notes;
mod show;
mod table;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use shared::config::Config;
use shared::study::import::Imported;
use shared::study::importance::fanova;
use shared::study::pruner::Pruner;
use shared::study::{Created, Options, Study, StudyError, StudyFile};

pub use args::{
    Args, AskArgs, Command, CreateArgs, ExportArgs, Format, NotesArgs, PrunerName, StatusArgs, StudyArgs,
};
pub use error::Error;

/// Carry out one command; returns what belongs on standard output.
///
/// # Errors
/// [`Error`]
pub fn run(args: &Args) -> Result<String, Error> {
    match &args.command {
        Command::Create(args) => create(args),
        Command::Ask(args) => Ok(ask(args)?),
        Command::Status(args) => Ok(status(args)?),
        Command::Best(args) => Ok(show::best(&Study::open(&args.study)?)?),
        Command::Export(args) => export::export(args),
        Command::Importance(args) => Ok(importance(args)?),
        Command::Notes(args) => notes::notes(args),
    }
}

fn create(args: &CreateArgs) -> Result<String, Error> {
    let config = Config::read(&args.config)?;
    let options = Options {
        name: None,
        seed: args.seed,
        sampler: args.sampler,
        pruner: pruner(args, config.model_parameters.epochs),
        budget: args.budget,
        time_budget_s: args.time_budget.map(|hours| hours * 3600.0),
        stop_after: args.stop_after,
        max_in_flight: args.max_in_flight,
        lease_seconds: args.lease_seconds,
        retry_limit: args.retry_limit,
    };
    if args.dry_run {
        return Ok(describe(&StudyFile::new(&args.study, &config, &options)?));
    }
    let (study, mut lines) = match Study::create(&args.study, &config, &options)? {
        Created::New(study) => {
            let line = format!("made study `{}`\n{}", study.dir().display(), describe(study.settings()));
            (study, vec![line])
        }
        Created::Exists(study, notes) if notes.is_empty() => {
            let line = format!("study `{}` exists with this configuration", study.dir().display());
            (study, vec![line])
        }
        Created::Exists(study, notes) => {
            let line = format!("study `{}` exists; changed {}", study.dir().display(), notes.join(", "));
            (study, vec![line])
        }
    };
    for from in &args.from {
        lines.push(format!("from `{}`: {}", from.display(), imported(study.import_study(from)?)));
    }
    for file in &args.enqueue {
        lines.push(format!("from `{}`: {}", file.display(), imported(study.import_rows(file)?)));
    }
    Ok(lines.join("\n"))
}

fn imported(sum: Imported) -> String {
    format!(
        "{} finished trials to learn from, {} to try first, {} that do not fit the space",
        sum.finished, sum.waiting, sum.left_out
    )
}

fn pruner(args: &CreateArgs, epochs: u32) -> Option<Pruner> {
    let warmup = args.prune_after.unwrap_or(u64::from(epochs) / 10);
    let (min_steps, factor) = (warmup.max(1), args.prune_factor);
    let pruner = match args.pruner? {
        PrunerName::None => Pruner::None,
        PrunerName::Median => Pruner::Median { startup: 5, warmup },
        PrunerName::Asha => Pruner::Asha { min_steps, factor },
        PrunerName::Hyperband => Pruner::Hyperband { min_steps, max_steps: u64::from(epochs), factor },
    };
    Some(match args.patience {
        Some(patience) => Pruner::Patient { patience, inner: Box::new(pruner) },
        None => pruner,
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
        let why = study.reached_limit()?.map_or_else(
            || "every point of the space has been tried; look at `search best`".to_owned(),
            |limit| limit.to_string(),
        );
        tracing::warn!("{} of {} trials added: {why}", numbers.len(), args.count);
    }
    let folders = numbers.iter().map(|&number| study.folder_of(number).display().to_string());
    Ok(folders.collect::<Vec<String>>().join("\n"))
}

fn status(args: &StatusArgs) -> Result<String, StudyError> {
    let mut study = Study::open(&args.study)?;
    shared::signal::watch();
    while args.watch && !shared::signal::stop_requested() && study.goes_on()? {
        let text = show::status(&study)?;
        let mut screen = std::io::stderr();
        if screen.is_terminal() {
            // Clear, and start at the top.
            let _ = writeln!(screen, "\x1b[2J\x1b[H{text}");
        }
        std::thread::sleep(Duration::from_secs(2));
        study = Study::open(&args.study)?;
    }
    show::status(&study)
}

fn importance(args: &StudyArgs) -> Result<String, StudyError> {
    let study = Study::open(&args.study)?;
    let importances = fanova(study.space(), &study.trials()?, study.settings().seed);
    if importances.is_empty() {
        return Ok("too few complete trials, or all with one value: nothing to learn from".into());
    }
    let rows: Vec<Vec<String>> =
        importances.iter().map(|(name, share)| vec![name.clone(), format!("{share:.4}")]).collect();
    Ok(table::table(&["parameter".into(), "importance".into()], &rows))
}
