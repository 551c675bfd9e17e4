//! What an epoch is judged by: numbers of the validation rows, the study's objective, what early stopping watches.

use shared::config::{Monitor, Objective};
use shared::metrics;

use crate::history::Epoch;

/// What early stopping watches, as a number that is better when larger.
pub(crate) fn watched(monitor: Monitor, row: &Epoch) -> f64 {
    match monitor {
        Monitor::ValLoss => -row.val_loss,
        Monitor::ValAccuracy => row.val_accuracy,
        Monitor::ValF1 => row.val_f1,
    }
}

/// The study's objective at an epoch.
pub fn objective(objective: Objective, row: &Epoch) -> f64 {
    match objective {
        Objective::ValF1 => row.val_f1,
        Objective::ValAccuracy => row.val_accuracy,
        Objective::ValLoss => row.val_loss,
    }
}

/// Numbers of a validation.
pub(crate) struct Validation {
    /// Mean cross-entropy in nats
    pub loss: f64,
    /// Share of rows on the right side of 0.5
    pub accuracy: f64,
    /// F1 at its best threshold
    pub f1: f64,
}

/// Mean cross-entropy in nats, accuracy at 0.5, and F1 at the best threshold.
pub(crate) fn validate(logits: &[f32], labels: &[bool]) -> Validation {
    let rows = labels.len() as f64;
    let (mut loss, mut correct) = (0.0, 0_u64);
    for (&logit, &main) in logits.iter().zip(labels) {
        let z = f64::from(logit);
        // softplus(z) - y·z without overflow
        loss += z.max(0.0) + (-z.abs()).exp().ln_1p() - if main { z } else { 0.0 };
        correct += u64::from((logit >= 0.0) == main);
    }
    // F1 depends on the order of the scores only, so logits do as well as probabilities.
    let f1 = metrics::best_f1_threshold(logits, labels).map_or(0.0, |best| best.f1);
    Validation { loss: loss / rows, accuracy: correct as f64 / rows, f1 }
}
