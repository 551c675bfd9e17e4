//! A Parzen estimator: a mixture with one kernel per observed point and a broad one, the prior.
//!
//! Kernels are those of Optuna 5: a kernel is a product over the parameters of a normal distribution cut off at the
//! range, or of a categorical one; the width of a normal is the larger distance to its neighbours, clipped. Weights and
//! limits of the widths are Optuna's for the rest of the trials, and our own for the best few ([`Role`]).

use std::collections::HashMap;

use super::normal;
use crate::study::distribution::Distribution;

/// Which trials an estimator is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// The best few, with a weight each: their kernels are narrower than Optuna's
    Best(Vec<f64>),
    /// The others, with Optuna's weights and widths
    Rest,
}

impl Role {
    /// Weight of each of `n` points.
    fn weights(&self, n: usize) -> Vec<f64> {
        match self {
            Self::Best(weights) => weights.clone(),
            Self::Rest => ramp(n),
        }
    }

    /// Least and greatest width of a kernel that is not the prior, in widths of the range.
    ///
    /// - `kernels`: how many there are, the prior among them
    fn limits(&self, kernels: f64) -> (f64, f64) {
        match self {
            Self::Best(_) => ((0.3 / (1.0 + kernels)).max(0.01), 0.2),
            Self::Rest => ((1.0 / (1.0 + kernels)).max(0.01), 1.0),
        }
    }
}

/// A mixture over the parameters of one group.
#[derive(Debug)]
pub struct Parzen<'a> {
    /// Weight of each kernel; they sum to 1. The prior is last.
    weights: Vec<f64>,
    axes: Vec<Axis<'a>>,
}

/// One parameter of all kernels.
#[derive(Debug)]
enum Axis<'a> {
    /// Index of each kernel's choice, but the prior's; the chance of a kernel's own choice and of any other one
    Choice { own: Vec<f64>, hit: f64, miss: f64, choices: usize },
    /// Centre and width of each kernel, in the logarithm for a log range
    Normal { mu: Vec<f64>, sigma: Vec<f64>, range: Range<'a>, shape: Shape },
    /// The only value of its range
    Fixed(f64),
}

/// A numerical range as the kernels see it.
#[derive(Debug, Clone, Copy)]
struct Range<'a> {
    distribution: &'a Distribution,
    log: bool,
    step: Option<f64>,
    /// Ends, widened by half a step, in the logarithm for a log range
    low: f64,
    high: f64,
}

/// Weights of `n` points in the order of their trials: the newest 25 weigh 1, older ones less and less.
fn ramp(n: usize) -> Vec<f64> {
    const FLAT: usize = 25;
    if n < FLAT {
        return vec![1.0; n];
    }
    let (first, count) = (1.0 / n as f64, n - FLAT);
    let step = if count > 1 { (1.0 - first) / (count - 1) as f64 } else { 0.0 };
    (0..count).map(|i| first + step * i as f64).chain([1.0; FLAT]).collect()
}

