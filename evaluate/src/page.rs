//! report.html: filled from a template that escapes every text.

use askama::Template;

use crate::error::Error;
use crate::numbers::{F1, Numbers};
use crate::report::Report;
use crate::text;

/// What the template sees.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    f1: Vec<(String, F1)>,
    text: String,
    columns: Vec<&'static str>,
    table: Vec<(&'static str, Vec<String>)>,
}

/// The page.
///
/// # Errors
/// [`Error::Page`]
pub fn render(report: &Report) -> Result<String, Error> {
    let mut columns = vec!["model, own mix", "model, 50:50"];
    let mut numbers = vec![&report.numbers, &report.balanced];
    if let Some(baseline) = &report.baseline {
        columns.extend(["energy cut, own mix", "energy cut, 50:50"]);
        numbers.extend([&baseline.numbers, &baseline.balanced]);
    }
    let page = Page {
        report,
        f1: text::f1_table(report),
        text: text::classification(&report.numbers.classification),
        columns,
        table: table(&numbers),
    };
    page.render().map_err(Error::Page)
}

/// All numbers, a row each, with a column for each of `numbers`.
fn table(numbers: &[&Numbers]) -> Vec<(&'static str, Vec<String>)> {
    type Pick = fn(&Numbers) -> Option<f64>;
    let rows: [(&'static str, Pick); 11] = [
        ("accuracy", |n| Some(n.classification.accuracy)),
        ("balanced accuracy", |n| n.balanced_accuracy),
        ("purity (precision) of main tracks", |n| Some(n.classification.main_track.precision)),
        ("efficiency (recall) of main tracks", |n| Some(n.classification.main_track.recall)),
        ("Matthews correlation", |n| Some(n.mcc)),
        ("ROC AUC", |n| n.roc_auc),
        ("average precision", |n| n.average_precision),
        ("log loss (nats)", |n| n.log_loss),
        ("Brier score", |n| n.brier),
        ("expected calibration error", |n| n.ece),
        ("share of main tracks", |n| Some(n.prevalence)),
    ];
    rows.map(|(name, pick)| (name, numbers.iter().map(|n| shown(pick(n))).collect())).into()
}

/// A number with four decimals, or a dash where there is none.
fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.4}"))
}
