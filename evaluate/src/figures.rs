//! The figures of a report: which there are, and what each shows.

pub mod chart;
mod curves;
mod draw;
mod pictures;

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
pub fn write(folder: &Path, material: &Material, written: &mut Vec<String>) -> Result<Vec<Shown>, Error> {
    let figures = figures(material);
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

fn figures(material: &Material) -> Vec<Figure> {
    let mut figures = vec![
        curves::confusion(material.report),
        curves::roc(material),
        curves::precision_recall(material),
        curves::scores(material),
        curves::thresholds(material),
        curves::reliability(material),
        curves::efficiency(material.report, material.contenders),
    ];
    figures.extend(material.study.into_iter().flat_map(curves::training));
    figures.extend(material.study.and_then(curves::study));
    figures.extend(pictures::exhibits(material.gallery, material.rows));
    figures
}
