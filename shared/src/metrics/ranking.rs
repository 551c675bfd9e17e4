//! Clusters in the order of their scores: every possible cut, its counts, and the areas under curves.

use super::{ClassWeights, Confusion};

/// The cut with the best F1 of the main-track class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BestCut {
    /// Clusters with scores at or above are called main track
    pub threshold: f32,
    /// F1 of the main-track class at that threshold, on the data it was chosen on
    pub f1: f64,
}

/// Counts at one of the possible cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Lowest score that is still called main track, in the order of [`order_bits`]
    bits: u32,
    true_positive: u64,
    false_positive: u64,
}

/// A point of the curves over the threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Lowest score that is called main track
    pub threshold: f32,
    /// Counts at this threshold
    pub confusion: Confusion,
}

/// All distinct cuts of a set of scores, from the strictest to the loosest. Equal scores are never parted.
///
/// ```
/// let ranking = shared::metrics::Ranking::new(&[0.8, 0.4, 0.4], &[true, true, false]).unwrap();
/// assert_eq!(ranking.len(), 2);
/// assert!((ranking.roc_auc() - 0.75).abs() < 1e-12);
/// ```
#[derive(Debug, Clone)]
pub struct Ranking {
    cuts: Vec<Cut>,
    positives: u64,
    negatives: u64,
}

impl Ranking {
    /// Sort the scores; `None` for an empty set or one with a NaN.
    pub fn new(scores: &[f32], labels: &[bool]) -> Option<Self> {
        if scores.is_empty() || scores.iter().any(|s| s.is_nan()) {
            return None;
        }
        // One integer a cluster sorts faster than pairs: score above, label in the lowest bit.
        let mut keys: Vec<u64> = scores
            .iter()
            .zip(labels)
            .map(|(&score, &label)| u64::from(order_bits(score)) << 1 | u64::from(label))
            .collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let mut ranking = Self { cuts: Vec::new(), positives: 0, negatives: 0 };
        for run in keys.chunk_by(|a, b| a >> 1 == b >> 1) {
            let positives = run.iter().filter(|&&key| key & 1 == 1).count() as u64;
            ranking.positives += positives;
            ranking.negatives += run.len() as u64 - positives;
            ranking.cuts.push(Cut {
                bits: (run[0] >> 1) as u32,
                true_positive: ranking.positives,
                false_positive: ranking.negatives,
            });
        }
        Some(ranking)
    }

    /// Number of distinct scores.
    pub fn len(&self) -> usize {
        self.cuts.len()
    }

    /// Never: an empty set has no ranking.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Background clusters and main tracks of the set.
    pub fn class_counts(&self) -> (u64, u64) {
        (self.negatives, self.positives)
    }

