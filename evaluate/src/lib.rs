//! F1 reports of exported models on held-out clusters.

mod against;
mod args;
mod baseline;
mod bins;
mod compare;
mod contract;
mod error;
mod figures;
mod gallery;
mod graph;
mod interval;
mod judge;
mod model;
mod names;
mod npz;
mod numbers;
mod operating;
mod output;
mod page;
mod parquet_file;
mod predict;
mod predictions;
mod reading;
mod report;
mod rows;
mod score;
mod scorer;
mod seen;
pub mod stages;
mod study;
mod summary;
mod tables;
mod text;

pub use against::Changes;
pub use args::{
    Args, Command, CompareArgs, InferenceArgs, InspectArgs, NoRule, PredictArgs, ReportArgs, ThresholdRule,
};
pub use bins::{Bin, BinTable, Rates};
pub use compare::{Compared, Comparison, Difference, Entry, Pair, sentence};
pub use contract::{InputLayout, OutputKind};
pub use error::Error;
pub use interval::{Draw, Interval, RESAMPLES, bootstrap, wilson};
pub use numbers::{Classification, F1, Judged, Numbers};
pub use operating::{OperatingPoint, Point};
pub use predict::Predicted;
pub use report::{Baseline, DataSection, Intervals, ModelSection, Other, REPORT, Report};
pub use summary::{Done, Summary};
pub use text::classification as classification_text;

use shared::files;
use shared::split::{Split, SplitFolder};

use against::Before;
use baseline::Thresholds;
use figures::Material;
use judge::{Contender, Evidence, OtherScores};
use model::{Model, Scorers};
use output::Found;
use score::Scored;

/// Do what the command line says.
///
/// # Errors
/// [`Error`]
pub fn run(args: &Args) -> Result<Done, Error> {
    match (&args.command, &args.report) {
        (Some(Command::Compare(args)), _) => Ok(Done::Compared(compare::run(args)?)),
        (Some(Command::Predict(args)), _) => Ok(Done::Predicted(predict::run(args)?)),
        (Some(Command::Inspect(args)), _) => Ok(Done::Inspected(inspect(args)?)),
        (None, Some(report)) => Ok(Done::Reported(Box::new(make_report(report, &args.inference)?))),
        (None, None) => unreachable!("the command line needs a model or a subcommand"),
    }
}

/// Make one report.
///
/// # Errors
/// [`Error`]
pub fn make_report(args: &ReportArgs, inference: &InferenceArgs) -> Result<Summary, Error> {
    shared::signal::watch();
    let (folder, split) = SplitFolder::open_split(&args.data)?;
    let model = Model::read(&args.model)?;
    let more = args.also.iter().map(|path| Model::read(path)).collect::<Result<Vec<_>, _>>()?;
    let before = args.against.as_deref().map(against::read).transpose()?;
    let inputs = inputs(args, inference, &model, &more, before.as_ref(), &folder, split);
    if let Found::UpToDate(report) = output::inspect(&args.output, &inputs, args.overwrite)? {
        return Ok(Summary::up_to_date(*report, &args.output));
    }
    // What can't work is found out before anything takes long.
    let training = args.training.as_deref().map(SplitFolder::open).transpose()?;
    let shape = (folder.manifest().height, folder.manifest().width);
    let open = |model: &Model| model.open(shape, &args.data, inference);
    let (mut scorers, mut more_scorers) =
        (open(&model)?, more.iter().map(open).collect::<Result<Vec<_>, _>>()?);
    let (scored, thresholds, section) = score(args, &model, &mut scorers, &folder, split)?;
    let paths: Vec<_> = std::iter::once(&args.model).chain(&args.also).cloned().collect();
    let mut others = Vec::new();
    for ((model, scorers), name) in
        more.iter().zip(&mut more_scorers).zip(names::shortest(&paths).split_off(1))
    {
        let (scored, thresholds, model) = score(args, model, scorers, &folder, split)?;
        others.push(OtherScores { name, score: scored.rows.score, threshold: thresholds.score, model });
    }
    let study = study::around(&args.model, model.card.as_ref().and_then(|card| card.trial.as_deref()));
    let configuration = study.as_ref().map(|study| study.configuration.clone()).unwrap_or_default();
    let contenders = judge::contenders(&scored.rows, &thresholds, &others);
    let evidence = Evidence {
        inputs,
        rows: &scored.rows,
        thresholds: &thresholds,
        model: section,
        others: &others,
        configuration,
    };
    let mut report = judge::report(evidence, &contenders, &folder, args);
    report.data.seen_in_training = seen(args, training.as_ref(), &folder, split)?;
    report.changes = before.map(|before| against::changes(&before, &report, &scored.rows, &contenders[0].2));
    write(&mut report, &scored, &contenders, study.as_ref(), args)?;
    Ok(Summary::new(report, &args.output))
}

