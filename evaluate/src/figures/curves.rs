//! The curves of a report, each a chart with named axes.

use shared::metrics::{ClassWeights, CurvePoint, Ranking, reliability as reliability_bins};

use crate::interval::wilson;
use crate::judge::Contender;
use crate::numbers::Judged;
use crate::report::Report;
use crate::study::Study;

use super::Material;
use super::chart::{Axis, Content, Figure, Ink, Mark, Series};

/// Curves are thinned to steps of at least this share of an axis: finer than a printed line.
const STEP: f64 = 0.002;
/// Bins of the score histograms.
const SCORE_BINS: usize = 50;

/// Confusion matrix as rates of each true class.
pub fn confusion(report: &Report) -> Figure {
    let c = report.numbers.confusion;
    let cell = |part: f64, of: f64| {
        let share = if of > 0.0 { part / of } else { 0.0 };
        (share, format!("{:.1} % ({part})", 100.0 * share))
    };
    let values = vec![
        vec![cell(c.true_negative, c.negatives()), cell(c.false_positive, c.negatives())],
        vec![cell(c.false_negative, c.positives()), cell(c.true_positive, c.positives())],
    ];
    let names = || vec!["background".to_owned(), "main track".to_owned()];
    Figure {
        name: "confusion",
        title: "Confusion matrix".into(),
        caption: format!(
            "Shares of each true class. Counts: {} of {} main tracks found, {} of {} background clusters called main track.",
            c.true_positive,
            c.positives(),
            c.false_positive,
            c.negatives()
        ),
        content: Content::Matrix {
            rows: names(),
            columns: names(),
            values,
            axes: ("called".into(), "true class".into()),
        },
    }
}

/// Efficiency against background rate, the rate on a logarithmic axis.
pub fn roc(material: &Material) -> Figure {
    let point = |p: &CurvePoint| (p.confusion.false_positive_rate(), p.confusion.main_track().recall);
    let background =
        material.contenders.first().and_then(|c| c.2.ranking.as_ref()).map_or(1, |r| r.class_counts().0);
    let lowest = 10_f64.powf((1.0 / background.max(10) as f64).log10().floor());
    Figure {
        name: "roc",
        title: "Efficiency against background".into(),
        caption: "ROC curve. Each point is a threshold; the rate on a logarithmic axis shows where a trigger works.".into(),
        content: Content::Chart {
            x: Axis { label: "background called main track (rate)".into(), range: (lowest, 1.0), log: true },
            y: Axis::linear("efficiency for main tracks", (0.0, 1.0)),
            series: each(material, |judged| thinned(judged, point)),
            marks: Vec::new(),
        },
    }
}

/// Purity against efficiency at the set's own mix.
pub fn precision_recall(material: &Material) -> Figure {
    let point = |p: &CurvePoint| {
        let main = p.confusion.main_track();
        (main.recall, main.precision)
    };
    Figure {
        name: "precision-recall",
        title: "Purity against efficiency".into(),
        caption: format!(
            "Precision-recall curve at the set's own mix of {:.1} % main tracks.",
            100.0 * material.report.numbers.prevalence
        ),
        content: Content::Chart {
            x: Axis::linear("efficiency (recall) for main tracks", (0.0, 1.0)),
            y: Axis::linear("purity (precision) of main tracks", (0.0, 1.0)),
            series: each(material, |judged| thinned(judged, point)),
            marks: Vec::new(),
        },
    }
}

