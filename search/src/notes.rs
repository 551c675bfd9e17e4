//! `search notes`: the Markdown entry that people otherwise write by hand.

use serde_json::{Value, json};
use shared::files;
use shared::study::distribution::Distribution;
use shared::study::importance::fanova;
use shared::study::settings::compare;
use shared::study::space::Parameter;
use shared::study::{State, Study, TrialRecord};

use crate::args::NotesArgs;
use crate::error::Error;
use crate::show::short;

/// The entry for one study.
pub fn notes(args: &NotesArgs) -> Result<String, Error> {
    let study = Study::open(&args.study)?;
    let trials: Vec<TrialRecord> = study.trials()?.into_iter().filter(|trial| !trial.is_imported()).collect();
    let settings = study.settings();
    let mut lines = vec![format!("## {}", settings.study_name), String::new()];
    let date = trials.iter().filter_map(|trial| trial.started).min();
    let date = date.map_or_else(|| settings.created.clone(), |date| date.to_string());
    lines.push(format!("- Date: {}", date.get(..10).unwrap_or(&date)));
    lines.push(format!("- Program: mt-identifier {}", env!("CARGO_PKG_VERSION")));
    let job = args.job.clone().or_else(|| std::env::var("SLURM_JOB_ID").ok());
    if let Some(job) = job {
        lines.push(format!("- Job: {job}"));
    }
    lines.push(format!("- Configuration: {}", configuration(&study)));
    if let Some(against) = &args.against {
        lines.extend(changes(&Study::open(against)?, &study));
    }
    match study.best()? {
        None => lines.push("- No trial is complete yet".into()),
        Some(best) => lines.extend(result(args, &study, &trials, &best)?),
    }
    Ok(lines.join("\n"))
}

fn configuration(study: &Study) -> String {
    let settings = study.settings();
    let space: Vec<String> =
        settings.space.iter().map(|(name, options)| format!("`{name}` {options}")).collect();
    format!(
        "plane {}, {} trials, {} epochs, batch {}, {}; {}",
        settings.experiment.plane,
        settings.limits.budget,
        settings.experiment.epochs,
        settings.experiment.batch_size,
        settings.experiment.objective.name(),
        space.join(", ")
    )
}

fn changes(before: &Study, now: &Study) -> Vec<String> {
    let view = |study: &Study| {
        let file = study.settings();
        json!({ "budget": file.limits.budget, "model": file.experiment, "space": file.space, "sampler": file.sampler, "pruner": file.pruner })
    };
    let mut found = Vec::new();
    compare("", &view(before), &view(now), &mut found);
    let name = &before.settings().study_name;
    if found.is_empty() {
        return vec![format!("- Changed since {name}: nothing")];
    }
    let changes = found.iter().map(|line| format!("  - {}", line.trim()));
    [format!("- Changed since {name}:")].into_iter().chain(changes).collect()
}

fn result(
    args: &NotesArgs,
    study: &Study,
    trials: &[TrialRecord],
    best: &TrialRecord,
) -> Result<Vec<String>, Error> {
    let params: Vec<String> =
        best.params().iter().map(|(name, value)| format!("`{name}` {}", short(value))).collect();
    let objective = study.settings().experiment.objective.name();
    let mut lines = vec![format!(
        "- Best trial: {}/{} with {objective} {:.5}: {}",
        best.number + 1,
        trials.len(),
        best.value.unwrap_or(f64::NAN),
        params.join(", ")
    )];
    let file = study.folder_of(best.number).join("result.json");
    if file.exists() {
        let result: Value = files::read_json(&file)?;
        if let Some(accuracy) = result["val_accuracy"].as_f64() {
            lines.push(format!("- Validation accuracy: {:.3} %", 100.0 * accuracy));
        }
        if let (Some(at), Some(epochs)) = (result["best_epoch"].as_u64(), result["epochs"].as_u64()) {
            lines.push(format!("- Converged: best weights at epoch {at} of {epochs}"));
        }
    }
    if let Some(report) = &args.report {
        let report: Value = files::read_json(&report.join("report.json"))?;
        let f1 = |key: &str| report["f1"][key].as_f64().map_or("?".into(), |f1| format!("{f1:.4}"));
        let (main, macro_f1, weighted) = (f1("main_track"), f1("macro"), f1("weighted"));
        lines.push(format!("- Test F1: main track {main}, macro {macro_f1}, weighted {weighted}"));
        lines.push(format!("- Test clusters: {}", report["n"]));
    }
    lines.extend(outlook(study, trials, best));
    Ok(lines)
}

/// Whether the space brackets the best trial, and what to try next.
fn outlook(study: &Study, trials: &[TrialRecord], best: &TrialRecord) -> Vec<String> {
    let edges: Vec<String> =
        study.space().parameters.iter().filter_map(|parameter| edge(parameter, best)).collect();
    let importances = fanova(study.space(), trials, study.settings().seed);
    let mut next = Vec::new();
    if edges.is_empty() {
        next.push("narrow the ranges around the best trial".to_owned());
    } else {
        next.extend(edges.iter().cloned());
    }
    if let Some((name, share)) = importances.first() {
        next.push(format!(
            "`{name}` matters most ({:.0} % of the variance): sample it more finely",
            100.0 * share
        ));
    }
    let finished = trials.iter().filter(|t| matches!(t.state, State::Complete | State::Pruned)).count();
    if best.number as usize + 3 >= finished && finished >= 5 {
        next.push("the best trial was among the last: raise the budget".into());
    }
    let brackets = if edges.is_empty() { "yes" } else { "no" };
    vec![format!("- Space brackets the best: {brackets}"), format!("- Next: {}", next.join("; "))]
}

/// What to try if the best value stands at an end of its range.
fn edge(parameter: &Parameter, best: &TrialRecord) -> Option<String> {
    let value = best.params().get(&parameter.name)?.as_f64()?;
    let (low, high) = match &parameter.distribution {
        Distribution::Categorical { choices } => {
            let numbers = choices.iter().filter_map(Value::as_f64);
            numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)))
        }
        Distribution::Int { low, high, .. } => (*low as f64, *high as f64),
        Distribution::Float { low, high, log, .. } => {
            let margin = if *log { 0.0 } else { 0.05 * (high - low) };
            (low + margin, high - margin)
        }
    };
    if low >= high {
        return None;
    }
    let shown = short(&json!(value));
    if value <= low {
        Some(format!("`{}` below {shown}", parameter.name))
    } else if value >= high {
        Some(format!("`{}` above {shown}", parameter.name))
    } else {
        None
    }
}
