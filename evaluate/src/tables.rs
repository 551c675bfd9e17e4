//! The report's tables as CSV, for spreadsheets and other people's plots.

use std::fmt::Write;
use std::path::Path;

use shared::files;

use crate::error::Error;
use crate::interval::Interval;
use crate::numbers::Numbers;
use crate::report::Report;

/// Write all tables; their names go to `written`.
///
/// # Errors
/// [`Error::File`]
pub fn write(folder: &Path, report: &Report, written: &mut Vec<String>) -> Result<(), Error> {
    let tables =
        [("numbers", numbers(report)), ("bins", bins(report)), ("operating-points", operating(report))];
    for (name, text) in tables {
        let file = format!("tables/{name}.csv");
        files::write_bytes(&folder.join(&file), text.as_bytes())?;
        written.push(file);
    }
    Ok(())
}

/// A field, quoted where CSV wants it.
pub fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A number, or nothing.
fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn ends(interval: Option<Interval>) -> (String, String) {
    (number(interval.map(|i| i.low)), number(interval.map(|i| i.high)))
}

/// Name and value of every number that has one value a classifier.
pub fn rows_of(n: &Numbers) -> Vec<(&'static str, Option<f64>)> {
    let (c, f1) = (&n.classification, &n.f1);
    vec![
        ("F1 of main tracks", Some(f1.main_track)),
        ("macro F1", Some(f1.macro_avg)),
        ("weighted F1", Some(f1.weighted)),
        ("purity (precision) of main tracks", Some(c.main_track.precision)),
        ("efficiency (recall) of main tracks", Some(c.main_track.recall)),
        ("accuracy", Some(c.accuracy)),
        ("balanced accuracy", n.balanced_accuracy),
        ("Matthews correlation", Some(n.mcc)),
        ("ROC AUC", n.roc_auc),
        ("average precision", n.average_precision),
        ("log loss (nats)", n.log_loss),
        ("Brier score", n.brier),
        ("expected calibration error", n.ece),
        ("share of main tracks", Some(n.prevalence)),
    ]
}

fn numbers(report: &Report) -> String {
    let mut text = String::from("classifier,mix,number,value\n");
    let mut add = |classifier: &str, mix: &str, numbers: &Numbers| {
        for (name, value) in rows_of(numbers) {
            let _ = writeln!(text, "{},{mix},{name},{}", field(classifier), number(value));
        }
    };
    add("model", "own", &report.numbers);
    add("model", "50:50", &report.balanced);
    if let Some(numbers) = &report.reweighted {
        add("model", "stated", numbers);
    }
    for (other, name) in report.others.iter().zip(&report.classifiers[1..]) {
        add(name, "own", &other.numbers);
        add(name, "50:50", &other.balanced);
    }
    if let Some(baseline) = &report.baseline {
        add("energy cut", "own", &baseline.numbers);
        add("energy cut", "50:50", &baseline.balanced);
    }
    text
}

fn bins(report: &Report) -> String {
    let mut text = String::from(
        "quantity,unit,bin,low,high,clusters,main_tracks,classifier,efficiency,efficiency_low,efficiency_high,purity,purity_low,purity_high,f1\n",
    );
    for table in &report.bins {
        for bin in &table.bins {
            for (name, rates) in report.classifiers.iter().zip(&bin.rates) {
                let (efficiency_low, efficiency_high) = ends(rates.efficiency_interval);
                let (purity_low, purity_high) = ends(rates.purity_interval);
                let _ = writeln!(
                    text,
                    "{},{},{},{},{},{},{},{},{},{efficiency_low},{efficiency_high},{},{purity_low},{purity_high},{}",
                    table.quantity,
                    table.unit,
                    bin.name,
                    number(bin.low),
                    number(bin.high),
                    bin.n,
                    bin.main_tracks,
                    field(name),
                    number(rates.efficiency),
                    number(rates.purity),
                    number(rates.f1),
                );
            }
        }
    }
    text
}

fn operating(report: &Report) -> String {
    let mut text = String::from(
        "group,wanted_background_rate,background,main_tracks,classifier,threshold,background_rate,efficiency,efficiency_low,efficiency_high\n",
    );
    for group in &report.operating_points {
        for (name, point) in report.classifiers.iter().zip(&group.points) {
            let Some(point) = point else { continue };
            let (low, high) = ends(Some(point.efficiency_interval));
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{low},{high}",
                group.group,
                group.background_rate,
                group.background,
                group.main_tracks,
                field(name),
                point.threshold,
                point.background_rate,
                point.efficiency,
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_commas_and_quotes_is_one_field() {
        assert_eq!(field("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(field("plain"), "plain");
    }
}