/// Scores of the two classes.
pub fn scores(material: &Material) -> Figure {
    let judged = &material.contenders[0].2;
    let mut counts = [[0_u64; SCORE_BINS]; 2];
    for (&score, &label) in judged.scores.iter().zip(judged.labels) {
        counts[usize::from(label)][((score * SCORE_BINS as f32) as usize).min(SCORE_BINS - 1)] += 1;
    }
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1) as f64;
    let steps = |counts: &[u64; SCORE_BINS]| {
        let edge = |at: usize| at as f64 / SCORE_BINS as f64;
        // An empty bin is drawn below the axis, which ends at half a cluster.
        let height = |count: u64| if count == 0 { 0.5 } else { count as f64 };
        let mut points: Vec<_> = counts.iter().enumerate().map(|(at, &n)| (edge(at), height(n))).collect();
        points.push((1.0, height(counts[SCORE_BINS - 1])));
        points
    };
    Figure {
        name: "scores",
        title: "Scores of the two classes".into(),
        caption: "Clusters in 50 bins of the score.".into(),
        content: Content::Chart {
            x: Axis::linear("score", (0.0, 1.0)),
            y: Axis {
                label: "clusters per bin".into(),
                range: (0.5, 10_f64.powf(most.log10().ceil().max(1.0))),
                log: true,
            },
            series: vec![
                Series::new("background", Ink::Baseline, Mark::Steps, steps(&counts[0])),
                Series::new("main track", Ink::Model, Mark::Steps, steps(&counts[1])),
            ],
            marks: vec![(f64::from(judged.threshold), "threshold".into(), Ink::Quiet)],
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

/// Share of main tracks against the score.
pub fn reliability(material: &Material) -> Figure {
    let mut series = vec![Series::new("perfect", Ink::Quiet, Mark::Dots, vec![(0.0, 0.0), (1.0, 1.0)])];
    for (name, ink, judged) in material.contenders.iter().filter(|c| c.2.probabilities) {
        let bins = reliability_bins(judged.scores, judged.labels, ClassWeights::ONE, 10);
        let filled: Vec<_> = bins.iter().filter(|bin| bin.count > 0).collect();
        let errors = filled.iter().filter_map(|bin| wilson(bin.main_tracks, bin.weight));
        series.push(Series {
            errors: errors.map(|interval| (interval.low, interval.high)).collect(),
            ..Series::new(
                name,
                *ink,
                Mark::Points,
                filled.iter().map(|bin| (bin.mean_score(), bin.fraction())).collect(),
            )
        });
    }
    Figure {
        name: "reliability",
        title: "Can the score be read as a probability?".into(),
        caption: "Share of main tracks in 10 bins of the score, with 95 % Wilson intervals.".into(),
        content: Content::Chart {
            x: Axis::linear("mean score of the bin", (0.0, 1.0)),
            y: Axis::linear("share of main tracks", (0.0, 1.0)),
            series,
            marks: Vec::new(),
        },
    }
}

/// Efficiency in bins of the cluster energy.
pub fn efficiency(report: &Report, contenders: &[Contender]) -> Figure {
    let table = report.bins.iter().find(|table| table.quantity == "cluster energy");
    let bins: Vec<_> = table.into_iter().flat_map(|table| &table.bins).collect();
    let last = bins.last().map_or(1.0, |bin| bin.high.or(bin.low.map(|low| 1.3 * low)).unwrap_or(1.0));
    let mut series = Vec::new();
    for (at, (name, ink, _)) in contenders.iter().enumerate() {
        // Side by side, so that the bars don't hide each other.
        let shift = 0.45 + 0.1 * at as f64;
        let mut one = Series::new(name, *ink, Mark::Points, Vec::new());
        for bin in &bins {
            let (rates, low) = (bin.rates[at], bin.low.unwrap_or(0.0));
            if let (Some(value), Some(interval)) = (rates.efficiency, rates.efficiency_interval) {
                one.points.push((low + shift * (bin.high.unwrap_or(last) - low), value));
                one.errors.push((interval.low, interval.high));
            }
        }
        series.push(one);
    }
    Figure {
        name: "efficiency-energy",
        title: "Efficiency by cluster energy".into(),
        caption: "Share of the main tracks that are found, with 95 % Wilson intervals; the cut is a step by construction.".into(),
        content: Content::Chart {
            x: Axis::linear("cluster energy (MeV)", (0.0, last)),
            y: Axis::linear("efficiency for main tracks", (0.0, 1.05)),
            series,
            marks: Vec::new(),
        },
    }
}

/// Loss and F1 of the training.
pub fn training(study: &Study) -> Vec<Figure> {
    let epochs = study.history.len() as f64;
    if study.history.is_empty() {
        return Vec::new();
    }
    let over = |value: fn(&crate::study::Epoch) -> f64| -> Vec<(f64, f64)> {
        study.history.iter().map(|e| (e.number, value(e))).filter(|p| p.1.is_finite()).collect()
    };
    let last = study.history.iter().map(|e| e.number).fold(epochs, f64::max);
    let chart = |name, title: &str, label: &str, range, series| Figure {
        name,
        title: title.into(),
        caption: format!("Trial {}.", study.trial),
        content: Content::Chart {
            x: Axis::linear("epoch", (0.0, last.max(1.0))),
            y: Axis::linear(label, range),
            series,
            marks: Vec::new(),
        },
    };
    let (loss, val_loss) = (over(|e| e.loss), over(|e| e.val_loss));
    let highest = loss.iter().chain(&val_loss).map(|p| p.1).fold(0.0, f64::max);
    vec![
        chart(
            "training-loss",
            "Loss while training",
            "binary cross-entropy (nats)",
            (0.0, 1.05 * highest),
            vec![
                Series::new("training", Ink::Model, Mark::Line, loss),
                Series::new("validation", Ink::Baseline, Mark::Dashes, val_loss),
            ],
        ),
        chart(
            "training-quality",
            "Validation while training",
            "share",
            (0.0, 1.0),
            vec![
                Series::new("accuracy", Ink::Model, Mark::Line, over(|e| e.val_accuracy)),
                Series::new("F1 of main tracks", Ink::Baseline, Mark::Dashes, over(|e| e.val_f1)),
            ],
        ),
    ]
}

/// Values of the study's trials.
pub fn study(study: &Study) -> Option<Figure> {
    let values: Vec<(f64, f64)> = study.trials.iter().map(|t| (f64::from(t.number), t.value)).collect();
    if values.len() < 2 {
        return None;
    }
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v.1), h.max(v.1)));
    let margin = 0.1 * (high - low).max(1e-3);
    let minimised = study.objective == "val_loss";
    let mut best = Vec::new();
    for &(number, value) in &values {
        let so_far: f64 = best.last().map_or(value, |b: &(f64, f64)| b.1);
        best.push((number, if minimised { so_far.min(value) } else { so_far.max(value) }));
    }
    Some(Figure {
        name: "study",
        title: "The study's trials".into(),
        caption: format!("{} of each complete trial, and the best so far.", study.objective),
        content: Content::Chart {
            x: Axis::linear("trial", (0.0, values.last().map_or(1.0, |v| v.0.max(1.0)))),
            y: Axis::linear(study.objective.clone(), (low - margin, high + margin)),
            series: vec![
                Series::new("best so far", Ink::Quiet, Mark::Steps, best),
                Series::new("trial", Ink::Model, Mark::Points, values),
            ],
            marks: Vec::new(),
        },
    })
}

/// A series for each classifier; the baseline is dashed as well as orange.
fn each(material: &Material, points: impl Fn(&Judged) -> Vec<(f64, f64)>) -> Vec<Series> {
    let mark = |ink: Ink| match ink {
        Ink::Baseline => Mark::Dashes,
        Ink::Other(_) => Mark::Dots,
        Ink::Model | Ink::Quiet => Mark::Line,
    };
    material
        .contenders
        .iter()
        .map(|(name, ink, judged)| Series::new(name, *ink, mark(*ink), points(judged)))
        .collect()
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
