//! Intervals: Wilson's for rates of independent clusters, the bootstrap by event for everything else.

use std::thread;

use rand::Rng;
use serde::{Deserialize, Serialize};
use shared::metrics::{ClassWeights, Confusion};

use crate::numbers::{F1, Judged};

/// Share of the intervals' coverage.
pub const LEVEL: f64 = 0.95;
/// Resamples of the bootstrap.
pub const RESAMPLES: usize = 2000;
/// Seed of the resamples; the stream of resample i is (`SEED`, "bootstrap", i).
const SEED: u64 = 20_240_229;
/// The normal distribution's quantile at (1 + [`LEVEL`]) / 2.
const Z: f64 = 1.959_963_984_540_054;

/// An interval from low to high.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end
    pub low: f64,
    /// Upper end
    pub high: f64,
}

/// Wilson's interval for a rate of `hits` in `total`; `None` for an empty total.
///
/// ```
/// let interval = evaluate::wilson(8.0, 10.0).unwrap();
/// assert!((interval.low - 0.4902).abs() < 1e-4 && (interval.high - 0.9433).abs() < 1e-4);
/// ```
pub fn wilson(hits: f64, total: f64) -> Option<Interval> {
    if total <= 0.0 {
        return None;
    }
    let (p, z2) = (hits / total, Z * Z / total);
    let centre = (p + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * (p * (1.0 - p) / total + z2 / (4.0 * total)).sqrt();
    Some(Interval { low: (centre - half).max(0.0), high: (centre + half).min(1.0) })
}

/// What one resample gives for one classifier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// At the set's own mix
    pub f1: F1,
    /// Re-weighted to as many main tracks as background
    pub balanced: F1,
    /// NaN if a class is absent
    pub roc_auc: f64,
}

