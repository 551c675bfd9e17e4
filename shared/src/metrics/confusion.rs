//! The four counts at one threshold and the rates made of them.

use serde::{Deserialize, Serialize};

use super::ClassWeights;

/// The 2×2 confusion matrix; counts, or sums of weights after [`Confusion::reweighted`].
///
/// ```
/// let scores = [0.9, 0.4, 0.6, 0.1];
/// let labels = [true, true, false, false];
/// let c = shared::metrics::Confusion::at(&scores, &labels, 0.5);
/// assert_eq!((c.true_positive, c.false_negative), (1.0, 1.0));
/// assert_eq!((c.false_positive, c.true_negative), (1.0, 1.0));
/// assert!((c.main_track().f1 - 0.5).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// Main tracks called so
    pub true_positive: f64,
    /// Background called main track
    pub false_positive: f64,
    /// Main tracks called background
    pub false_negative: f64,
    /// Background called so
    pub true_negative: f64,
}

/// Precision, recall, F1 and support of one class, or of an average over both.
///
/// A rate without denominator is 0, as scikit-learn's with `zero_division=0`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// Share of the clusters called this class that are of it (purity)
    pub precision: f64,
    /// Share of the clusters of this class that are called so (efficiency)
    pub recall: f64,
    /// Harmonic mean of the two
    #[serde(rename = "f1-score")]
    pub f1: f64,
    /// Clusters of this class, or their weight
    pub support: f64,
}

/// The two averages of scikit-learn's `classification_report`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Averages {
    /// Plain mean over the classes
    pub macro_avg: ClassReport,
    /// Mean weighted by support
    pub weighted_avg: ClassReport,
}

impl Confusion {
    /// Counts when clusters with `score >= threshold` are called main track.
    pub fn at(scores: &[f32], labels: &[bool], threshold: f32) -> Self {
        let mut cells = [[0_u64; 2]; 2];
        for (&score, &label) in scores.iter().zip(labels) {
            cells[usize::from(label)][usize::from(score >= threshold)] += 1;
        }
        Self::from_counts(cells[1][1], cells[0][1], cells[1][0], cells[0][0])
    }

    /// From whole counts.
    pub fn from_counts(
        true_positive: u64,
        false_positive: u64,
        false_negative: u64,
        true_negative: u64,
    ) -> Self {
        Self {
            true_positive: true_positive as f64,
            false_positive: false_positive as f64,
            false_negative: false_negative as f64,
            true_negative: true_negative as f64,
        }
    }

    /// The same classifier on another mix of the classes.
    #[must_use]
    pub fn reweighted(&self, weights: ClassWeights) -> Self {
        Self {
            true_positive: self.true_positive * weights.main_track,
            false_positive: self.false_positive * weights.background,
            false_negative: self.false_negative * weights.main_track,
            true_negative: self.true_negative * weights.background,
        }
    }

    /// Sum of all cells.
    pub fn total(&self) -> f64 {
        self.positives() + self.negatives()
    }

    /// Main tracks.
    pub fn positives(&self) -> f64 {
        self.true_positive + self.false_negative
    }

    /// Background clusters.
    pub fn negatives(&self) -> f64 {
        self.false_positive + self.true_negative
    }

    /// Report of the main-track class.
    pub fn main_track(&self) -> ClassReport {
        class(self.true_positive, self.false_positive, self.false_negative)
    }

    /// Report of the background class.
    pub fn background(&self) -> ClassReport {
        class(self.true_negative, self.false_negative, self.false_positive)
    }

    /// Averages over the two classes.
    pub fn averages(&self) -> Averages {
        let (background, main) = (self.background(), self.main_track());
        let support = background.support + main.support;
        let mean = |wb: f64, wm: f64| {
            let of = |b: f64, m: f64| ratio(wb * b + wm * m, wb + wm);
            ClassReport {
                precision: of(background.precision, main.precision),
                recall: of(background.recall, main.recall),
                f1: of(background.f1, main.f1),
                support,
            }
        };
        Averages { macro_avg: mean(1.0, 1.0), weighted_avg: mean(background.support, main.support) }
    }

