//! compare.html: filled from a template that escapes every text.

use askama::Template;

use crate::error::Error;
use crate::figures::Shown;
use crate::rows::Rows;

use super::changed::Changed;
use super::pair::{Comparison, Pair};

/// Changed clusters of a pair that the page shows: those whose score moved most.
const SHOWN: usize = 20;

/// What the template sees.
#[derive(Template)]
#[template(path = "compare.html")]
struct Page<'a> {
    comparison: &'a Comparison,
    pairs: Vec<PairSection<'a>>,
    figures: &'a [Shown],
}

/// A pair with its tables as texts.
struct PairSection<'a> {
    pair: &'a Pair,
    /// Number, difference, interval
    differences: Vec<[String; 3]>,
    /// File with all clusters that changed
    file: &'a str,
    changed: usize,
    /// Source, row, event, truth, energy, the two scores
    clusters: Vec<[String; 7]>,
}

/// The page.
///
/// - `lists`: for each pair the name of its file and the clusters that changed
///
/// # Errors
/// [`Error::Page`]
pub fn render<'a>(
    comparison: &'a Comparison,
    figures: &'a [Shown],
    lists: &'a [(String, Vec<Changed>)],
    rows: &Rows,
) -> Result<String, Error> {
    let section = |(pair, list): (&'a Pair, &'a (String, Vec<Changed>))| PairSection {
        pair,
        differences: differences(pair),
        file: &list.0,
        changed: list.1.len(),
        clusters: clusters(&list.1, rows),
    };
    let pairs = comparison.pairs.iter().zip(lists).map(section).collect();
    Page { comparison, pairs, figures }.render().map_err(Error::Page)
}

/// Number, difference and interval of a pair, as texts.
pub fn differences(pair: &Pair) -> Vec<[String; 3]> {
    let signed = |value: f64| format!("{value:+.4}").replace('-', "−");
    let ends = |interval: Option<crate::interval::Interval>| {
        interval.map_or("–".into(), |i| format!("{} … {}", signed(i.low), signed(i.high)))
    };
    let row = |d: &super::Difference| [d.number.clone(), signed(d.difference), ends(d.interval)];
    pair.differences.iter().map(row).collect()
}

/// The clusters whose score moved most.
fn clusters(changed: &[Changed], rows: &Rows) -> Vec<[String; 7]> {
    let moved = |change: &Changed| (change.scores.1 - change.scores.0).abs();
    let mut most: Vec<&Changed> = changed.iter().collect();
    most.sort_by(|a, b| moved(b).total_cmp(&moved(a)).then(a.at.cmp(&b.at)));
    let cells = |change: &Changed| {
        let at = change.at;
        [
            rows.source_name(at).to_owned(),
            rows.row[at].to_string(),
            rows.event[at].map_or("–".into(), |event| event.to_string()),
            if rows.label[at] { "main track" } else { "background" }.to_owned(),
            format!("{:.1}", rows.cluster_energy[at]),
            format!("{:.3}", change.scores.0),
            format!("{:.3}", change.scores.1),
        ]
    };
    most.into_iter().take(SHOWN).map(cells).collect()
}
