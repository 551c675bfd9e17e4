//! report.txt: scikit-learn's `classification_report` letter by letter, then the F1 by their full names.

use std::fmt::Write;

use shared::metrics::ClassReport;

use crate::numbers::Classification;
use crate::report::Report;

/// The whole text file.
pub fn report(report: &Report) -> String {
    let mut text = classification(&report.numbers.classification);
    let rows = f1_table(report);
    let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    let (own, baseline) = (report.numbers.prevalence, report.baseline.is_some());
    let _ = writeln!(text, "\n{:width$}  {:>9}  {:>9}", "F1 of", "main track", "macro    weighted");
    for (name, f1) in rows {
        let _ = writeln!(
            text,
            "{name:width$}  {:>10.4} {:>9.4} {:>9.4}",
            f1.main_track, f1.macro_avg, f1.weighted
        );
    }
    let _ = writeln!(text, "\nown mix: {:.2} % main tracks of {} clusters", 100.0 * own, report.n);
    let _ = writeln!(text, "threshold {} ({})", report.numbers.threshold, report.threshold_source);
    if !baseline {
        let _ = writeln!(text, "no energy-cut baseline: {}", crate::baseline::HOW_TO_GET_ONE);
    }
    text
}

/// The F1 of model and baseline at both mixes.
pub fn f1_table(report: &Report) -> Vec<(String, crate::numbers::F1)> {
    let mut rows = vec![
        ("model, own mix".to_owned(), report.numbers.f1),
        ("model, 50:50".to_owned(), report.balanced.f1),
    ];
    if let Some(baseline) = &report.baseline {
        let name = format!("energy cut at {:.2} MeV", baseline.numbers.threshold);
        rows.push((format!("{name}, own mix"), baseline.numbers.f1));
        rows.push((format!("{name}, 50:50"), baseline.balanced.f1));
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
