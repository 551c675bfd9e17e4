//! report.html: filled from a template that escapes every text.

use askama::Template;

use crate::bins::{BinTable, Rates};
use crate::error::Error;
use crate::figures::Shown;
use crate::interval::Interval;
use crate::numbers::{F1, Numbers};
use crate::operating::{OperatingPoint, Point};
use crate::report::Report;
use crate::{tables, text};

/// What the template sees.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    verdict: String,
    f1: Vec<(String, F1, String)>,
    text: String,
    columns: Vec<String>,
    table: Vec<(&'static str, Vec<String>)>,
    bins: Vec<Table>,
    operating: Table,
    configuration: Vec<(String, String)>,
    figures: &'a [Shown],
}

/// A table of texts.
struct Table {
    title: String,
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// The page.
///
/// # Errors
/// [`Error::Page`]
pub fn render(report: &Report, figures: &[Shown]) -> Result<String, Error> {
    let (columns, numbers): (Vec<String>, Vec<&Numbers>) = columns(report).into_iter().unzip();
    let page = Page {
        report,
        verdict: verdict(report),
        f1: f1(report),
        text: text::classification(&report.numbers.classification),
        columns,
        table: table(&numbers),
        bins: report.bins.iter().map(|table| bin_table(table, &report.classifiers)).collect(),
        operating: operating(report),
        configuration: report.configuration.iter().map(|(k, v)| (k.clone(), v.to_string())).collect(),
        figures,
    };
    page.render().map_err(Error::Page)
}

fn columns(report: &Report) -> Vec<(String, &Numbers)> {
    let mut columns =
        vec![("model, own mix".to_owned(), &report.numbers), ("model, 50:50".to_owned(), &report.balanced)];
    if let Some(numbers) = &report.reweighted {
        columns.push((format!("model, {} % main tracks", 100.0 * numbers.prevalence), numbers));
    }
    for (other, name) in report.others.iter().zip(&report.classifiers[1..]) {
        columns.push((format!("{name}, own mix"), &other.numbers));
        columns.push((format!("{name}, 50:50"), &other.balanced));
    }
    if let Some(baseline) = &report.baseline {
        columns.push(("energy cut, own mix".into(), &baseline.numbers));
        columns.push(("energy cut, 50:50".into(), &baseline.balanced));
    }
    columns
}

/// Whether the model is shown to be better than a cut on the energy.
fn verdict(report: &Report) -> String {
    let (Some(baseline), Some(interval)) =
        (&report.baseline, report.intervals.first().and_then(|i| i.f1_above_baseline))
    else {
        return String::new();
    };
    let difference = report.numbers.f1.main_track - baseline.numbers.f1.main_track;
    crate::compare::sentence("model − energy cut", "F1 of main tracks", difference, interval)
}

/// F1 of every classifier at both mixes, with the interval of the main-track class.
fn f1(report: &Report) -> Vec<(String, F1, String)> {
    let with_interval = |row: text::F1Row| {
        let intervals = &report.intervals[row.classifier];
        let own = if row.own_mix { intervals.f1_main_track } else { intervals.balanced_f1_main_track };
        (row.name, row.f1, ends(own))
    };
    text::f1_table(report).into_iter().map(with_interval).collect()
}

/// All numbers, a row each, with a column for each of `numbers`.
fn table(numbers: &[&Numbers]) -> Vec<(&'static str, Vec<String>)> {
    let columns: Vec<_> = numbers.iter().map(|n| tables::rows_of(n)).collect();
    let names = columns.first().into_iter().flatten().map(|row| row.0);
    names.enumerate().map(|(at, name)| (name, columns.iter().map(|c| shown(c[at].1)).collect())).collect()
}

fn bin_table(table: &BinTable, classifiers: &[String]) -> Table {
    let unit = if table.unit.is_empty() { String::new() } else { format!(" ({})", table.unit) };
    let mut heading = vec![format!("{}{unit}", table.quantity), "clusters".into(), "main tracks".into()];
    for name in classifiers {
        heading.extend(["efficiency", "purity", "F1"].map(|rate| format!("{rate}, {name}")));
    }
    let with = |value: Option<f64>, interval| match value {
        Some(value) => format!("{value:.3} {}", ends(interval)),
        None => shown(None),
    };
    let cells = |rates: &Rates| {
        [
            with(rates.efficiency, rates.efficiency_interval),
            with(rates.purity, rates.purity_interval),
            rates.f1.map_or_else(|| shown(None), |f1| format!("{f1:.3}")),
        ]
    };
    let rows = table.bins.iter().map(|bin| {
        let mut row = vec![bin.name.clone(), bin.n.to_string(), bin.main_tracks.to_string()];
        row.extend(bin.rates.iter().flat_map(cells));
        row
    });
    Table { title: format!("By {}", table.quantity), heading, rows: rows.collect() }
}

fn operating(report: &Report) -> Table {
    let mut heading = vec!["clusters".to_owned(), "background rate".into(), "main tracks".into()];
    heading.extend(report.classifiers.iter().map(|name| format!("efficiency, {name}")));
    let cell = |point: &Option<Point>| match point {
        Some(p) => format!("{:.3} {} at {:.4}", p.efficiency, ends(Some(p.efficiency_interval)), p.threshold),
        None => "too few".into(),
    };
    let told = |group: &&OperatingPoint| group.main_tracks > 0 && group.points.iter().any(Option::is_some);
    let rows = report.operating_points.iter().filter(told).map(|group| {
        let mut row = vec![
            group.group.clone(),
            format!("{} %", 100.0 * group.background_rate),
            group.main_tracks.to_string(),
        ];
        row.extend(group.points.iter().map(cell));
        row
    });
    Table { title: "Operating points".into(), heading, rows: rows.collect() }
}

/// A number with four decimals, or a dash where there is none.
fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.4}"))
}

fn ends(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |i| format!("({:.3}–{:.3})", i.low, i.high))
}
