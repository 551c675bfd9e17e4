//! Rates at the chosen threshold: the confusion matrix, and the efficiency by energy.

use crate::judge::Contender;
use crate::report::Report;

use super::chart::{Axis, Content, Figure, Mark, Series};

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
