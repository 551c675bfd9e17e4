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
    columns: Vec<(String, &'a Numbers)>,
}

/// The page.
///
/// # Errors
/// [`Error::Page`]
pub fn render(report: &Report) -> Result<String, Error> {
    let mut columns =
        vec![("model, own mix".to_owned(), &report.numbers), ("model, 50:50".to_owned(), &report.balanced)];
    if let Some(baseline) = &report.baseline {
        columns.push(("energy cut, own mix".into(), &baseline.numbers));
        columns.push(("energy cut, 50:50".into(), &baseline.balanced));
    }
    let page = Page {
        report,
        f1: text::f1_table(report),
        text: text::classification(&report.numbers.classification),
        columns,
    };
    page.render().map_err(Error::Page)
}

/// A number with four decimals, or a dash where there is none.
fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.4}"))
}
