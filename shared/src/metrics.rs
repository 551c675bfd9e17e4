//! Scores against labels: what scikit-learn computes, in the same words and with the same treatment of ties.
//!
//! Everywhere `scores` and `labels` have one entry a cluster, and a label is true for a main track. A cluster is
//! called main track when its score is at or above the threshold.

mod confusion;
mod probability;
mod ranking;

pub use confusion::{Averages, ClassReport, Confusion};
pub use probability::{
    ReliabilityBin, brier, brier_weighted, calibration_error, ece, log_loss, log_loss_weighted, reliability,
};
pub use ranking::{BestCut, CurvePoint, Ranking, average_precision, best_f1_threshold, roc_auc};

/// What one cluster of each class counts, to re-weight a set to another mix of the classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassWeights {
    /// Weight of a background cluster
    pub background: f64,
    /// Weight of a main track
    pub main_track: f64,
}

impl ClassWeights {
    /// The set's own mix: everything counts once.
    pub const ONE: Self = Self { background: 1.0, main_track: 1.0 };

    /// Weights that give main tracks the share `prevalence` (0 to 1) and keep the total; a class that is absent keeps
    /// the weight 1.
    ///
    /// - `background`, `main_track`: how many clusters of each class the set has
    pub fn for_prevalence(background: u64, main_track: u64, prevalence: f64) -> Self {
        if background == 0 || main_track == 0 {
            return Self::ONE;
        }
        let total = (background + main_track) as f64;
        Self {
            background: total * (1.0 - prevalence) / background as f64,
            main_track: total * prevalence / main_track as f64,
        }
    }

    /// The weight of a cluster with this label.
    pub const fn of(self, label: bool) -> f64 {
        if label { self.main_track } else { self.background }
    }
}

/// Number of background clusters and of main tracks.
pub fn class_counts(labels: &[bool]) -> (u64, u64) {
    let main = labels.iter().filter(|&&label| label).count() as u64;
    (labels.len() as u64 - main, main)
}
