//! The figures of a page: which there are, and their files.

pub mod chart;
mod draw;
mod pictures;
mod ranked;
mod rates;
mod scores;
mod training;

use std::path::Path;

use shared::files;

use crate::error::Error;
use crate::gallery::Gallery;
use crate::judge::Contender;
use crate::report::Report;
use crate::rows::Rows;
use crate::study::Study;

use chart::Figure;

/// A figure on the page.
#[derive(Debug)]
pub struct Shown {
    /// Name of its files
    pub name: &'static str,
    /// Heading
    pub title: String,
    /// A sentence or two below it
    pub caption: String,
    /// Markup of the drawing
    pub svg: String,
}

/// What the figures are made from.
#[derive(Debug)]
pub struct Material<'a> {
    /// All numbers
    pub report: &'a Report,
    /// The classifiers with their names, in the report's order
    pub contenders: &'a [Contender<'a>],
    /// The clusters
    pub rows: &'a Rows,
    /// Images to show
    pub gallery: &'a Gallery,
    /// How the model came about, if its study is beside it
    pub study: Option<&'a Study>,
}

/// Draw all figures and write them as SVG, PNG and PDF; their names go to `written`.
///
/// # Errors
/// [`Error::Figure`], [`Error::File`]
pub fn write(folder: &Path, figures: Vec<Figure>, written: &mut Vec<String>) -> Result<Vec<Shown>, Error> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = figures.len().div_ceil(threads).max(1);
    let drawn: Vec<Result<draw::Drawn, String>> = std::thread::scope(|scope| {
        let started: Vec<_> = figures
            .chunks(share)
            .map(|figures| scope.spawn(|| figures.iter().map(draw::draw).collect::<Vec<_>>()))
            .collect();
        let joined = started.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        joined.flatten().collect()
    });
    let mut shown = Vec::new();
    for (figure, drawn) in figures.into_iter().zip(drawn) {
        let Figure { name, title, caption, .. } = figure;
        let drawn = drawn.map_err(|reason| Error::Figure { name, reason })?;
        let parts: [(&str, &[u8]); 3] =
            [("svg", drawn.svg.as_bytes()), ("png", &drawn.png), ("pdf", &drawn.pdf)];
        for (extension, bytes) in parts {
            let file = format!("figures/{name}.{extension}");
            files::write_bytes(&folder.join(&file), bytes)?;
            written.push(file);
        }
        shown.push(Shown { name, title, caption, svg: drawn.inline });
    }
    Ok(shown)
}

/// All figures of a report.
pub fn of_report(material: &Material) -> Vec<Figure> {
    let Material { report, contenders, rows, gallery, study } = material;
    let mut figures = vec![
        rates::confusion(report),
        ranked::roc(contenders),
        ranked::precision_recall(contenders, report.numbers.prevalence),
        scores::histogram(material),
        ranked::thresholds(material),
        scores::reliability(material),
        rates::efficiency(report, contenders),
    ];
    if let Some(study) = study {
        figures.extend(training::epochs(study));
        figures.extend(training::trials(study));
    }
    figures.extend(pictures::exhibits(gallery, rows));
    figures
}

/// The figures of a comparison: the curves of all models over each other.
///
/// - `prevalence`: share of main tracks in the set
pub fn of_comparison(contenders: &[Contender], prevalence: f64) -> Vec<Figure> {
    vec![ranked::roc(contenders), ranked::precision_recall(contenders, prevalence)]
}
