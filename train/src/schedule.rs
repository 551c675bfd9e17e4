//! Learning rates and row orders: what the host decides of an epoch.

use std::f64::consts::PI;

use rand::RngExt;
use shared::config::{RateSchedule, ScheduleName};

use crate::optimizer::{BETA_1, BETA_2, Optimizer};

/// Steps after which the rate of an exponential schedule has fallen by one decay rate.
pub const DECAY_STEPS: f64 = 10_000.0;

/// What a trial says about its rates.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// `learning_rate`: the first rate, for one-cycle the greatest
    pub initial: f64,
    /// Exponential: factor after 10000 steps
    pub decay: f64,
    /// Shape and warm-up
    pub options: RateSchedule,
}

impl Schedule {
    /// `initial · decay^(step / 10000)`, as Keras' `ExponentialDecay`.
    pub fn exponential(initial: f64, decay: f64) -> Self {
        Self { initial, decay, options: RateSchedule::default() }
    }

    /// The rates of a training of so many steps an epoch.
    pub fn over(&self, steps_per_epoch: usize, epochs: u32) -> Rates {
        let options = &self.options;
        let steps = steps_per_epoch as f64;
        let warmup = match (options.warmup_steps, options.warmup_epochs) {
            (Some(count), _) => f64::from(count),
            (None, epochs) => (epochs.unwrap_or(0.0) * steps).round(),
        };
        let total = (steps * f64::from(epochs) - warmup).max(1.0);
        let shape = match options.name {
            ScheduleName::Exponential => Shape::Exponential { decay: self.decay },
            ScheduleName::Cosine => Shape::Cosine { total, last: options.alpha.unwrap_or(0.0) },
            ScheduleName::OneCycle => {
                let first = 1.0 / options.div_factor.unwrap_or(25.0);
                let last = first / options.final_div_factor.unwrap_or(1e4);
                Shape::OneCycle { top: options.pct_start.unwrap_or(0.3) * total - 1.0, total, first, last }
            }
        };
        Rates { initial: self.initial, warmup, shape }
    }
}

/// The learning rates of all steps of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    initial: f64,
    /// Steps before the schedule starts
    warmup: f64,
    shape: Shape,
}

/// A schedule after its warm-up, as shares of the initial rate.
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    /// Keras' `ExponentialDecay`
    Exponential { decay: f64 },
    /// Keras' `CosineDecay` over `total` steps
    Cosine { total: f64, last: f64 },
    /// `PyTorch`'s `OneCycleLR` (Smith & Topin 2018) with cosines, without the cycle of the momentum
    OneCycle { top: f64, total: f64, first: f64, last: f64 },
}

impl Rates {
    /// Rate of a step, counted from 0.
    ///
    /// The warm-up takes the steps 0 to w - 1, with the rates 1/(w + 1), …, w/(w + 1) of the schedule's first one.
    pub fn rate(&self, step: i64) -> f64 {
        let step = step as f64;
        if step < self.warmup {
            return self.shape.rate(self.initial, 0.0) * (step + 1.0) / (self.warmup + 1.0);
        }
        self.shape.rate(self.initial, step - self.warmup)
    }

    /// The input `rates` of a step graph for `count` steps from `first` on.
    ///
    /// Rates times Adam's bias correction √(1 - β₂ᵗ) / (1 - β₁ᵗ), t = step + 1; with weight decay, then the shares of the
    /// weights that decay, rate · `weight_decay`.
    pub fn inputs(&self, first: i64, count: usize, optimizer: &Optimizer) -> Vec<f32> {
        let steps = || first..first + count as i64;
        let corrected = steps().map(|step| {
            let t = (step + 1) as f64;
            let correction = (1.0 - BETA_2.powf(t)).sqrt() / (1.0 - BETA_1.powf(t));
            (self.rate(step) * correction) as f32
        });
        let mut found: Vec<f32> = corrected.collect();
        if optimizer.decays() {
            found.extend(steps().map(|step| (self.rate(step) * optimizer.weight_decay) as f32));
        }
        found
    }
}

