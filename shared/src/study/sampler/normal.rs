//! The normal distribution, cut off at both ends.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Share of the standard normal distribution below `x`.
pub fn cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// Logarithm of the density at `x`.
pub fn log_pdf(x: f64) -> f64 {
    -0.5 * x * x - 0.5 * (2.0 * PI).ln()
}

/// Logarithm of the share between `a` and `b`, exact in the tails as well.
///
/// Where even the tail underflows, it is the density in the middle times the width.
pub fn log_mass(a: f64, b: f64) -> f64 {
    if a < -9.0 && b > 9.0 {
        return 0.0; // To the last digit.
    }
    let mass = if a > 0.0 {
        0.5 * (libm::erfc(a * FRAC_1_SQRT_2) - libm::erfc(b * FRAC_1_SQRT_2))
    } else if b < 0.0 {
        0.5 * (libm::erfc(-b * FRAC_1_SQRT_2) - libm::erfc(-a * FRAC_1_SQRT_2))
    } else {
        // Beyond 9 the tail is below 1e-18, and what is left of 1 above a half: nothing to subtract.
        let tail = |z: f64| if z > 9.0 { 0.0 } else { 0.5 * libm::erfc(z * FRAC_1_SQRT_2) };
        1.0 - tail(-a) - tail(b)
    };
    if mass > f64::MIN_POSITIVE { mass.ln() } else { log_pdf(0.5 * (a + b)) + (b - a).ln() }
}

/// The value below which the share `q` of the part between `a` and `b` lies; `a` is at most 0, `b` at least 0.
pub fn quantile_between(q: f64, a: f64, b: f64) -> f64 {
    let (low, high) = (cdf(a), cdf(b));
    quantile(low + q * (high - low)).clamp(a, b)
}

/// Inverse of [`cdf`], by Acklam's rational approximation and one Halley step.
pub fn quantile(p: f64) -> f64 {
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    let x = if p < 0.5 { approximate(p) } else { -approximate(1.0 - p) };
    let error = (cdf(x) - p) * (2.0 * PI).sqrt() * (0.5 * x * x).exp();
    x - error / (1.0 + 0.5 * x * error)
}

/// The quantile for `p` up to 0.5, to about nine digits.
fn approximate(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    let polynomial = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    if p < 0.024_25 {
        let q = (-2.0 * p.ln()).sqrt();
        polynomial(&C, q) / polynomial(&D, q)
    } else {
        let q = p - 0.5;
        let r = q * q;
        polynomial(&A, r) * q / polynomial(&B, r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_undo_the_cdf() {
        for p in [1e-12, 1e-4, 0.02, 0.3, 0.5, 0.7, 0.999, 1.0 - 1e-9] {
            assert!((cdf(quantile(p)) / p - 1.0).abs() < 1e-12, "{p}");
        }
        // From tables: 97.5 % lie below 1.959964.
        assert!((quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-12);
    }

    #[test]
    fn masses_hold_in_the_tails() {
        // mpmath: log(Phi(-10) - Phi(-11)) and log(Phi(1) - Phi(-1)).
        assert!((log_mass(10.0, 11.0) + 53.231_314_3).abs() < 1e-3);
        assert!((log_mass(-11.0, -10.0) - log_mass(10.0, 11.0)).abs() < 1e-12);
        assert!((log_mass(-1.0, 1.0) - 0.682_689_492_137_085_9_f64.ln()).abs() < 1e-14);
        assert!(log_mass(45.0, 45.5).is_finite());
    }
}
