//! What `search status` and `search best` print.

use serde_json::Value;
use shared::study::{FAIL_REASON, State, Study, StudyError, TrialRecord};

use crate::table::table;

/// All trials of a study as a table, and a line that sums them up.
pub fn status(study: &Study) -> Result<String, StudyError> {
    let (trials, best) = (study.trials()?, study.best()?);
    let names: Vec<&str> = study.space().parameters.iter().map(|p| p.name.as_str()).collect();
    let head = head(study);
    let rows: Vec<Vec<String>> =
        trials.iter().map(|trial| row(trial, &names, best.as_ref().map(|best| best.number))).collect();
    let summary = summary(study, &trials, best.as_ref());
    Ok(if rows.is_empty() { summary } else { format!("{}\n\n{summary}", table(&head, &rows)) })
}

/// Names of the table's columns.
pub fn head(study: &Study) -> Vec<String> {
    let objective = study.settings().experiment.objective.name();
    let mut head: Vec<String> =
        ["trial", "state", objective, "epochs", "minutes"].map(str::to_owned).to_vec();
    head.extend(study.space().parameters.iter().map(|parameter| parameter.name.clone()));
    head.push(String::new());
    head
}

/// One line of the table.
pub fn row(trial: &TrialRecord, names: &[&str], best: Option<u64>) -> Vec<String> {
    let dash = || "-".to_owned();
    let params = trial.params();
    let mut row = vec![
        trial.number.to_string(),
        trial.state.name().to_owned(),
        trial.value.map_or_else(dash, |value| format!("{value:.5}")),
        trial.intermediate_values.last().map_or_else(dash, |(step, _)| step.to_string()),
        trial.seconds().map_or_else(dash, |seconds| format!("{:.1}", seconds / 60.0)),
    ];
    row.extend(names.iter().map(|&name| params.get(name).map_or_else(dash, short)));
    let reason = trial.user_attrs.get(FAIL_REASON).and_then(Value::as_str);
    row.push(match reason {
        Some(reason) if trial.state == State::Fail => reason.to_owned(),
        _ if best == Some(trial.number) => "best".into(),
        _ => String::new(),
    });
    row
}

/// A parameter's value: numbers with up to six digits.
pub fn short(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if !value.is_u64() && !value.is_i64() => {
            let digits = (5.0 - number.abs().max(1e-300).log10().floor()).clamp(0.0, 12.0) as usize;
            let text = format!("{number:.digits$}");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text
            }
        }
        _ => value.to_string(),
    }
}

/// Counts of trials by state, and the best one.
pub fn summary(study: &Study, trials: &[TrialRecord], best: Option<&TrialRecord>) -> String {
    let states = [State::Complete, State::Pruned, State::Fail, State::Running, State::Waiting];
    let counts: Vec<String> = states
        .iter()
        .map(|&state| (state, trials.iter().filter(|trial| trial.state == state).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", state.name().to_lowercase()))
        .collect();
    let counts = if counts.is_empty() { "no trials yet".to_owned() } else { counts.join(", ") };
    let best = best.and_then(|best| Some(format!("; best: trial {} with {:.5}", best.number, best.value?)));
    let name = &study.settings().study_name;
    format!("{name}: {counts} (budget {}){}", study.settings().limits.budget, best.unwrap_or_default())
}

/// The best trial with its parameters; a line that says so if there is none.
pub fn best(study: &Study) -> Result<String, StudyError> {
    let Some(best) = study.best()? else {
        return Ok(format!("{}: no trial is complete yet", study.settings().study_name));
    };
    let mut lines = vec![
        format!("trial {}", best.number),
        format!("folder {}", study.folder_of(best.number).display()),
        format!("{} {}", study.settings().experiment.objective.name(), best.value.unwrap_or(f64::NAN)),
    ];
    lines.extend(best.params().iter().map(|(name, value)| format!("{name} {value}")));
    Ok(lines.join("\n"))
}