impl<'a> Parzen<'a> {
    /// - `distributions`: one per parameter of the group
    /// - `columns`: per parameter the internal values, in the order of the trials
    pub fn new(distributions: &[&'a Distribution], columns: Vec<Vec<f64>>, role: &Role) -> Self {
        let n = columns.first().map_or(0, Vec::len);
        let mut weights = role.weights(n);
        weights.push(1.0);
        let sum: f64 = weights.iter().sum();
        for weight in &mut weights {
            *weight /= sum;
        }
        let axes = distributions.iter().zip(columns).map(|(d, column)| Axis::new(d, column, role)).collect();
        Self { weights, axes }
    }

    /// One point: internal values, one per parameter.
    pub fn sample(&self, uniform: &mut impl FnMut() -> f64) -> Vec<f64> {
        let mut left = uniform();
        let last = self.weights.len() - 1;
        let kernel = self.weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        let kernel = kernel.unwrap_or(last);
        self.axes.iter().map(|axis| axis.sample(kernel, uniform)).collect()
    }

    /// Logarithm of the density at each point.
    pub fn log_pdf(&self, points: &[Vec<f64>]) -> Vec<f64> {
        let log_weights: Vec<f64> = self.weights.iter().map(|weight| weight.ln()).collect();
        let mut logs = log_weights.clone();
        let density = |point: &Vec<f64>| {
            logs.copy_from_slice(&log_weights);
            for (axis, value) in self.axes.iter().zip(point) {
                axis.add_log_pdf(*value, &mut logs);
            }
            log_sum_exp(&logs)
        };
        points.iter().map(density).collect()
    }
}

fn log_sum_exp(logs: &[f64]) -> f64 {
    let max = greatest(logs);
    if max == f64::NEG_INFINITY {
        return max;
    }
    // Beyond 40 below the greatest, a term is lost in rounding.
    let sum: f64 = logs.iter().map(|log| log - max).filter(|&log| log > -40.0).map(f64::exp).sum();
    max + sum.ln()
}

/// The greatest of some numbers, in eight rows: one alone would wait for each comparison.
fn greatest(numbers: &[f64]) -> f64 {
    let (eights, rest) = numbers.as_chunks::<8>();
    let mut rows = [f64::NEG_INFINITY; 8];
    for eight in eights {
        for (row, number) in rows.iter_mut().zip(eight) {
            *row = if number > row { *number } else { *row };
        }
    }
    rows.iter().chain(rest).copied().fold(f64::NEG_INFINITY, f64::max)
}

impl<'a> Axis<'a> {
    /// - `column`: internal values; the axis keeps them, since fresh memory costs more than the sums
    fn new(distribution: &'a Distribution, column: Vec<f64>, role: &Role) -> Self {
        if let Distribution::Categorical { choices } = distribution {
            let (choices, kernels) = (choices.len(), column.len() + 1);
            let smoothing = 1.0 / kernels as f64;
            let total = 1.0 + choices as f64 * smoothing;
            return Self::Choice {
                own: column,
                hit: (1.0 + smoothing) / total,
                miss: smoothing / total,
                choices,
            };
        }
        let range = Range::new(distribution);
        if range.low >= range.high {
            return Self::Fixed(range.outside(range.low));
        }
        let mut mu = column;
        for value in &mut mu {
            *value = range.inside(*value);
        }
        let mut sigma = widths(&mu, range.low, range.high, role);
        mu.push(0.5 * (range.low + range.high));
        sigma.push(range.high - range.low);
        let shape = Shape::new(&mu, &sigma, range);
        Self::Normal { mu, sigma, range, shape }
    }

    fn sample(&self, kernel: usize, uniform: &mut impl FnMut() -> f64) -> f64 {
        match self {
            Self::Choice { own, hit, miss, choices } => {
                let mut left = uniform();
                let chance = |index: usize| match own.get(kernel) {
                    Some(&own) => [*miss, *hit][usize::from(own as usize == index)],
                    None => 1.0 / *choices as f64,
                };
                let drawn = (0..*choices).find(|&index| {
                    left -= chance(index);
                    left < 0.0
                });
                drawn.unwrap_or(choices - 1) as f64
            }
            Self::Normal { mu, sigma, range, .. } => {
                let (mu, sigma) = (mu[kernel], sigma[kernel]);
                let (a, b) = ((range.low - mu) / sigma, (range.high - mu) / sigma);
                range.outside(mu + sigma * normal::quantile_between(uniform(), a, b))
            }
            Self::Fixed(value) => *value,
        }
    }

