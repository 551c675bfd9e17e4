//! Scores as probabilities: losses and calibration.

use serde::{Deserialize, Serialize};

use super::ClassWeights;

/// Mean binary cross-entropy in nats; scores are first clipped to 2.2e-16 … 1 − 2.2e-16, as scikit-learn clips f64.
/// NaN for an empty set.
pub fn log_loss(scores: &[f32], labels: &[bool]) -> f64 {
    log_loss_weighted(scores, labels, ClassWeights::ONE)
}

/// [`log_loss`] on another mix of the classes.
pub fn log_loss_weighted(scores: &[f32], labels: &[bool], weights: ClassWeights) -> f64 {
    mean(scores, labels, weights, |p, label| {
        let p = p.clamp(f64::EPSILON, 1.0 - f64::EPSILON);
        -(if label { p } else { 1.0 - p }).ln()
    })
}

/// Brier score: mean squared difference of score and label (0 or 1). NaN for an empty set.
pub fn brier(scores: &[f32], labels: &[bool]) -> f64 {
    brier_weighted(scores, labels, ClassWeights::ONE)
}

/// [`brier`] on another mix of the classes.
pub fn brier_weighted(scores: &[f32], labels: &[bool], weights: ClassWeights) -> f64 {
    mean(scores, labels, weights, |p, label| (p - f64::from(u8::from(label))).powi(2))
}

fn mean(scores: &[f32], labels: &[bool], weights: ClassWeights, term: impl Fn(f64, bool) -> f64) -> f64 {
    let (mut sum, mut total) = (0.0, 0.0);
    for (&score, &label) in scores.iter().zip(labels) {
        let weight = weights.of(label);
        sum += weight * term(f64::from(score), label);
        total += weight;
    }
    sum / total
}

/// One bin of the reliability diagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Weight of the clusters in the bin
    pub weight: f64,
    /// Weight of its main tracks
    pub main_tracks: f64,
    /// Clusters in the bin, unweighted
    pub count: u64,
    /// Sum of weight times score
    pub score_sum: f64,
}

impl ReliabilityBin {
    /// Mean score; NaN in an empty bin.
    pub fn mean_score(&self) -> f64 {
        self.score_sum / self.weight
    }

    /// Share of main tracks; NaN in an empty bin.
    pub fn fraction(&self) -> f64 {
        self.main_tracks / self.weight
    }
}

/// The reliability diagram: `bins` equal bins over 0 to 1, each with its upper edge and without its lower one (the
/// first has both), as scikit-learn's `calibration_curve`.
pub fn reliability(
    scores: &[f32],
    labels: &[bool],
    weights: ClassWeights,
    bins: usize,
) -> Vec<ReliabilityBin> {
    let mut result = vec![ReliabilityBin::default(); bins];
    let step = 1.0 / bins as f64;
    for (&score, &label) in scores.iter().zip(labels) {
        let (score, weight) = (f64::from(score), weights.of(label));
        // The product may round across an edge: compare with the edges themselves.
        let mut at = ((score * bins as f64) as usize).min(bins - 1);
        if at > 0 && score <= at as f64 * step {
            at -= 1;
        } else if at + 1 < bins && score > (at + 1) as f64 * step {
            at += 1;
        }
        let bin = &mut result[at];
        bin.count += 1;
        bin.weight += weight;
        bin.score_sum += weight * score;
        bin.main_tracks += if label { weight } else { 0.0 };
    }
    result
}

/// Expected calibration error over the bins of a reliability diagram: the mean distance of score and share of main
/// tracks, weighted by bin; empty bins count nothing. NaN for an empty set.
pub fn calibration_error(bins: &[ReliabilityBin]) -> f64 {
    let total: f64 = bins.iter().map(|bin| bin.weight).sum();
    bins.iter().map(|bin| (bin.score_sum - bin.main_tracks).abs()).sum::<f64>() / total
}

/// Expected calibration error over 10 equal bins.
pub fn ece(scores: &[f32], labels: &[bool]) -> f64 {
    calibration_error(&reliability(scores, labels, ClassWeights::ONE, 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_those_by_hand() {
        let (scores, labels) = ([0.5, 0.25], [true, false]);
        assert!(
            (log_loss(&scores, &labels) - f64::midpoint(-(0.5_f64.ln()), -(0.75_f64.ln()))).abs() < 1e-15
        );
        assert!((brier(&scores, &labels) - f64::midpoint(0.25, 0.0625)).abs() < 1e-15);
        assert!(
            log_loss(&[0.0], &[true]).is_finite(),
            "a certain and wrong score costs much, not everything"
        );
    }

    #[test]
    fn a_score_on_an_edge_is_in_the_lower_bin_and_empty_bins_count_nothing() {
        let bins = reliability(&[0.0, 0.5, 0.500_001, 1.0], &[false, true, true, true], ClassWeights::ONE, 2);
        assert_eq!(bins.iter().map(|b| b.count).collect::<Vec<_>>(), [2, 2]);
        // All in one bin: mean score 0.75, all main tracks.
        assert!((ece(&[0.75, 0.75], &[true, true]) - 0.25).abs() < 1e-15);
    }
}