/// Digest of what decides the report's content; the device and threads only decide how long it takes.
fn inputs(
    args: &ReportArgs,
    inference: &InferenceArgs,
    model: &Model,
    more: &[Model],
    before: Option<&Before>,
    folder: &SplitFolder,
    split: Split,
) -> String {
    let InferenceArgs { input_layout, output_kind, input_scale, .. } = inference;
    let others: Vec<&str> = more.iter().map(|model| model.digest.as_str()).collect();
    let before = before.map(|before| &before.digest);
    let all = format!(
        "{} {} {} {split} {} {:?} {:?} {:?} {before:?} {others:?} {input_layout:?} {output_kind:?} {input_scale}",
        env!("CARGO_PKG_VERSION"),
        model.digest,
        folder.manifest().digest,
        args.threshold,
        args.validation,
        args.training,
        args.prevalence,
    );
    files::digest(all.as_bytes())
}

/// Thresholds, then scores, of a model.
fn score(
    args: &ReportArgs,
    model: &Model,
    scorers: &mut Scorers,
    folder: &SplitFolder,
    split: Split,
) -> Result<(Scored, Thresholds, ModelSection), Error> {
    let thresholds = baseline::choose(args, model, scorers)?;
    let scored = score::score_split(folder, split, scorers)?;
    Ok((scored, thresholds, section(model, scorers)))
}

fn section(model: &Model, scorers: &Scorers) -> ModelSection {
    ModelSection {
        path: model.path().display().to_string(),
        digest: model.digest.clone(),
        device: scorers.device.to_string(),
        output: scorers.contract.kind.to_string(),
        card: model.card.clone(),
    }
}

/// Clusters that the training has seen, if its split was given; they are warned about.
fn seen(
    args: &ReportArgs,
    training: Option<&SplitFolder>,
    folder: &SplitFolder,
    split: Split,
) -> Result<Option<u64>, Error> {
    let Some(training) = training else { return Ok(None) };
    let seen = seen::count(training, folder, split)?;
    if seen > 0 {
        let (rows, data, training) = (folder.rows(split), args.data.display(), training.path().display());
        tracing::warn!(
            "{seen} of {rows} clusters of `{data}` are in the training split of `{training}` too, so the numbers flatter the model"
        );
    }
    Ok(Some(seen))
}

/// Write all files, report.json last.
fn write(
    report: &mut Report,
    scored: &Scored,
    contenders: &[Contender],
    study: Option<&study::Study>,
    args: &ReportArgs,
) -> Result<(), Error> {
    let folder = &args.output;
    output::begin(folder)?;
    let mut written = vec!["predictions.parquet".to_owned(), "report.txt".into(), "report.html".into()];
    predictions::write(&folder.join("predictions.parquet"), &scored.rows)?;
    files::write_bytes(&folder.join("report.txt"), text::report(report).as_bytes())?;
    tables::write(folder, report, &mut written)?;
    let material = Material { report, contenders, rows: &scored.rows, gallery: &scored.gallery, study };
    let figures = figures::write(folder, figures::of_report(&material), &mut written)?;
    files::write_bytes(&folder.join("report.html"), page::render(report, &figures)?.as_bytes())?;
    report.files = written;
    files::write_json(&folder.join(REPORT), report)?;
    Ok(())
}

/// What a model says about itself.
fn inspect(args: &InspectArgs) -> Result<String, Error> {
    let bytes = files::read_bytes(&args.model)?;
    let card = |source| Error::Card { path: args.model.clone(), source };
    let props = shared::model::props_of(&bytes).map_err(card)?;
    let Some(key) = &args.key else {
        return Ok(serde_json::to_string_pretty(&props).unwrap_or_default());
    };
    props.get(key).cloned().ok_or_else(|| Error::NoKey { path: args.model.clone(), key: key.clone() })
}
