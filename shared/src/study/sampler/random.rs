//! Uniform draws from a distribution.

use rand::Rng;

use crate::study::distribution::Distribution;

/// A number in `0.0..1.0`.
pub fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// The internal value at the share `u` (`0.0..1.0`) of a distribution.
///
/// ```
/// use shared::study::{distribution::Distribution, sampler::random::at};
/// let rate = Distribution::Float { low: 1e-4, high: 1e-2, log: true, step: None };
/// assert!((at(&rate, 0.5) - 1e-3).abs() < 1e-9);
/// ```
pub fn at(distribution: &Distribution, u: f64) -> f64 {
    let (low, high, log, step) = match distribution {
        Distribution::Categorical { choices } => {
            return (u * choices.len() as f64).floor().min(choices.len() as f64 - 1.0);
        }
        Distribution::Int { low, high, log, step } => (*low as f64, *high as f64, *log, *step as f64),
        Distribution::Float { low, high, log, step } => (*low, *high, *log, step.unwrap_or(0.0)),
    };
    let (low, high) = (low - step / 2.0, high + step / 2.0);
    let value = if log { (low.ln() + u * (high.ln() - low.ln())).exp() } else { low + u * (high - low) };
    nearest(distribution, value)
}

/// The internal value of a distribution that is nearest to a number.
pub fn nearest(distribution: &Distribution, value: f64) -> f64 {
    match distribution {
        Distribution::Categorical { choices } => value.round().clamp(0.0, choices.len() as f64 - 1.0),
        Distribution::Int { low, high, step, .. } => {
            let (low, step) = (*low as f64, *step as f64);
            let most = ((*high as f64 - low) / step).floor();
            low + ((value - low) / step).round().clamp(0.0, most) * step
        }
        Distribution::Float { low, high, step: Some(step), .. } => {
            let most = ((high - low) / step + 1e-8).floor();
            (low + ((value - low) / step).round().clamp(0.0, most) * step).min(*high)
        }
        Distribution::Float { low, high, step: None, .. } => value.clamp(*low, *high),
    }
}
