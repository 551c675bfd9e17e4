//! compare.txt.

use std::fmt::Write;

use super::pair::{Comparison, Difference, Entry, Pair};

/// The whole text file.
pub fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    for Pair { verdict, .. } in &comparison.pairs {
        let _ = writeln!(text, "{verdict}");
    }
    let width = comparison.reports.iter().map(|r| r.name.chars().count()).max().unwrap_or(0).max(6);
    let heads = ("F1", "F1 50:50", "macro", "weighted", "ROC AUC");
    let _ = writeln!(
        text,
        "\n{:width$}  {:>8} {:>8} {:>8} {:>8} {:>8}",
        "report", heads.0, heads.1, heads.2, heads.3, heads.4
    );
    for Entry { name, f1, balanced, roc_auc, .. } in &comparison.reports {
        let auc = roc_auc.map_or("–".into(), |auc| format!("{auc:.4}"));
        let _ = writeln!(
            text,
            "{name:width$}  {:>8.4} {:>8.4} {:>8.4} {:>8.4} {auc:>8}",
            f1.main_track, balanced.main_track, f1.macro_avg, f1.weighted
        );
    }
    for pair in &comparison.pairs {
        let _ = writeln!(text, "\n{}", pair.name);
        for Difference { number, difference, interval } in &pair.differences {
            let ends = interval.map_or("undefined".into(), |i| format!("{:+.4} … {:+.4}", i.low, i.high));
            let _ = writeln!(text, "  {number:26} {difference:+.4}  ({ends})");
        }
        let _ = writeln!(
            text,
            "  of {} clusters {} are lost and {} gained; McNemar's exact p = {:.3e} (clusters taken as independent)",
            comparison.n, pair.lost, pair.gained, pair.mcnemar_p
        );
        for (key, a, b) in &pair.changed_settings {
            let _ = writeln!(text, "  {key}: {a} → {b}");
        }
    }
    text.push('\n');
    text
}