    /// Add the log density of each kernel at a value to `logs`.
    #[expect(clippy::float_cmp, reason = "indices of choices are whole numbers")]
    fn add_log_pdf(&self, value: f64, logs: &mut [f64]) {
        match self {
            Self::Choice { own, hit, miss, choices } => {
                let (hit, miss) = (hit.ln(), miss.ln());
                for (log, own) in logs.iter_mut().zip(own) {
                    *log += if *own == value { hit } else { miss };
                }
                logs[own.len()] -= (*choices as f64).ln();
            }
            Self::Normal { mu, range, shape: Shape::Smooth { scale, rest }, .. } => {
                let x = range.inside(value);
                for (((log, mu), scale), rest) in logs.iter_mut().zip(mu).zip(scale).zip(rest) {
                    let z = (x - mu) * scale;
                    *log += rest - 0.5 * z * z;
                }
            }
            Self::Normal { range, shape: Shape::Steps { kernels, which }, .. } => {
                let (left, right) = range.edges(value);
                let masses: Vec<f64> = kernels
                    .iter()
                    .map(|k| normal::log_mass((left - k.mu) / k.sigma, (right - k.mu) / k.sigma) - k.norm)
                    .collect();
                for (log, &which) in logs.iter_mut().zip(which) {
                    *log += masses[which];
                }
            }
            Self::Fixed(_) => {}
        }
    }
}

/// What the density of the kernels needs, worked out once.
#[derive(Debug)]
enum Shape {
    /// One over each width, and the logarithm of the density at the centre
    Smooth { scale: Vec<f64>, rest: Vec<f64> },
    /// The kernels that differ, and which of them each one is; the density is the mass of a whole step
    Steps { kernels: Vec<Kernel>, which: Vec<usize> },
}

/// A normal kernel with the logarithm of its mass within the range.
#[derive(Debug)]
struct Kernel {
    mu: f64,
    sigma: f64,
    norm: f64,
}

impl Shape {
    fn new(mu: &[f64], sigma: &[f64], range: Range<'_>) -> Self {
        let norm =
            |mu: f64, sigma: f64| normal::log_mass((range.low - mu) / sigma, (range.high - mu) / sigma);
        if range.step.is_none() {
            let scale = sigma.iter().map(|sigma| 1.0 / sigma).collect();
            let peak = normal::log_pdf(0.0);
            let rest =
                mu.iter().zip(sigma).map(|(&mu, &sigma)| peak - norm(mu, sigma) - sigma.ln()).collect();
            return Self::Smooth { scale, rest };
        }
        let mut known: HashMap<[u64; 2], usize> = HashMap::new();
        let mut kernels: Vec<Kernel> = Vec::new();
        let mut index = |mu: f64, sigma: f64| {
            *known.entry([mu.to_bits(), sigma.to_bits()]).or_insert_with(|| {
                kernels.push(Kernel { mu, sigma, norm: norm(mu, sigma) });
                kernels.len() - 1
            })
        };
        let which = mu.iter().zip(sigma).map(|(&mu, &sigma)| index(mu, sigma)).collect();
        Self::Steps { kernels, which }
    }
}

/// Width of each kernel: the larger distance to its neighbours, within limits.
fn widths(mu: &[f64], low: f64, high: f64, role: &Role) -> Vec<f64> {
    let n = mu.len();
    let (least, most) = role.limits(n as f64 + 1.0);
    let (least, most) = (least * (high - low), most * (high - low));
    let order = places_in_order(mu);
    let mut sigma = vec![0.0; n];
    for (rank, &i) in order.iter().enumerate() {
        let left = (rank > 0).then(|| mu[i] - mu[order[rank - 1]]);
        let right = order.get(rank + 1).map(|&next| mu[next] - mu[i]);
        let width = match (left, right) {
            (Some(left), Some(right)) => left.max(right),
            // At the ends only the neighbour counts, but a lonely point has none.
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => (mu[i] - low).max(high - mu[i]),
        };
        sigma[i] = width.clamp(least, most);
    }
    sigma
}

/// Where the numbers are, the least first; of equal ones the first.
///
/// Each number and its place become one integer of the same order, since integers are sorted several times as fast as
/// places that are looked up.
fn places_in_order(numbers: &[f64]) -> Vec<usize> {
    let key = |(place, number): (usize, &f64)| {
        let bits = number.to_bits().cast_signed();
        let ordered = if bits < 0 { bits ^ i64::MAX } else { bits }; // As in `f64::total_cmp`
        i128::from(ordered) << 64 | place as i128
    };
    let mut keys: Vec<i128> = numbers.iter().enumerate().map(key).collect();
    keys.sort_unstable();
    keys.into_iter().map(|key| key as usize).collect()
}

impl<'a> Range<'a> {
    fn new(distribution: &'a Distribution) -> Self {
        let (low, high, log, step) = match *distribution {
            Distribution::Int { low, high, log, step } => (low as f64, high as f64, log, Some(step as f64)),
            Distribution::Float { low, high, log, step } => (low, high, log, step),
            Distribution::Categorical { .. } => (0.0, 0.0, false, None),
        };
        let half = step.unwrap_or(0.0) / 2.0;
        let inside = |x: f64| if log { x.ln() } else { x };
        Self { distribution, log, step, low: inside(low - half), high: inside(high + half) }
    }

