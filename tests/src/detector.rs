//! One wire plane: from energy deposits to waveforms, trigger primitives and their energy.

use rand::{Rng, RngExt as _};
use rand_distr::StandardNormal;

use crate::transport::Deposit;

/// Drift per tick, cm: 0.16 cm/µs in 0.512 µs.
pub(crate) const CM_PER_TICK: f64 = 0.16 * 0.512;

/// Largest drift distance, cm: x runs from minus to plus this, the anodes are at both ends.
pub(crate) const MAX_DRIFT: f64 = 360.0;

/// Width of the response (electronics and field) on planes U, V, X, ticks; from real pulses near threshold.
const SHAPING: [f64; 3] = [1.8, 1.8, 2.8];

/// Charge scale of planes U, V, X; makes up for the tails below threshold, as a production's gain does.
const RESPONSE: [f64; 3] = [1.15, 1.15, 1.04];

/// Longitudinal diffusion at the full drift, ticks: sqrt(2 · 4.5 cm²/s · 2.25 ms) = 0.14 cm.
const LONGITUDINAL_DIFFUSION: f64 = 1.75;

/// Transverse spread on the wires at no drift (field lines between wires), in wire pitches.
const TRANSVERSE_MINIMUM: f64 = 0.12;

/// Transverse diffusion at the full drift, in wire pitches: sqrt(2 · 9 cm²/s · 2.25 ms) = 0.2 cm.
const TRANSVERSE_DIFFUSION: f64 = 0.42;

/// Noise behind the shaper, ADC (standard deviation).
const NOISE: f64 = 9.0;

/// A pulse above threshold for fewer ticks is no trigger primitive.
const SHORTEST_PULSE: usize = 3;

/// A wire plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Plane {
    /// First induction plane, wires at +35.7°.
    #[value(name = "U")]
    U,
    /// Second induction plane, wires at -35.7°.
    #[value(name = "V")]
    V,
    /// Collection plane, upright wires.
    #[value(name = "X")]
    X,
}

impl Plane {
    /// All planes, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::U, Self::V, Self::X];

    /// The plane's number in the metadata: 0 U, 1 V, 2 X.
    pub fn number(self) -> usize {
        self as usize
    }

    /// The letter in file names.
    pub fn letter(self) -> char {
        ['U', 'V', 'X'][self.number()]
    }

    /// The trigger threshold, ADC: no pixel of an image is between 0 and this.
    pub fn threshold(self) -> f32 {
        [70.0, 70.0, 60.0][self.number()]
    }

    /// Summed ADC per MeV.
    pub fn gain(self) -> f64 {
        [900.0, 900.0, 3600.0][self.number()]
    }

    /// Distance of neighbouring wires, cm.
    fn pitch(self) -> f64 {
        [0.4669, 0.4669, 0.479][self.number()]
    }

    /// Where a deposit is seen: (channel, tick), continuous.
    pub(crate) fn project(self, deposit: &Deposit) -> (f64, f64) {
        /// Sine and cosine of the wires' angle of 35.7°.
        const SLOPE: (f64, f64) = (0.5835, 0.8121);
        let [x, y, z] = deposit.position;
        let across = match self {
            Self::U => SLOPE.1 * z + SLOPE.0 * y,
            Self::V => SLOPE.1 * z - SLOPE.0 * y,
            Self::X => z,
        };
        (across / self.pitch(), x / CM_PER_TICK)
    }
}

/// A trigger primitive: one pulse above threshold on one channel.
#[derive(Clone, Debug)]
pub(crate) struct Primitive {
    pub(crate) channel: i32,
    pub(crate) start: i32,
    /// First tick after the pulse.
    pub(crate) end: i32,
    /// ADC per tick, `[end - start]`, as a reader redraws it from the primitive's five numbers.
    pub(crate) samples: Vec<f32>,
}

/// Widths added in quadrature; not `hypot`, which a program linked against a new glibc can't take from an old one.
fn length(a: f64, b: f64) -> f64 {
    (a * a + b * b).sqrt()
}