impl Shape {
    fn rate(&self, initial: f64, step: f64) -> f64 {
        match *self {
            Self::Exponential { decay } => initial * decay.powf(step / DECAY_STEPS),
            Self::Cosine { total, last } => initial * arc(1.0, last, (step / total).min(1.0)),
            Self::OneCycle { top, first, .. } if step <= top => {
                initial * arc(first, 1.0, step / top.max(1.0))
            }
            Self::OneCycle { top, total, last, .. } => {
                let top = top.max(0.0);
                initial * arc(1.0, last, ((step - top) / (total - 1.0 - top).max(1.0)).min(1.0))
            }
        }
    }
}

/// Half a cosine from `start` to `end`, `at` from 0 to 1.
fn arc(start: f64, end: f64, at: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + (PI * at).cos())
}

/// Consecutive rows that stay together when an epoch's blocks are shuffled.
const BLOCK: usize = 256;
/// Blocks whose rows are shuffled among each other.
const CHUNK: usize = 128;
/// Rows of a chunk: what a training that reads its rows in parts has to hold at a time.
pub const CHUNK_ROWS: usize = BLOCK * CHUNK;

/// Row numbers of an epoch, shuffled, padded with row 0 to `slots`.
///
/// The shuffle is hierarchical and the same for every size of memory: the blocks of 256 rows are shuffled, then the rows
/// of each 128 blocks, both by Fisher and Yates. Streams `blocks` of (seed, trial, epoch) and `shuffle` of (seed, trial,
/// epoch, chunk). So the rows of 32,768 consecutive positions come from few places of the split, and up to so many rows
/// it is a plain shuffle.
pub fn order(rows: usize, slots: usize, seed: u64, trial: u64, epoch: u32) -> Vec<i64> {
    let mut blocks: Vec<usize> = (0..rows.div_ceil(BLOCK)).collect();
    let indices = [trial, u64::from(epoch)];
    shuffle(&mut blocks, &mut shared::random::stream(seed, "blocks", &indices));
    let mut order = Vec::with_capacity(slots);
    for (number, chunk) in blocks.chunks(CHUNK).enumerate() {
        let start = order.len();
        for block in chunk {
            order.extend((block * BLOCK..rows.min((block + 1) * BLOCK)).map(|row| row as i64));
        }
        let indices = [trial, u64::from(epoch), number as u64];
        shuffle(&mut order[start..], &mut shared::random::stream(seed, "shuffle", &indices));
    }
    order.resize(slots, 0);
    order
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(values: &mut [T], random: &mut impl rand::Rng) {
    for last in (1..values.len()).rev() {
        values.swap(last, random.random_range(0..=last as u64) as usize);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rate_decays_as_keras_exponential_decay() {
        // keras.optimizers.schedules.ExponentialDecay(0.000522, 10000, 0.9581)(2500): 0.000522 · 0.9581^0.25
        let rates = Schedule::exponential(0.000_522, 0.9581).over(100, 1000);
        assert!((rates.rate(2500) - 0.000_516_443).abs() < 1e-9, "{}", rates.rate(2500));
        assert!((rates.rate(10_000) - 0.000_522 * 0.9581).abs() < 1e-15);
    }

    #[test]
    fn the_first_step_has_the_full_bias_correction() {
        // t = 1: √(1 - 0.999) / (1 - 0.9) = 0.316227766…
        let rates = Schedule::exponential(0.001, 1.0).over(2, 1).inputs(0, 2, &Optimizer::default());
        assert_eq!(rates.len(), 2);
        assert!((f64::from(rates[0]) - 0.000_316_227_766).abs() < 1e-10);
        // t = 2: √(1 - 0.998001) / (1 - 0.81) = 0.044710178 / 0.19
        assert!((f64::from(rates[1]) - 0.000_235_316_7).abs() < 1e-9, "{}", rates[1]);
    }

    #[test]
    fn weight_decay_takes_the_rate_without_the_correction() {
        let optimizer = Optimizer { weight_decay: 0.1, ..Optimizer::default() };
        let rates = Schedule::exponential(0.002, 0.5).over(3, 1).inputs(10_000, 3, &optimizer);
        assert_eq!(rates.len(), 6);
        assert!((rates[3] - 0.0001).abs() < 1e-10, "{}", rates[3]);
    }

    fn schedule(options: &serde_json::Value, epochs: u32) -> Rates {
        let options = serde_json::from_value(options.clone()).unwrap();
        Schedule { options, ..Schedule::exponential(0.002, 0.5) }.over(10, epochs)
    }

    #[track_caller]
    fn same(rates: &Rates, expected: &[(i64, f64)]) {
        for &(step, rate) in expected {
            let found = rates.rate(step);
            assert!((found / rate - 1.0).abs() < 1e-6, "step {step}: {found} against {rate}");
        }
    }

    #[test]
    fn the_rate_follows_keras_cosine_decay() {
        // keras.optimizers.schedules.CosineDecay(0.002, 100, alpha=0.1)
        let rates = schedule(&json!({ "name": "cosine", "alpha": 0.1 }), 10);
        same(&rates, &[(0, 0.002), (25, 0.001_736_396_1), (50, 0.0011), (99, 0.000_200_444_06)]);
        // With warmup_target=0.002, warmup_steps=9, an initial rate of 0.0002 and 91 decay steps.
        let rates = schedule(&json!({ "name": "cosine", "alpha": 0.1, "warmup_steps": 9 }), 10);
        same(&rates, &[(0, 0.0002), (4, 0.001), (8, 0.0018), (9, 0.002), (54, 0.001_115_534_6)]);
    }

    #[test]
    fn the_rate_follows_pytorchs_one_cycle() {
        // torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.002, total_steps=100)
        let rates = schedule(&json!("one_cycle"), 10);
        same(&rates, &[(0, 8e-5), (10, 0.000_590_327_9), (29, 0.002), (50, 0.001_587_786_9), (99, 8e-9)]);
        // pct_start=0.5, div_factor=10, final_div_factor=100
        let options =
            json!({ "name": "one_cycle", "pct_start": 0.5, "div_factor": 10, "final_div_factor": 100 });
        same(&schedule(&options, 10), &[(0, 2e-4), (49, 0.002), (99, 2e-6)]);
    }

    #[test]
    fn a_warm_up_of_epochs_comes_before_the_schedule_and_shortens_it() {
        // 15 steps up to the exponential schedule's first rate, then that schedule from its start.
        let rates = schedule(&json!({ "warmup_epochs": 1.5 }), 10);
        same(&rates, &[(0, 0.002 / 16.0), (14, 0.002 * 15.0 / 16.0), (15, 0.002), (10_015, 0.001)]);
        // One-cycle then has 85 steps: its rise ends at 0.3 · 85 - 1 = 24.5, the last step is the 84th.
        let rates = schedule(&json!({ "name": "one_cycle", "warmup_epochs": 1.5 }), 10);
        same(&rates, &[(0, 8e-5 / 16.0), (15, 8e-5), (99, 8e-9)]);
        assert!(rates.rate(39) > 0.001_99 && rates.rate(40) > 0.001_99);
    }

    #[test]
    fn a_training_of_one_step_has_a_rate() {
        for name in ["exponential", "cosine", "one_cycle"] {
            let options = serde_json::from_value(json!(name)).unwrap();
            let rates = Schedule { options, ..Schedule::exponential(0.002, 0.5) }.over(1, 1);
            assert!(rates.rate(0) > 0.0 && rates.rate(0).is_finite(), "{name}: {}", rates.rate(0));
        }
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

    #[test]
    fn a_chunk_has_the_rows_of_whole_blocks_from_all_over_the_split() {
        let rows = 391 * BLOCK;
        let order = order(rows, rows, 7, 3, 5);
        let mut seen = std::collections::BTreeSet::new();
        for chunk in order.chunks(CHUNK_ROWS) {
            let blocks: std::collections::BTreeSet<i64> =
                chunk.iter().map(|row| row / BLOCK as i64).collect();
            assert_eq!(blocks.len() * BLOCK, chunk.len());
            assert!(blocks.is_disjoint(&seen), "a block is in one chunk");
            assert!(seen.len() > 300 || blocks.last().unwrap() - blocks.first().unwrap() > 300);
            seen.extend(blocks);
        }
        assert_eq!(seen.len(), 391);
        assert_ne!(order, super::order(rows, rows, 7, 3, 6));
    }
}