/// Resample whole events with replacement, and judge every classifier on the same resamples.
///
/// - `judged`: classifiers of the same rows
/// - `events`: `[rows]`, numbers below `count`
/// - returns `[classifiers][resamples]`; the same for any number of threads
pub fn bootstrap(judged: &[&Judged], events: &[u32], count: usize, resamples: usize) -> Vec<Vec<Draw>> {
    let prepared: Vec<Prepared> = judged.iter().map(|j| Prepared::new(j, events, count)).collect();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = resamples.div_ceil(threads).max(1);
    let numbers: Vec<u64> = (0..resamples as u64).collect();
    let parts: Vec<Vec<Vec<Draw>>> = thread::scope(|scope| {
        let started: Vec<_> = numbers
            .chunks(share)
            .map(|numbers| scope.spawn(|| draw_all(&prepared, count, numbers)))
            .collect();
        started
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut all = vec![Vec::with_capacity(resamples); judged.len()];
    for part in parts {
        for (all, part) in all.iter_mut().zip(part) {
            all.extend(part);
        }
    }
    all
}

fn draw_all(prepared: &[Prepared], count: usize, numbers: &[u64]) -> Vec<Vec<Draw>> {
    let mut times = vec![0_u8; count];
    let mut random = vec![0_u8; 4 * count];
    let mut draws = vec![Vec::with_capacity(numbers.len()); prepared.len()];
    for &number in numbers {
        times.fill(0);
        shared::random::stream(SEED, "bootstrap", &[number]).fill_bytes(&mut random);
        for bytes in random.chunks_exact(4) {
            let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            // An event drawn more than 255 times is beyond chance wherever there are that many events.
            let at = ((u64::from(value) * count as u64) >> 32) as usize;
            times[at] = times[at].saturating_add(1);
        }
        for (draws, prepared) in draws.iter_mut().zip(prepared) {
            draws.push(prepared.draw(&times));
        }
    }
    draws
}

/// One classifier, laid out so that a resample is a few passes over memory.
struct Prepared {
    /// Counts of each event: hits, wrong, missed, rightly left
    tallies: [Vec<u16>; 4],
    /// Event of each row, group after group; in a group the background comes first
    order: Vec<u32>,
    /// Background clusters and main tracks of each group, from the highest scores down
    ///
    /// Rows of one score are in one group, and so are neighbours of one class, whose order among themselves doesn't
    /// matter for the area: a set that is well told apart has few groups.
    groups: Vec<[u32; 2]>,
}

impl Prepared {
    fn new(judged: &Judged, events: &[u32], count: usize) -> Self {
        let mut tallies = [const { Vec::new() }; 4];
        for tally in &mut tallies {
            tally.resize(count, 0_u16);
        }
        for ((&score, &label), &event) in judged.scores.iter().zip(judged.labels).zip(events) {
            let cell = match (label, score >= judged.threshold) {
                (true, true) => 0,
                (false, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
            };
            let tally = &mut tallies[cell][event as usize];
            *tally = tally.saturating_add(1);
        }
        let (order, groups) = grouped(judged, events);
        Self { tallies, order, groups }
    }

    fn draw(&self, times: &[u8]) -> Draw {
        let sum = |tally: &[u16]| -> u64 {
            // Sums of a few thousand products fit 32 bits, which the processor adds eight at a time.
            let block = |(tally, times): (&[u16], &[u8])| -> u64 {
                let products = tally.iter().zip(times).map(|(&t, &n)| u32::from(t) * u32::from(n));
                u64::from(products.sum::<u32>())
            };
            tally.chunks(256).zip(times.chunks(256)).map(block).sum()
        };
        let [hits, wrong, missed, left] = self.tallies.each_ref().map(|tally| sum(tally));
        let own = Confusion::from_counts(hits, wrong, missed, left);
        let weights = ClassWeights::for_prevalence(wrong + left, hits + missed, 0.5);
        Draw { f1: F1::of(&own), balanced: F1::of(&own.reweighted(weights)), roc_auc: self.auc(times) }
    }

    fn auc(&self, times: &[u8]) -> f64 {
        let (mut positives, mut negatives, mut doubled) = (0_u64, 0_u64, 0_u64);
        let mut rest = self.order.as_slice();
        for lengths in &self.groups {
            let [background, main] = lengths.map(|length| {
                let (these, others) = rest.split_at(length as usize);
                rest = others;
                these.iter().map(|&event| u64::from(times[event as usize])).sum::<u64>()
            });
            doubled += background * (2 * positives + main);
            positives += main;
            negatives += background;
        }
        doubled as f64 / (2.0 * positives as f64 * negatives as f64)
    }
}

/// Rows from the highest score down as [`Prepared`] keeps them: their events, and the groups' sizes.
fn grouped(judged: &Judged, events: &[u32]) -> (Vec<u32>, Vec<[u32; 2]>) {
    let labels = judged.labels.iter();
    // −0 + 0 = 0, so that both zeros are one score.
    let mut rows: Vec<(f32, bool, u32)> =
        judged.scores.iter().zip(labels).zip(events).map(|((&s, &l), &e)| (s + 0.0, l, e)).collect();
    rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut groups: Vec<[u32; 2]> = Vec::new();
    for ties in rows.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let main = ties.iter().filter(|row| row.1).count() as u32;
        let tied = [ties.len() as u32 - main, main];
        match groups.last_mut() {
            // Both are background only, or main tracks only.
            Some(last) if (last[0] + tied[0] == 0) || (last[1] + tied[1] == 0) => {
                *last = [last[0] + tied[0], last[1] + tied[1]];
            }
            _ => groups.push(tied),
        }
    }
    (rows.into_iter().map(|row| row.2).collect(), groups)
}

/// The percentile interval of resampled values; NaN among them (a class absent) are left out. `None` if none is left.
pub fn percentile(values: impl Iterator<Item = f64>) -> Option<Interval> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = q * (values.len() - 1) as f64;
        let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
        below + (above - below) * at.fract()
    };
    let tail = (1.0 - LEVEL) / 2.0;
    (!values.is_empty()).then(|| Interval { low: quantile(tail), high: quantile(1.0 - tail) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    fn set(n: usize) -> (Vec<f32>, Vec<bool>, Vec<u32>) {
        let mut random = shared::random::stream(3, "interval test", &[]);
        let labels: Vec<bool> = (0..n).map(|_| random.random_bool(0.3)).collect();
        let scores = labels
            .iter()
            .map(|&l| (random.random_range(0.0_f32..0.8) + if l { 0.2 } else { 0.0 }) * 50.0)
            .map(f32::round)
            .collect();
        (scores, labels, (0..n as u32).map(|row| row / 4).collect())
    }

    #[test]
    fn a_resample_is_the_set_with_events_repeated() {
        let (scores, labels, events) = set(40);
        let judged = Judged::energy_cut(&scores, &labels, 30.0);
        let times: Vec<u8> = (0..10).map(|event| [0, 1, 3, 2, 1, 0, 1, 0, 2, 0][event]).collect();
        let rows: Vec<usize> =
            (0..40).flat_map(|row| std::iter::repeat_n(row, times[row / 4] as usize)).collect();
        let repeated_scores: Vec<f32> = rows.iter().map(|&row| scores[row]).collect();
        let repeated_labels: Vec<bool> = rows.iter().map(|&row| labels[row]).collect();
        let expected = Judged::energy_cut(&repeated_scores, &repeated_labels, 30.0);
        let draw = Prepared::new(&judged, &events, 10).draw(&times);
        assert!((draw.f1.main_track - expected.numbers().f1.main_track).abs() < 1e-12);
        assert!((draw.balanced.macro_avg - expected.numbers_at(0.5).f1.macro_avg).abs() < 1e-12);
        assert!((draw.roc_auc - expected.numbers().roc_auc.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn the_interval_covers_the_estimate_and_narrows_with_more_events() {
        let width = |n: usize| {
            let (scores, labels, events) = set(n);
            let judged = Judged::energy_cut(&scores, &labels, 30.0);
            let draws = bootstrap(&[&judged], &events, n.div_ceil(4), 400);
            let interval = percentile(draws[0].iter().map(|draw| draw.roc_auc)).unwrap();
            let estimate = judged.numbers().roc_auc.unwrap();
            assert!(interval.low < estimate && estimate < interval.high);
            interval.high - interval.low
        };
        let (few, many) = (width(400), width(6400));
        assert!(
            (2.5..6.0).contains(&(few / many)),
            "16 times the events, a quarter of the width: {few} {many}"
        );
    }

    #[test]
    fn wilson_stays_within_zero_and_one_and_meets_a_published_value() {
        assert_eq!(wilson(0.0, 0.0), None);
        let none = wilson(0.0, 10.0).unwrap();
        assert!(none.low.abs() < 1e-15 && (none.high - 0.277_5).abs() < 1e-4);
        assert!((wilson(10.0, 10.0).unwrap().high - 1.0).abs() < 1e-15);
    }
}
