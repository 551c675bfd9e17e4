//! `evaluate compare`: models on the same clusters, paired row by row, with a verdict that says no more than is shown.

use std::fmt::{self, Write};
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shared::files;

use crate::args::CompareArgs;
use crate::error::Error;
use crate::interval::{self, Draw, Interval, percentile};
use crate::numbers::{F1, Judged};
use crate::predictions::{self, Predictions};
use crate::report::{REPORT, Report};
use crate::tables::field;

/// Name of the file with all numbers; it is written last.
const COMPARISON: &str = "compare.json";

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
struct Side {
    name: String,
    path: PathBuf,
    report: Report,
    predictions: Predictions,
}

impl Side {
    fn judged(&self) -> Judged<'_> {
        Judged::model(&self.predictions.score, &self.predictions.label, self.report.numbers.threshold)
    }
}

/// Compare all reports with the first.
///
/// # Errors
/// [`Error::OtherRows`] if they are about different clusters, [`Error::NoReport`], [`Error::OtherFolder`]
pub fn run(args: &CompareArgs) -> Result<Compared, Error> {
    let sides = read(&args.reports)?;
    let inputs: Vec<&str> = sides.iter().map(|side| side.report.inputs.as_str()).collect();
    if let Some(text) = found(args, &inputs)? {
        return Ok(Compared { text, output: args.output.clone(), up_to_date: true });
    }
    let comparison = compare(&sides);
    let text = text(&comparison);
    files::write_bytes(&args.output.join("compare.txt"), text.as_bytes())?;
    for side in &sides[1..] {
        let file = format!("changed-{}.csv", side.name.replace('/', "-"));
        files::write_bytes(&args.output.join(file), changed(&sides[0], side).as_bytes())?;
    }
    files::write_json(&args.output.join(COMPARISON), &comparison)?;
    Ok(Compared { text, output: args.output.clone(), up_to_date: false })
}

fn read(folders: &[PathBuf]) -> Result<Vec<Side>, Error> {
    let names = names(folders);
    let mut sides: Vec<Side> = Vec::new();
    for (path, name) in folders.iter().zip(names) {
        let file = path.join(REPORT);
        if !file.is_file() {
            return Err(Error::NoReport { path: path.clone() });
        }
        let report: Report = files::read_json(&file)?;
        if let Some(first) = sides.first().filter(|s| s.report.data.rows_digest != report.data.rows_digest) {
            return Err(Error::OtherRows { a: first.path.clone(), b: path.clone() });
        }
        let predictions = predictions::read(&path.join("predictions.parquet"))?;
        sides.push(Side { name, path: path.clone(), report, predictions });
    }
    Ok(sides)
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

/// The shortest ends of the paths that differ.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let parts: Vec<Vec<String>> = paths
        .iter()
        .map(|path| path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect())
        .collect();
    let longest = parts.iter().map(Vec::len).max().unwrap_or(1);
    let end = |parts: &Vec<String>, n: usize| parts[parts.len().saturating_sub(n)..].join("/");
    let at = |n: usize| parts.iter().map(|parts| end(parts, n)).collect::<Vec<_>>();
    let differ = |names: &Vec<String>| (1..names.len()).all(|i| !names[..i].contains(&names[i]));
    (1..=longest).map(at).find(differ).unwrap_or_else(|| at(longest))
}

fn compare(sides: &[Side]) -> Comparison {
    let judged: Vec<Judged> = sides.iter().map(Side::judged).collect();
    let (events, count) = sides[0].predictions.events();
    let all: Vec<&Judged> = judged.iter().collect();
    let draws = interval::bootstrap(&all, &events, count, interval::RESAMPLES);
    let entry = |side: &Side| Entry {
        name: side.name.clone(),
        path: side.path.display().to_string(),
        inputs: side.report.inputs.clone(),
        f1: side.report.numbers.f1,
        balanced: side.report.balanced.f1,
        roc_auc: side.report.numbers.roc_auc,
    };
    Comparison {
        schema_version: shared::SCHEMA_VERSION,
        rows_digest: sides[0].report.data.rows_digest.clone(),
        n: sides[0].report.n,
        reports: sides.iter().map(entry).collect(),
        pairs: (1..sides.len())
            .map(|at| pair((&sides[0], &judged[0], &draws[0]), (&sides[at], &judged[at], &draws[at])))
            .collect(),
    }
}

type Drawn<'a> = (&'a Side, &'a Judged<'a>, &'a Vec<Draw>);

