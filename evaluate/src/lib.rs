//! F1 reports of exported models on held-out clusters.

mod args;
mod baseline;
mod contract;
mod error;
mod gallery;
mod graph;
mod model;
mod numbers;
mod output;
mod page;
mod predictions;
mod report;
mod rows;
mod score;
mod summary;
mod text;

pub use args::{Args, Command, InferenceArgs, NoRule, ReportArgs, ThresholdRule};
pub use contract::{InputLayout, OutputKind};
pub use error::Error;
pub use numbers::{Classification, F1, Judged, Numbers};
pub use report::{Baseline, DataSection, ModelSection, REPORT, Report};
pub use summary::Summary;
pub use text::classification as classification_text;

use shared::files;
use shared::split::{Split, SplitFolder};

use baseline::Thresholds;
use model::{Model, Scorers};
use output::Found;
use rows::Rows;

/// Do what the command line says.
///
/// # Errors
/// [`Error`]
pub fn run(args: &Args) -> Result<Summary, Error> {
    match (&args.command, &args.report) {
        (Some(command), _) => match *command {},
        (None, Some(report)) => make_report(report, &args.inference),
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
    let inputs = inputs(args, inference, &model, &folder, split);
    if let Found::UpToDate(report) = output::inspect(&args.output, &inputs, args.overwrite)? {
        return Ok(Summary::up_to_date(*report, &args.output));
    }
    let shape = (folder.manifest().height, folder.manifest().width);
    let mut scorers = model.open(shape, &args.data, inference)?;
    let thresholds = baseline::choose(args, &model, &mut scorers)?;
    let scored = score::score_split(&folder, split, &mut scorers)?;
    let mut report = judge(&scored.rows, &thresholds, inputs, model_section(&model, &scorers), &folder, args);
    write(&mut report, &scored, args)?;
    Ok(Summary::new(report, &args.output))
}

/// Digest of what decides the report's content; the device and threads only decide how long it takes.
fn inputs(
    args: &ReportArgs,
    inference: &InferenceArgs,
    model: &Model,
    folder: &SplitFolder,
    split: Split,
) -> String {
    let InferenceArgs { input_layout, output_kind, input_scale, .. } = inference;
    let all = format!(
        "{} {} {} {split} {} {:?} {input_layout:?} {output_kind:?} {input_scale}",
        env!("CARGO_PKG_VERSION"),
        model.digest,
        folder.manifest().digest,
        args.threshold,
        args.validation,
    );
    files::digest(all.as_bytes())
}

fn model_section(model: &Model, scorers: &Scorers) -> ModelSection {
    ModelSection {
        path: model.path().display().to_string(),
        digest: model.digest.clone(),
        device: scorers.device.to_string(),
        card: model.card.clone(),
    }
}

/// Put the numbers together.
fn judge(
    rows: &Rows,
    thresholds: &Thresholds,
    inputs: String,
    model: ModelSection,
    folder: &SplitFolder,
    args: &ReportArgs,
) -> Report {
    let judged = Judged::model(&rows.score, &rows.label, thresholds.score.value);
    let baseline = thresholds.energy.as_ref().map(|cut| {
        let judged = Judged::energy_cut(&rows.cluster_energy, &rows.label, cut.value);
        Baseline {
            energy_cut_mev: cut.value,
            threshold_source: cut.source.clone(),
            numbers: judged.numbers(),
            balanced: judged.numbers_at(0.5),
        }
    });
    let manifest = folder.manifest();
    Report {
        schema_version: shared::SCHEMA_VERSION,
        inputs,
        n: rows.len() as u64,
        numbers: judged.numbers(),
        threshold_source: thresholds.score.source.clone(),
        balanced: judged.numbers_at(0.5),
        baseline,
        model,
        data: DataSection {
            path: args.data.display().to_string(),
            digest: manifest.digest.clone(),
            rows_digest: rows.digest(),
            plane: manifest.plane.to_string(),
            shape: [manifest.height, manifest.width],
            rows: rows.len() as u64,
            main_tracks: rows.label.iter().filter(|&&label| label).count() as u64,
            events: rows.events().1 as u64,
            sources: rows.sources.len() as u64,
        },
        files: Vec::new(),
    }
}

/// Write all files, report.json last.
fn write(report: &mut Report, scored: &score::Scored, args: &ReportArgs) -> Result<(), Error> {
    let folder = &args.output;
    output::begin(folder)?;
    predictions::write(&folder.join("predictions.parquet"), &scored.rows)?;
    report.files.push("predictions.parquet".into());
    files::write_bytes(&folder.join("report.txt"), text::report(report).as_bytes())?;
    report.files.push("report.txt".into());
    files::write_bytes(&folder.join("report.html"), page::render(report)?.as_bytes())?;
    report.files.push("report.html".into());
    files::write_json(&folder.join(REPORT), report)?;
    Ok(())
}
