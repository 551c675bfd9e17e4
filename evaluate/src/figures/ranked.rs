//! Curves over all thresholds: efficiency, background and purity.

use shared::metrics::{CurvePoint, Ranking};

use crate::judge::Contender;
use crate::numbers::Judged;

use super::Material;
use super::chart::{Axis, Content, Figure, Ink, Mark, Series};

/// Curves are thinned to steps of at least this share of an axis: finer than a printed line.
const STEP: f64 = 0.002;

/// Efficiency against background rate, the rate on a logarithmic axis.
pub fn roc(contenders: &[Contender]) -> Figure {
    let point = |p: &CurvePoint| (p.confusion.false_positive_rate(), p.confusion.main_track().recall);
    let background = contenders.first().and_then(|c| c.2.ranking.as_ref()).map_or(1, |r| r.class_counts().0);
    let lowest = 10_f64.powf((1.0 / background.max(10) as f64).log10().floor());
    Figure {
        name: "roc",
        title: "Efficiency against background".into(),
        caption: "ROC curve. Each point is a threshold; the rate on a logarithmic axis shows where a trigger works.".into(),
        content: Content::Chart {
            x: Axis { label: "background called main track (rate)".into(), range: (lowest, 1.0), log: true },
            y: Axis::linear("efficiency for main tracks", (0.0, 1.0)),
            series: each(contenders, |judged| thinned(judged, point)),
            marks: Vec::new(),
        },
    }
}

/// Purity against efficiency at the set's own mix.
///
/// - `prevalence`: share of main tracks in the set
pub fn precision_recall(contenders: &[Contender], prevalence: f64) -> Figure {
    let point = |p: &CurvePoint| {
        let main = p.confusion.main_track();
        (main.recall, main.precision)
    };
    Figure {
        name: "precision-recall",
        title: "Purity against efficiency".into(),
        caption: format!(
            "Precision-recall curve at the set's own mix of {:.1} % main tracks.",
            100.0 * prevalence
        ),
        content: Content::Chart {
            x: Axis::linear("efficiency (recall) for main tracks", (0.0, 1.0)),
            y: Axis::linear("purity (precision) of main tracks", (0.0, 1.0)),
            series: each(contenders, |judged| thinned(judged, point)),
            marks: Vec::new(),
        },
    }
}

/// Purity, efficiency and F1 against the threshold.
pub fn thresholds(material: &Material) -> Figure {
    let judged = &material.contenders[0].2;
    let over = |value: fn(&CurvePoint) -> f64| thinned(judged, |p| (f64::from(p.threshold), value(p)));
    Figure {
        name: "thresholds",
        title: "What the threshold trades".into(),
        caption: format!(
            "The chosen threshold is {} ({}).",
            material.report.numbers.threshold, material.report.threshold_source
        ),
        content: Content::Chart {
            x: Axis::linear("threshold on the score", (0.0, 1.0)),
            y: Axis::linear("share", (0.0, 1.0)),
            series: vec![
                Series::new("F1", Ink::Model, Mark::Line, over(|p| p.confusion.f1())),
                Series::new(
                    "purity",
                    Ink::Baseline,
                    Mark::Dashes,
                    over(|p| p.confusion.main_track().precision),
                ),
                Series::new(
                    "efficiency",
                    Ink::Other(0),
                    Mark::Dots,
                    over(|p| p.confusion.main_track().recall),
                ),
            ],
            marks: vec![(f64::from(judged.threshold), "chosen".into(), Ink::Quiet)],
        },
    }
}

/// A series for each classifier; the baseline is dashed as well as orange.
fn each(contenders: &[Contender], points: impl Fn(&Judged) -> Vec<(f64, f64)>) -> Vec<Series> {
    let mark = |ink: Ink| match ink {
        Ink::Baseline => Mark::Dashes,
        Ink::Other(_) => Mark::Dots,
        Ink::Model | Ink::Quiet => Mark::Line,
    };
    contenders.iter().map(|(name, ink, judged)| Series::new(name, *ink, mark(*ink), points(judged))).collect()
}

/// The curve over all thresholds, without points that are no step away from the one before.
fn thinned(judged: &Judged, point: impl Fn(&CurvePoint) -> (f64, f64)) -> Vec<(f64, f64)> {
    let Some(ranking) = judged.ranking.as_ref() else { return Vec::new() };
    thin(ranking, point)
}

fn thin(ranking: &Ranking, point: impl Fn(&CurvePoint) -> (f64, f64)) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let last = ranking.len() - 1;
    for (at, cut) in ranking.points().enumerate() {
        let (x, y) = point(&cut);
        // Near zero a logarithmic axis shows finer steps than a linear one.
        let far = kept.last().is_none_or(|&(kx, ky)| {
            (x - kx).abs() > STEP * x.abs().max(kx.abs()).max(STEP) || (y - ky).abs() > STEP
        });
        if far || at == last {
            kept.push((x, y));
        }
    }
    kept
}