    /// Share of all clusters called right.
    pub fn accuracy(&self) -> f64 {
        ratio(self.true_positive + self.true_negative, self.total())
    }

    /// F1 of the main-track class.
    pub fn f1(&self) -> f64 {
        self.main_track().f1
    }

    /// Plain mean of the two classes' F1.
    pub fn macro_f1(&self) -> f64 {
        self.averages().macro_avg.f1
    }

    /// Mean of the two classes' F1, weighted by support.
    pub fn weighted_f1(&self) -> f64 {
        self.averages().weighted_avg.f1
    }

    /// Mean recall of the classes that occur; NaN for an empty set.
    pub fn balanced_accuracy(&self) -> f64 {
        let recalls = [
            self.true_negative / self.negatives(), // 0 / 0 is NaN: that class is absent
            self.true_positive / self.positives(),
        ];
        let present: Vec<f64> = recalls.into_iter().filter(|r| !r.is_nan()).collect();
        present.iter().sum::<f64>() / present.len() as f64
    }

    /// Matthews correlation coefficient; 0 where it is undefined.
    pub fn mcc(&self) -> f64 {
        let called = (self.true_positive + self.false_positive) * (self.true_negative + self.false_negative);
        let truth = self.positives() * self.negatives();
        let denominator = called.sqrt() * truth.sqrt();
        if denominator == 0.0 {
            return 0.0;
        }
        (self.true_positive * self.true_negative - self.false_positive * self.false_negative) / denominator
    }

    /// Share of the background called main track.
    pub fn false_positive_rate(&self) -> f64 {
        ratio(self.false_positive, self.negatives())
    }
}

/// Report of a class from its hits, what was called so wrongly and what was missed.
fn class(hits: f64, wrong: f64, missed: f64) -> ClassReport {
    ClassReport {
        precision: ratio(hits, hits + wrong),
        recall: ratio(hits, hits + missed),
        f1: ratio(2.0 * hits, 2.0 * hits + wrong + missed),
        support: hits + missed,
    }
}

fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 { 0.0 } else { numerator / denominator }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_a_small_matrix_are_those_by_hand() {
        let c = Confusion::from_counts(6, 2, 4, 88);
        let main = c.main_track();
        assert!((main.precision - 0.75).abs() < 1e-15);
        assert!((main.recall - 0.6).abs() < 1e-15);
        assert!((main.f1 - 12.0 / 18.0).abs() < 1e-15);
        assert!((c.accuracy() - 0.94).abs() < 1e-15);
        assert!((c.balanced_accuracy() - f64::midpoint(0.6, 88.0 / 90.0)).abs() < 1e-15);
        // MCC by its definition: (6·88 − 2·4) / sqrt(8 · 92 · 10 · 90).
        assert!((c.mcc() - 520.0 / (8.0_f64 * 92.0 * 10.0 * 90.0).sqrt()).abs() < 1e-15);
        assert!((c.weighted_f1() - (0.9 * 176.0 / 182.0 + 0.1 * 12.0 / 18.0)).abs() < 1e-15);
    }

    #[test]
    fn balancing_keeps_recalls_and_total_and_moves_precision() {
        let c = Confusion::from_counts(6, 2, 4, 88);
        let b = c.reweighted(ClassWeights::for_prevalence(90, 10, 0.5));
        assert!((b.total() - 100.0).abs() < 1e-12);
        assert!((b.main_track().recall - 0.6).abs() < 1e-15);
        assert!((b.main_track().precision - 0.6 / (0.6 + 2.0 / 90.0)).abs() < 1e-12);
        assert!((b.macro_f1() - b.weighted_f1()).abs() < 1e-12, "equal supports make the averages equal");
    }

    #[test]
    fn an_absent_class_scores_zero_and_leaves_balanced_accuracy() {
        let c = Confusion::from_counts(0, 1, 0, 3);
        assert!(c.f1().abs() < f64::EPSILON && c.mcc().abs() < f64::EPSILON);
        assert!((c.balanced_accuracy() - 0.75).abs() < 1e-15);
    }
}