    /// The possible cuts from the strictest to the loosest (which calls everything main track).
    pub fn points(&self) -> impl ExactSizeIterator<Item = CurvePoint> + '_ {
        self.cuts
            .iter()
            .map(|cut| CurvePoint { threshold: from_order_bits(cut.bits), confusion: self.confusion(cut) })
    }

    /// Area under the ROC curve: the chance that a main track scores higher than a background cluster, ties
    /// counting half. NaN if a class is absent.
    pub fn roc_auc(&self) -> f64 {
        let mut before = (0, 0);
        let mut doubled = 0_u128; // exact: twice the area in cells of 1 × 1
        for cut in &self.cuts {
            let (tp, fp) = (cut.true_positive, cut.false_positive);
            doubled += u128::from(fp - before.1) * u128::from(tp + before.0);
            before = (tp, fp);
        }
        doubled as f64 / (2.0 * self.positives as f64 * self.negatives as f64)
    }

    /// Average precision: the sum over cuts of the gain in recall times the precision there. 0 without main tracks.
    ///
    /// - `weights`: [`ClassWeights::ONE`] for the set's own mix
    pub fn average_precision(&self, weights: ClassWeights) -> f64 {
        if self.positives == 0 {
            return 0.0;
        }
        let mut before = 0;
        let mut sum = 0.0;
        for cut in self.cuts.iter().filter(|cut| cut.true_positive > 0) {
            let hits = weights.main_track * cut.true_positive as f64;
            let precision = hits / (hits + weights.background * cut.false_positive as f64);
            sum += (cut.true_positive - before) as f64 * precision;
            before = cut.true_positive;
        }
        sum / self.positives as f64
    }

    /// The cut with the best F1 of the main-track class; see [`best_f1_threshold`].
    pub fn best_f1(&self) -> Option<BestCut> {
        // F1 = 2 tp / (positives + called), compared as fractions so that rounding decides nothing.
        let fraction = |cut: &Cut| {
            let called = cut.true_positive + cut.false_positive;
            (u128::from(2 * cut.true_positive), u128::from(self.positives + called))
        };
        let mut best = 0;
        for i in 1..self.cuts.len() {
            let ((n, d), (best_n, best_d)) = (fraction(&self.cuts[i]), fraction(&self.cuts[best]));
            if n * best_d > best_n * d {
                best = i;
            }
        }
        let f1 = self.confusion(&self.cuts[best]).f1();
        (self.positives > 0).then(|| BestCut { threshold: self.threshold_between(best), f1 })
    }

    /// The loosest cut that still has this precision (purity), so the one with the most efficiency.
    pub fn threshold_for_precision(&self, precision: f64) -> Option<f32> {
        let at = self.cuts.iter().rposition(|cut| self.confusion(cut).main_track().precision >= precision)?;
        Some(self.threshold_between(at))
    }

    /// The strictest cut that has this recall (efficiency), so the one with the most purity.
    pub fn threshold_for_recall(&self, recall: f64) -> Option<f32> {
        let at = self.cuts.iter().position(|cut| self.confusion(cut).main_track().recall >= recall)?;
        (self.positives > 0).then(|| self.threshold_between(at))
    }

    /// The loosest cut that calls at most this share of the background main track; `None` if even the strictest
    /// calls more.
    pub fn cut_for_background_rate(&self, rate: f64) -> Option<CurvePoint> {
        let at = self.cuts.iter().rposition(|cut| self.confusion(cut).false_positive_rate() <= rate)?;
        Some(CurvePoint { threshold: self.threshold_between(at), confusion: self.confusion(&self.cuts[at]) })
    }

    fn confusion(&self, cut: &Cut) -> Confusion {
        Confusion::from_counts(
            cut.true_positive,
            cut.false_positive,
            self.positives - cut.true_positive,
            self.negatives - cut.false_positive,
        )
    }

    /// A threshold for cut `at`: half-way down to the next lower score, so that a score that differs in its last
    /// bit on another machine stays on its side; the lowest score itself for the last cut.
    fn threshold_between(&self, at: usize) -> f32 {
        let upper = from_order_bits(self.cuts[at].bits);
        let Some(next) = self.cuts.get(at + 1) else { return upper };
        let lower = from_order_bits(next.bits);
        let middle = f64::midpoint(f64::from(lower), f64::from(upper)) as f32;
        if middle > lower && middle <= upper { middle } else { upper }
    }
}

/// The threshold with the best F1 of the main-track class over all possible cuts.
///
/// Among cuts with the same F1 the strictest wins. The threshold lies half-way between the lowest score that is
/// called main track and the next lower one. `None` for a set without main tracks, or with a NaN.
///
/// ```
/// let best = shared::metrics::best_f1_threshold(&[0.9, 0.7, 0.5, 0.1], &[true, true, false, false]).unwrap();
/// assert!((best.threshold - 0.6).abs() < 1e-6);
/// assert!((best.f1 - 1.0).abs() < 1e-12);
/// ```
pub fn best_f1_threshold(scores: &[f32], labels: &[bool]) -> Option<BestCut> {
    Ranking::new(scores, labels)?.best_f1()
}