/// Reads out the deposits on one plane, as trigger primitives.
///
/// `drift` is the distance to the anode in cm; it sets the diffusion.
pub(crate) fn read_out(plane: Plane, deposits: &[Deposit], drift: f64, rng: &mut impl Rng) -> Vec<Primitive> {
    let share = (drift / MAX_DRIFT).clamp(0.0, 1.0).sqrt();
    let width = length(SHAPING[plane.number()], LONGITUDINAL_DIFFUSION * share);
    let spread = length(TRANSVERSE_MINIMUM, TRANSVERSE_DIFFUSION * share);
    let kernel = pulse(width);
    let mut grid = Grid::around(plane, deposits, kernel.len() / 2);
    grid.fill(plane, deposits, spread);
    let norm = kernel.iter().map(|k| k * k).sum::<f32>().sqrt();
    let mut primitives = Vec::new();
    let mut wave = vec![0.0; grid.ticks];
    for (row, charge) in grid.charge.chunks_exact_mut(grid.ticks).enumerate() {
        for sample in charge.iter_mut() {
            *sample += NOISE as f32 / norm * rng.sample::<f32, _>(StandardNormal);
        }
        convolve(charge, &kernel, &mut wave);
        find(&wave, plane.threshold(), (grid.first_channel + row as i32, grid.first_tick), &mut primitives);
    }
    primitives
}

/// Charge per channel and tick around a cluster, ADC, `[channels, ticks]`.
struct Grid {
    charge: Vec<f32>,
    first_channel: i32,
    first_tick: i32,
    ticks: usize,
}

impl Grid {
    /// An empty grid with room for the pulses' tails of `margin` ticks.
    fn around(plane: Plane, deposits: &[Deposit], margin: usize) -> Self {
        let (mut low, mut high) = ([f64::MAX; 2], [f64::MIN; 2]);
        for deposit in deposits {
            let (channel, tick) = plane.project(deposit);
            for (i, value) in [channel, tick].into_iter().enumerate() {
                low[i] = low[i].min(value);
                high[i] = high[i].max(value);
            }
        }
        let margin = margin as i32 + 1;
        let (first_channel, first_tick) = (low[0].floor() as i32, low[1].floor() as i32 - margin);
        let channels = (high[0].floor() as i32 + 2 - first_channel) as usize;
        let ticks = (high[1].floor() as i32 + 2 + margin - first_tick) as usize;
        Self { charge: vec![0.0; channels * ticks], first_channel, first_tick, ticks }
    }

    /// Shares each deposit between the two nearest channels and the two nearest ticks.
    fn fill(&mut self, plane: Plane, deposits: &[Deposit], spread: f64) {
        for deposit in deposits {
            let (channel, tick) = plane.project(deposit);
            let (row, column) = (channel.floor(), tick.floor());
            // The logistic curve stands for the normal distribution's integral.
            let next_channel = 1.0 / (1.0 + (-1.702 * (channel - row - 0.5) / spread).exp());
            let next_tick = tick - column;
            let at = (row as i32 - self.first_channel) as usize * self.ticks
                + (column as i32 - self.first_tick) as usize;
            let charge = deposit.energy * plane.gain() * RESPONSE[plane.number()];
            for (offset, share) in [(0, 1.0 - next_channel), (self.ticks, next_channel)] {
                self.charge[at + offset] += (charge * share * (1.0 - next_tick)) as f32;
                self.charge[at + offset + 1] += (charge * share * next_tick) as f32;
            }
        }
    }
}

/// A normal pulse of `width` ticks whose samples sum to 1; odd length.
fn pulse(width: f64) -> Vec<f32> {
    let half = (3.5 * width).ceil() as i32;
    let samples: Vec<f64> = (-half..=half).map(|t| (-0.5 * (f64::from(t) / width).powi(2)).exp()).collect();
    let sum: f64 = samples.iter().sum();
    samples.iter().map(|sample| (sample / sum) as f32).collect()
}