    fn inside(&self, value: f64) -> f64 {
        if self.log { value.ln() } else { value }
    }

    /// The value of the distribution that is nearest.
    fn outside(&self, inside: f64) -> f64 {
        super::random::nearest(self.distribution, if self.log { inside.exp() } else { inside })
    }

    fn edges(&self, value: f64) -> (f64, f64) {
        let half = self.step.unwrap_or(0.0) / 2.0;
        (self.inside(value - half), self.inside(value + half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_25_points_weigh_most() {
        let weights = ramp(30);
        assert_eq!(weights.len(), 30);
        assert!((weights[0] - 1.0 / 30.0).abs() < 1e-12);
        assert_eq!(weights[5..], [1.0; 25]);
        assert_eq!(ramp(3), [1.0; 3]);
    }

    #[test]
    fn kernels_of_the_best_are_narrower() {
        let best = Role::Best(vec![1.0; 2]);
        assert_eq!(widths(&[0.0, 0.5], 0.0, 1.0, &Role::Rest), [0.5, 0.5]);
        assert_eq!(widths(&[0.0, 0.5], 0.0, 1.0, &best), [0.2, 0.2]);
        assert_eq!(widths(&[0.3, 0.3], 0.0, 1.0, &Role::Rest), [0.25, 0.25]);
        assert_eq!(widths(&[0.3, 0.3], 0.0, 1.0, &best), [0.075, 0.075]);
    }

    #[test]
    fn densities_sum_to_one() {
        let whole = Distribution::Int { low: 2, high: 9, log: true, step: 1 };
        let choice = Distribution::Categorical { choices: vec![1.into(), 2.into(), 3.into()] };
        let estimator =
            Parzen::new(&[&whole, &choice], vec![vec![3.0, 8.0, 8.0], vec![0.0, 2.0, 2.0]], &Role::Rest);
        let points: Vec<Vec<f64>> =
            (2..=9).flat_map(|n| (0..3).map(move |c| vec![f64::from(n), f64::from(c)])).collect();
        let sum: f64 = estimator.log_pdf(&points).into_iter().map(f64::exp).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn samples_follow_the_density() {
        let range = Distribution::Float { low: 1.0, high: 100.0, log: true, step: None };
        let estimator = Parzen::new(&[&range], vec![vec![2.0, 3.0, 50.0]], &Role::Best(vec![9.0, 4.0, 1.0]));
        let mut rng = crate::random::stream(1, "test", &[]);
        let mut uniform = || super::super::random::unit(&mut rng);
        let below = (0..20_000).filter(|_| estimator.sample(&mut uniform)[0] < 5.0).count() as f64 / 20_000.0;
        // The same share from the density, by the midpoint rule in the logarithm.
        let steps = 2000;
        let expected: f64 = (0..steps)
            .map(|i| {
                let x = (f64::from(i) + 0.5) / f64::from(steps) * 5_f64.ln();
                estimator.log_pdf(&[vec![x.exp()]])[0].exp() * 5_f64.ln() / f64::from(steps)
            })
            .sum();
        assert!((below - expected).abs() < 0.015, "{below} {expected}");
    }
}