/// Area under the ROC curve; NaN if a class is absent or a score is NaN. See [`Ranking::roc_auc`].
pub fn roc_auc(scores: &[f32], labels: &[bool]) -> f64 {
    Ranking::new(scores, labels).map_or(f64::NAN, |ranking| ranking.roc_auc())
}

/// Average precision; NaN if a score is NaN or there are none. See [`Ranking::average_precision`].
pub fn average_precision(scores: &[f32], labels: &[bool]) -> f64 {
    Ranking::new(scores, labels).map_or(f64::NAN, |ranking| ranking.average_precision(ClassWeights::ONE))
}

/// An integer that sorts as the score does; both zeros are one.
fn order_bits(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // −0 + 0 = 0
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

fn from_order_bits(bits: u32) -> f32 {
    f32::from_bits(if bits >> 31 == 1 { bits & !(1 << 31) } else { !bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_bits_sort_like_scores_and_come_back() {
        let sorted = [f32::NEG_INFINITY, -3.5, -1e-40, 0.0, 1e-40, 0.25, 7.0, f32::INFINITY];
        for pair in sorted.windows(2) {
            assert!(order_bits(pair[0]) < order_bits(pair[1]), "{pair:?}");
        }
        for value in sorted {
            assert_eq!(from_order_bits(order_bits(value)).to_bits(), value.to_bits());
        }
        assert_eq!(order_bits(-0.0), order_bits(0.0));
    }

    #[test]
    fn the_strictest_of_equal_cuts_wins() {
        // Above 0.8: F1 = 2/3 (1 hit, 1 missed); above 0.5: 1 hit, 1 wrong, 1 missed; above 0.2: 2 hits, 2 wrong:
        // F1 = 4/6 = 2/3 again.
        let best = best_f1_threshold(&[0.8, 0.6, 0.5, 0.2], &[true, false, false, true]).unwrap();
        assert!((best.f1 - 2.0 / 3.0).abs() < 1e-15);
        assert!((best.threshold - 0.7).abs() < 1e-6);
    }

    #[test]
    fn tied_scores_are_never_parted() {
        let ranking = Ranking::new(&[0.5, 0.5, 0.5, 0.5], &[true, false, true, false]).unwrap();
        assert_eq!(ranking.len(), 1);
        assert!((ranking.roc_auc() - 0.5).abs() < 1e-15);
        assert!((ranking.best_f1().unwrap().threshold - 0.5).abs() < f32::EPSILON);
    }

    #[test]
    fn no_main_tracks_no_cut_and_nan_scores_no_cut() {
        assert_eq!(best_f1_threshold(&[0.5, 0.1], &[false, false]), None);
        assert_eq!(best_f1_threshold(&[0.5, f32::NAN], &[true, false]), None);
        assert_eq!(best_f1_threshold(&[], &[]), None);
        assert!(roc_auc(&[0.1, 0.2], &[true, true]).is_nan());
    }

    #[test]
    fn neighbouring_floats_get_a_threshold_that_parts_them() {
        let low = 0.5_f32;
        let high = f32::from_bits(low.to_bits() + 1);
        let best = best_f1_threshold(&[high, low], &[true, false]).unwrap();
        assert_eq!(best.threshold.to_bits(), high.to_bits());
    }

    #[test]
    fn wanted_purity_efficiency_and_background_rate_choose_their_cuts() {
        let scores = [0.9, 0.8, 0.7, 0.6, 0.5];
        let labels = [true, false, true, true, false];
        let ranking = Ranking::new(&scores, &labels).unwrap();
        // Precisions: 1, 1/2, 2/3, 3/4, 3/5; recalls: 1/3, 1/3, 2/3, 1, 1.
        assert!((ranking.threshold_for_precision(0.75).unwrap() - 0.55).abs() < 1e-6);
        assert_eq!(ranking.threshold_for_precision(1.1), None);
        assert!((ranking.threshold_for_recall(0.5).unwrap() - 0.65).abs() < 1e-6);
        let point = ranking.cut_for_background_rate(0.5).unwrap();
        assert!((point.confusion.main_track().recall - 1.0).abs() < 1e-15);
    }
}