/// Convolves `charge` with the centred `kernel` into `wave`; the ends see zeros outside.
fn convolve(charge: &[f32], kernel: &[f32], wave: &mut [f32]) {
    let half = kernel.len() / 2;
    wave.fill(0.0);
    for (offset, &weight) in kernel.iter().enumerate() {
        let shift = offset.abs_diff(half).min(wave.len());
        let kept = wave.len() - shift;
        let (to, from) = if offset < half { (0, shift) } else { (shift, 0) };
        for (sample, q) in wave[to..to + kept].iter_mut().zip(&charge[from..from + kept]) {
            *sample += weight * q;
        }
    }
}

/// Appends the pulses of one channel whose samples reach `threshold`; `origin` is (channel, first tick).
fn find(wave: &[f32], threshold: f32, origin: (i32, i32), primitives: &mut Vec<Primitive>) {
    let mut start = 0;
    while start < wave.len() {
        let length = wave[start..].iter().take_while(|sample| **sample >= threshold).count();
        if length >= SHORTEST_PULSE {
            let first = origin.1 + start as i32;
            let samples = redraw(&wave[start..start + length], threshold);
            primitives.push(Primitive {
                channel: origin.0,
                start: first,
                end: first + length as i32,
                samples,
            });
        }
        start += length + 1;
    }
}

/// Redraws a pulse as the pentagon that a trigger primitive can hold.
///
/// A primitive keeps start, peak, end and integral only. The images of the experiment are drawn from
/// these: straight lines from the threshold over a shoulder half-way to the peak, and back; the shoulder
/// is as high as the integral asks.
fn redraw(pulse: &[f32], threshold: f32) -> Vec<f32> {
    let (mut peak, mut height) = (0, f32::MIN);
    for (tick, &sample) in pulse.iter().enumerate() {
        if sample > height {
            (peak, height) = (tick, sample);
        }
    }
    let integral: f32 = pulse.iter().sum();
    let mut base = 0.0;
    let mut slope = 0.0;
    for tick in 0..pulse.len() {
        let (fixed, shoulder) = weights(tick, peak, pulse.len(), threshold, height);
        base += fixed;
        slope += shoulder;
    }
    let shoulder = if slope > 0.0 { ((integral - base) / slope).clamp(threshold, height) } else { height };
    (0..pulse.len())
        .map(|tick| {
            let (fixed, weight) = weights(tick, peak, pulse.len(), threshold, height);
            (fixed + weight * shoulder).max(threshold)
        })
        .collect()
}

/// The pentagon's value at `tick` as (constant, factor of the shoulder's height).
fn weights(tick: usize, peak: usize, end: usize, threshold: f32, height: f32) -> (f32, f32) {
    let (from, length) = if tick <= peak { (tick, peak) } else { (end - tick, end - peak) };
    if length == 0 {
        return (height, 0.0);
    }
    let position = 2.0 * from as f32 / length as f32;
    if position <= 1.0 {
        (threshold * (1.0 - position), position)
    } else {
        (height * (position - 1.0), 2.0 - position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pentagon_keeps_peak_and_integral() {
        let pulse = [65.0, 180.0, 420.0, 700.0, 540.0, 300.0, 120.0, 70.0];
        let drawn = redraw(&pulse, 60.0);
        assert!((drawn[3] - 700.0).abs() < 1e-3);
        assert!((drawn.iter().sum::<f32>() / pulse.iter().sum::<f32>() - 1.0).abs() < 1e-3);
    }

    #[test]
    fn two_pulses_of_a_channel_are_two_primitives() {
        let wave = [0.0, 61.0, 90.0, 70.0, 10.0, 0.0, 60.0, 80.0, 60.0, 65.0];
        let mut found = Vec::new();
        find(&wave, 60.0, (7, 100), &mut found);
        let spans: Vec<_> = found.iter().map(|p| (p.channel, p.start, p.end)).collect();
        assert_eq!(spans, [(7, 101, 104), (7, 106, 110)]);
    }

    #[test]
    fn a_pulse_convolves_to_its_own_shape() {
        let kernel = pulse(2.0);
        let mut charge = vec![0.0; 41];
        charge[20] = 1.0;
        let mut wave = vec![0.0; 41];
        convolve(&charge, &kernel, &mut wave);
        assert!((wave.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert_eq!(wave[20 - 3].to_bits(), wave[20 + 3].to_bits());
    }
}
