//! report.txt: scikit-learn's `classification_report` letter by letter, then the F1 by their full names.

use std::fmt::Write;

use shared::metrics::ClassReport;

use crate::numbers::{Classification, F1};
use crate::report::Report;

/// F1 of one classifier at one mix of the classes.
#[derive(Debug)]
pub struct F1Row {
    /// Such as `model, 50:50`
    pub name: String,
    /// Place of the classifier in the report's lists
    pub classifier: usize,
    /// Whether the mix is the set's own
    pub own_mix: bool,
    /// The three F1
    pub f1: F1,
}

/// The whole text file.
pub fn report(report: &Report) -> String {
    let mut text = classification(&report.numbers.classification);
    let rows = f1_table(report);
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let _ = writeln!(text, "\n{:width$}  {:>10} {:>9} {:>9}", "F1", "main_track", "macro", "weighted");
    for F1Row { name, f1, .. } in rows {
        let (main, plain, weighted) = (f1.main_track, f1.macro_avg, f1.weighted);
        let _ = writeln!(text, "{name:width$}  {main:>10.4} {plain:>9.4} {weighted:>9.4}");
    }
    let share = 100.0 * report.numbers.prevalence;
    let _ = writeln!(text, "\nown mix: {share:.2} % main tracks of {} clusters", report.n);
    let _ = writeln!(text, "threshold {} ({})", report.numbers.threshold, report.threshold_source);
    if report.baseline.is_none() {
        let _ = writeln!(text, "no energy-cut baseline: {}", crate::baseline::HOW_TO_GET_ONE);
    }
    text
}

/// The F1 of every classifier at both mixes.
pub fn f1_table(report: &Report) -> Vec<F1Row> {
    let mut rows = Vec::new();
    let mut add = |name: &str, classifier: usize, own: F1, balanced: F1| {
        rows.push(F1Row { name: format!("{name}, own mix"), classifier, own_mix: true, f1: own });
        rows.push(F1Row { name: format!("{name}, 50:50"), classifier, own_mix: false, f1: balanced });
    };
    add("model", 0, report.numbers.f1, report.balanced.f1);
    for (at, other) in (1..).zip(&report.others) {
        add(&report.classifiers[at], at, other.numbers.f1, other.balanced.f1);
    }
    if let Some(baseline) = &report.baseline {
        let name = format!("energy cut at {:.2} MeV", baseline.energy_cut_mev);
        add(&name, report.others.len() + 1, baseline.numbers.f1, baseline.balanced.f1);
    }
    rows
}

/// What `sklearn.metrics.classification_report(y, p, target_names=["background", "main_track"], zero_division=0)`
/// prints.
pub fn classification(c: &Classification) -> String {
    let mut text = format!("{:>12} ", "");
    for heading in ["precision", "recall", "f1-score", "support"] {
        let _ = write!(text, " {heading:>9}");
    }
    text.push_str("\n\n");
    row(&mut text, "background", &c.background);
    row(&mut text, "main_track", &c.main_track);
    let support = c.macro_avg.support;
    let _ = writeln!(text, "\n{:>12}  {:>9} {:>9} {:>9.2} {:>9}", "accuracy", "", "", c.accuracy, support);
    row(&mut text, "macro avg", &c.macro_avg);
    row(&mut text, "weighted avg", &c.weighted_avg);
    text
}

fn row(text: &mut String, name: &str, report: &ClassReport) {
    let ClassReport { precision, recall, f1, support } = report;
    let _ = writeln!(text, "{name:>12}  {precision:>9.2} {recall:>9.2} {f1:>9.2} {support:>9}");
}
