//! How the scores of the two classes lie, and whether they can be read as probabilities.

use shared::metrics::{ClassWeights, reliability as reliability_bins};

use crate::interval::wilson;

use super::Material;
use super::chart::{Axis, Content, Figure, Ink, Mark, Series};

/// Bins of the score histograms.
const SCORE_BINS: usize = 50;

/// Scores of the two classes.
pub fn histogram(material: &Material) -> Figure {
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