fn pair((a, judged_a, draws_a): Drawn, (b, judged_b, draws_b): Drawn) -> Pair {
    type Pick = fn(&Draw) -> f64;
    let (ra, rb) = (&a.report, &b.report);
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
    let differences: Vec<Difference> = numbers
        .into_iter()
        .map(|(number, difference, pick)| Difference {
            number: number.into(),
            difference,
            interval: percentile(draws_a.iter().zip(draws_b).map(|(a, b)| pick(b) - pick(a))),
        })
        .collect();
    let right = |judged: &Judged, row: usize| (judged.scores[row] >= judged.threshold) == judged.labels[row];
    let rows = 0..judged_a.labels.len();
    let lost = rows.clone().filter(|&row| right(judged_a, row) && !right(judged_b, row)).count() as u64;
    let gained = rows.filter(|&row| !right(judged_a, row) && right(judged_b, row)).count() as u64;
    let name = format!("{} − {}", b.name, a.name);
    let first = &differences[0];
    let verdict = first.interval.map_or_else(
        || format!("{name}: no main tracks, so nothing is shown"),
        |interval| sentence(&name, &first.number, first.difference, interval),
    );
    Pair {
        verdict,
        name,
        differences,
        lost,
        gained,
        mcnemar_p: mcnemar(lost, gained),
        changed_settings: changed_settings(ra, rb),
    }
}

/// A verdict that a referee would accept.
///
/// ```
/// let interval = evaluate::Interval { low: -0.001, high: 0.009 };
/// let words = evaluate::sentence("v4 − v1", "F1", 0.004, interval);
/// assert_eq!(words, "v4 − v1: +0.40 % F1, 95 % interval −0.10 … +0.90: not shown to be better");
/// ```
pub fn sentence(what: &str, number: &str, difference: f64, interval: Interval) -> String {
    let percent = |value: f64| format!("{:+.2}", 100.0 * value).replace('-', "−");
    let verdict = match interval {
        Interval { low, .. } if low > 0.0 => "better",
        Interval { high, .. } if high < 0.0 => "worse",
        _ if difference == 0.0 => "no difference",
        _ if difference > 0.0 => "not shown to be better",
        _ => "not shown to be worse",
    };
    let (low, high) = (percent(interval.low), percent(interval.high));
    format!("{what}: {} % {number}, 95 % interval {low} … {high}: {verdict}", percent(difference))
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

fn changed_settings(a: &Report, b: &Report) -> Vec<(String, String, String)> {
    let shown =
        |report: &Report, key: &str| report.configuration.get(key).map_or("–".into(), ToString::to_string);
    let mut keys: Vec<&String> = a.configuration.keys().collect();
    keys.extend(b.configuration.keys().filter(|key| !a.configuration.contains_key(*key)));
    keys.into_iter()
        .map(|key| (key.clone(), shown(a, key), shown(b, key)))
        .filter(|(_, of_a, of_b)| of_a != of_b)
        .collect()
}

fn text(comparison: &Comparison) -> String {
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

/// The clusters that the two call differently, as CSV.
fn changed(a: &Side, b: &Side) -> String {
    let mut text =
        String::from("source,row,event,is_main_track,cluster_energy,score_first,score,called_first,called\n");
    let p = &a.predictions;
    for row in 0..p.label.len() {
        let (sa, sb) = (p.score[row], b.predictions.score[row]);
        let (ca, cb) = (sa >= a.report.numbers.threshold, sb >= b.report.numbers.threshold);
        if ca != cb {
            let event = p.event[row].map_or_else(String::new, |event| event.to_string());
            let source = field(&p.sources[p.source[row] as usize]);
            let (number, label, energy) = (p.row[row], p.label[row], p.cluster_energy[row]);
            let _ = writeln!(text, "{source},{number},{event},{label},{energy},{sa},{sb},{ca},{cb}");
        }
    }
    text
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
    fn names_are_as_short_as_they_can_be_and_different() {
        let names = |paths: &[&str]| super::names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["out/v1", "out/v4"]), ["v1", "v4"]);
        assert_eq!(names(&["v1/report", "v4/report"]), ["v1/report", "v4/report"]);
    }

    #[test]
    fn verdicts_say_what_the_interval_shows() {
        let verdict = |low, high, d| {
            let sentence = sentence("b − a", "F1", d, Interval { low, high });
            sentence.rsplit(": ").next().unwrap().to_owned()
        };
        assert_eq!(verdict(0.001, 0.01, 0.005), "better");
        assert_eq!(verdict(-0.01, -0.001, -0.005), "worse");
        assert_eq!(verdict(-0.01, 0.001, -0.005), "not shown to be worse");
        assert_eq!(verdict(0.0, 0.0, 0.0), "no difference");
    }
}
