//! `evaluate compare`: models on the same clusters, paired row by row.

mod changed;
mod page;
mod pair;
mod text;
mod verdict;

pub use page::differences;
pub use pair::{Comparison, Difference, Entry, Pair, Side, changed_settings, pair};
pub use verdict::sentence;

use std::fmt;
use std::fs;
use std::path::PathBuf;

use shared::files;

use crate::args::CompareArgs;
use crate::error::Error;
use crate::figures;
use crate::figures::chart::Ink;
use crate::interval;
use crate::judge::Contender;
use crate::names;
use crate::numbers::Judged;
use crate::predictions::{self, Predictions};
use crate::report::{REPORT, Report};

/// Name of the file with all numbers; it is written last.
const COMPARISON: &str = "compare.json";

/// What `compare` has made; displays as its text file.
#[derive(Debug)]
pub struct Compared {
    text: String,
    output: PathBuf,
    up_to_date: bool,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.up_to_date { "up to date" } else { "comparison" };
        write!(f, "{}{word}: {}", self.text, self.output.display())
    }
}

/// A report and its predictions.
struct Read {
    name: String,
    path: PathBuf,
    report: Report,
    predictions: Predictions,
}

/// Compare all reports with the first.
///
/// # Errors
/// [`Error::OtherRows`] if they are about different clusters, [`Error::NoReport`], [`Error::OtherFolder`]
pub fn run(args: &CompareArgs) -> Result<Compared, Error> {
    let all = read(&args.reports)?;
    let inputs: Vec<&str> = all.iter().map(|read| read.report.inputs.as_str()).collect();
    if let Some(text) = found(args, &inputs)? {
        return Ok(Compared { text, output: args.output.clone(), up_to_date: true });
    }
    let contenders = contenders(&all);
    let comparison = compare(&all, &contenders);
    let text = write(args, &all, &contenders, &comparison)?;
    Ok(Compared { text, output: args.output.clone(), up_to_date: false })
}

fn read(folders: &[PathBuf]) -> Result<Vec<Read>, Error> {
    let names = names::shortest(folders);
    let mut all: Vec<Read> = Vec::new();
    for (path, name) in folders.iter().zip(names) {
        let file = path.join(REPORT);
        if !file.is_file() {
            return Err(Error::NoReport { path: path.clone() });
        }
        let report: Report = files::read_json(&file)?;
        if let Some(first) =
            all.first().filter(|first| first.report.data.rows_digest != report.data.rows_digest)
        {
            return Err(Error::OtherRows { a: first.path.clone(), b: path.clone() });
        }
        let predictions = predictions::read(&path.join("predictions.parquet"))?;
        all.push(Read { name, path: path.clone(), report, predictions });
    }
    Ok(all)
}

/// The text of this very comparison, if it is there; another's is refused.
fn found(args: &CompareArgs, inputs: &[&str]) -> Result<Option<String>, Error> {
    let path = args.output.join(COMPARISON);
    if args.overwrite || !path.is_file() {
        let taken = args.output.join(REPORT);
        if taken.exists() {
            return Err(Error::OtherFolder { path: args.output.clone(), name: REPORT.into() });
        }
        return Ok(None);
    }
    let comparison: Comparison = files::read_json(&path)?;
    if comparison.reports.iter().map(|entry| entry.inputs.as_str()).ne(inputs.iter().copied()) {
        let names: Vec<&str> = comparison.reports.iter().map(|entry| entry.path.as_str()).collect();
        return Err(Error::OtherReport { path: args.output.clone(), found: names.join(", ") });
    }
    Ok(fs::read_to_string(args.output.join("compare.txt")).ok())
}

/// The models as the figures name and colour them; the first has the model's own colour.
fn contenders<'a>(all: &'a [Read]) -> Vec<Contender<'a>> {
    let ink = |at: usize| at.checked_sub(1).map_or(Ink::Model, Ink::Other);
    let judged = |read: &'a Read| {
        let (scores, labels) = (&read.predictions.score, &read.predictions.label);
        Judged::model(scores, labels, read.report.numbers.threshold)
    };
    all.iter().enumerate().map(|(at, read)| (read.name.clone(), ink(at), judged(read))).collect()
}

fn compare(all: &[Read], contenders: &[Contender]) -> Comparison {
    let judged: Vec<&Judged> = contenders.iter().map(|contender| &contender.2).collect();
    let (events, count) = all[0].predictions.events();
    let draws = interval::bootstrap(&judged, &events, count, interval::RESAMPLES);
    let entry = |read: &Read| Entry {
        name: read.name.clone(),
        path: read.path.display().to_string(),
        inputs: read.report.inputs.clone(),
        f1: read.report.numbers.f1,
        balanced: read.report.balanced.f1,
        roc_auc: read.report.numbers.roc_auc,
    };
    let side = |at: usize| Side {
        name: &all[at].name,
        report: &all[at].report,
        judged: judged[at],
        draws: &draws[at],
    };
    Comparison {
        schema_version: shared::SCHEMA_VERSION,
        rows_digest: all[0].report.data.rows_digest.clone(),
        n: all[0].report.n,
        reports: all.iter().map(entry).collect(),
        pairs: (1..all.len()).map(|at| pair(&side(0), &side(at))).collect(),
    }
}

/// Write all files, compare.json last; returns the text.
fn write(
    args: &CompareArgs,
    all: &[Read],
    contenders: &[Contender],
    comparison: &Comparison,
) -> Result<String, Error> {
    let (folder, rows) = (&args.output, &all[0].predictions);
    let text = text::text(comparison);
    files::write_bytes(&folder.join("compare.txt"), text.as_bytes())?;
    let mut lists = Vec::new();
    for (read, contender) in all.iter().zip(contenders).skip(1) {
        let file = format!("changed-{}.csv", read.name.replace('/', "-"));
        let changed = changed::changed(&contenders[0].2, &contender.2);
        files::write_bytes(&folder.join(&file), changed::csv(&changed, rows).as_bytes())?;
        lists.push((file, changed));
    }
    let prevalence = all[0].report.numbers.prevalence;
    let figures = figures::write(folder, figures::of_comparison(contenders, prevalence), &mut Vec::new())?;
    let page = page::render(comparison, &figures, &lists, rows)?;
    files::write_bytes(&folder.join("compare.html"), page.as_bytes())?;
    files::write_json(&folder.join(COMPARISON), comparison)?;
    Ok(text)
}
