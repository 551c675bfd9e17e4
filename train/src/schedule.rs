//! Learning rates and row orders: what the host decides of an epoch.

use rand::RngExt;

use crate::step::{BETA_1, BETA_2};

/// Steps after which the rate has fallen by one decay rate.
pub const DECAY_STEPS: f64 = 10_000.0;

/// Exponential decay: `initial · decay^(step / 10000)`, as Keras' `ExponentialDecay`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Rate of step 0
    pub initial: f64,
    /// Factor after 10000 steps
    pub decay: f64,
}

impl Schedule {
    /// Rate of a step, counted from 0.
    pub fn rate(&self, step: i64) -> f64 {
        self.initial * self.decay.powf(step as f64 / DECAY_STEPS)
    }

    /// Rates of `count` steps from `first` on, times Adam's bias correction √(1 - β₂ᵗ) / (1 - β₁ᵗ), t = step + 1.
    pub fn corrected(&self, first: i64, count: usize) -> Vec<f32> {
        (first..first + count as i64)
            .map(|step| {
                let t = (step + 1) as f64;
                let correction = (1.0 - BETA_2.powf(t)).sqrt() / (1.0 - BETA_1.powf(t));
                (self.rate(step) * correction) as f32
            })
            .collect()
    }
}

/// Row numbers of an epoch, shuffled, padded with row 0 to `slots`.
///
/// Fisher and Yates' shuffle from the stream `shuffle` of (seed, trial, epoch).
pub fn order(rows: usize, slots: usize, seed: u64, trial: u64, epoch: u32) -> Vec<i64> {
    let mut order: Vec<i64> = (0..rows as i64).collect();
    let mut random = shared::random::stream(seed, "shuffle", &[trial, u64::from(epoch)]);
    for last in (1..rows).rev() {
        order.swap(last, random.random_range(0..=last as u64) as usize);
    }
    order.resize(slots, 0);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_decays_as_keras_exponential_decay() {
        // keras.optimizers.schedules.ExponentialDecay(0.000522, 10000, 0.9581)(2500): 0.000522 · 0.9581^0.25
        let schedule = Schedule { initial: 0.000_522, decay: 0.9581 };
        assert!((schedule.rate(2500) - 0.000_516_443).abs() < 1e-9, "{}", schedule.rate(2500));
        assert!((schedule.rate(10_000) - 0.000_522 * 0.9581).abs() < 1e-15);
    }

    #[test]
    fn the_first_step_has_the_full_bias_correction() {
        // t = 1: √(1 - 0.999) / (1 - 0.9) = 0.316227766…
        let schedule = Schedule { initial: 0.001, decay: 1.0 };
        let rates = schedule.corrected(0, 2);
        assert!((f64::from(rates[0]) - 0.000_316_227_766).abs() < 1e-10);
        // t = 2: √(1 - 0.998001) / (1 - 0.81) = 0.044710178 / 0.19
        assert!((f64::from(rates[1]) - 0.000_235_316_7).abs() < 1e-9, "{}", rates[1]);
    }

    #[test]
    fn an_epoch_has_every_row_once_and_pads_with_row_0() {
        let order = order(1000, 1024, 7, 3, 5);
        let mut rows = order[..1000].to_vec();
        assert_ne!(rows, (0..1000).collect::<Vec<i64>>());
        rows.sort_unstable();
        assert_eq!(rows, (0..1000).collect::<Vec<i64>>());
        assert_eq!(&order[1000..], &[0; 24]);
    }
}
