//! The numbers of a comparison: classifiers of the same clusters, paired row by row.

use serde::{Deserialize, Serialize};

use crate::interval::{Draw, Interval, percentile};
use crate::numbers::{F1, Judged};
use crate::report::Report;

use super::verdict::sentence;

/// All numbers of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of this format
    pub schema_version: u32,
    /// Digest of the rows that all reports share
    pub rows_digest: String,
    /// Clusters
    pub n: u64,
    /// The reports in order; the first is the reference
    pub reports: Vec<Entry>,
    /// Each later report against the first
    pub pairs: Vec<Pair>,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name in all sentences: the shortest end of the path that tells the reports apart
    pub name: String,
    /// The folder
    pub path: String,
    /// Digest of its inputs
    pub inputs: String,
    /// At the set's own mix
    pub f1: F1,
    /// 50:50
    pub balanced: F1,
    /// Area under the ROC curve
    pub roc_auc: Option<f64>,
}

/// A report against the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Such as `v4 − v1`
    pub name: String,
    /// Differences with their 95 % intervals
    pub differences: Vec<Difference>,
    /// Clusters that the first calls right and this one wrong
    pub lost: u64,
    /// Clusters that the first calls wrong and this one right
    pub gained: u64,
    /// Two-sided exact p-value of `McNemar`'s test; it takes clusters as independent
    pub mcnemar_p: f64,
    /// Settings of the two models that differ: key, the first's, this one's
    pub changed_settings: Vec<(String, String, String)>,
    /// The verdict in words
    pub verdict: String,
}

/// One number of a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Such as `F1 of main tracks`
    pub number: String,
    /// This one minus the first
    pub difference: f64,
    /// 95 %, by resampling whole events, the same for both; null where undefined
    pub interval: Option<Interval>,
}

/// What is known of one side of a pair.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// For the sentences
    pub name: &'a str,
    /// Its report
    pub report: &'a Report,
    /// Its scores; the rows are those of the other side
    pub judged: &'a Judged<'a>,
    /// Its resamples, the same events as the other side's
    pub draws: &'a [Draw],
}

/// Side `b` against side `a`.
pub fn pair(a: &Side, b: &Side) -> Pair {
    let differences = differences(a, b);
    let right = |side: &Side, row: usize| {
        (side.judged.scores[row] >= side.judged.threshold) == side.judged.labels[row]
    };
    let rows = 0..a.judged.labels.len();
    let lost = rows.clone().filter(|&row| right(a, row) && !right(b, row)).count() as u64;
    let gained = rows.filter(|&row| !right(a, row) && right(b, row)).count() as u64;
    let name = format!("{} − {}", b.name, a.name);
    let first = &differences[0];
    let verdict = first.interval.map_or_else(
        || format!("{name}: no main tracks, so nothing is shown"),
        |interval| sentence(&name, &first.number, first.difference, interval),
    );
    let changed_settings = changed_settings(&a.report.configuration, &b.report.configuration);
    Pair { verdict, name, differences, lost, gained, mcnemar_p: mcnemar(lost, gained), changed_settings }
}

fn differences(a: &Side, b: &Side) -> Vec<Difference> {
    type Pick = fn(&Draw) -> f64;
    let (ra, rb) = (a.report, b.report);
    let auc = |report: &Report| report.numbers.roc_auc.unwrap_or(f64::NAN);
    let numbers: [(&str, f64, Pick); 5] = [
        ("F1 of main tracks", rb.numbers.f1.main_track - ra.numbers.f1.main_track, |d| d.f1.main_track),
        ("F1 of main tracks, 50:50", rb.balanced.f1.main_track - ra.balanced.f1.main_track, |d| {
            d.balanced.main_track
        }),
        ("macro F1", rb.numbers.f1.macro_avg - ra.numbers.f1.macro_avg, |d| d.f1.macro_avg),
        ("weighted F1", rb.numbers.f1.weighted - ra.numbers.f1.weighted, |d| d.f1.weighted),
        ("ROC AUC", auc(rb) - auc(ra), |d| d.roc_auc),
    ];
    numbers
        .into_iter()
        // Without one of the classes there is no AUC, so no difference either.
        .filter(|(_, difference, _)| difference.is_finite())
        .map(|(number, difference, pick)| Difference {
            number: number.into(),
            difference,
            interval: percentile(a.draws.iter().zip(b.draws).map(|(a, b)| pick(b) - pick(a))),
        })
        .collect()
}

/// Two-sided exact p-value: of `lost + gained` fair coins, as uneven a result or more.
fn mcnemar(lost: u64, gained: u64) -> f64 {
    let (n, k) = (lost + gained, lost.min(gained));
    // Terms C(n, i) / 2^n, each from the one before, in logarithms so that large n don't underflow.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=k {
        tail += term.exp();
        term += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// Settings that differ: key, before, after; a setting that is not there is a dash.
pub fn changed_settings(
    before: &serde_json::Map<String, serde_json::Value>,
    after: &serde_json::Map<String, serde_json::Value>,
) -> Vec<(String, String, String)> {
    let shown = |settings: &serde_json::Map<String, serde_json::Value>, key: &str| {
        settings.get(key).map_or("–".into(), ToString::to_string)
    };
    let more = after.keys().filter(|key| !before.contains_key(*key));
    before
        .keys()
        .chain(more)
        .map(|key| (key.clone(), shown(before, key), shown(after, key)))
        .filter(|(_, before, after)| before != after)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_meets_values_of_the_binomial_distribution() {
        assert!((mcnemar(1, 9) - 22.0 / 1024.0).abs() < 1e-12, "2 · (1 + 10) / 2^10");
        assert!((mcnemar(5, 5) - 1.0).abs() < 1e-12 && (mcnemar(0, 0) - 1.0).abs() < 1e-12);
        // SciPy: binomtest(4800, 10000).pvalue
        assert!((mcnemar(4800, 5200) - 6.593_515_598_672_343e-5).abs() < 1e-12, "{}", mcnemar(4800, 5200));
    }

    #[test]
    fn settings_that_came_or_went_are_changes_too() {
        let settings = |json: serde_json::Value| json.as_object().unwrap().clone();
        let before = settings(serde_json::json!({"n_filters": 32, "epochs": 80}));
        let after = settings(serde_json::json!({"epochs": 80, "n_filters": 64, "dropout_rate": 0.1}));
        let changed = changed_settings(&before, &after);
        let expected = [("n_filters", "32", "64"), ("dropout_rate", "–", "0.1")];
        assert_eq!(changed, expected.map(|(key, a, b)| (key.to_owned(), a.to_owned(), b.to_owned())));
    }
}
