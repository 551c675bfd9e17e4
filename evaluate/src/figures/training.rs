//! How the model came about: its training epoch by epoch, and the trials of its study.

use crate::study::Study;

use super::chart::{Axis, Content, Figure, Ink, Mark, Series};

/// Loss and F1 of the training.
pub fn epochs(study: &Study) -> Vec<Figure> {
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
pub fn trials(study: &Study) -> Option<Figure> {
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
