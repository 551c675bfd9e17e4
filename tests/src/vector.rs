//! Three-vectors and random directions.

use std::f64::consts::TAU;

use rand::{Rng, RngExt as _};

/// A position in cm (x along the drift, y up, z along the beam), a direction, or a momentum.
pub(crate) type Vec3 = [f64; 3];

/// `start + length * direction`.
pub(crate) fn advance(start: Vec3, direction: Vec3, length: f64) -> Vec3 {
    std::array::from_fn(|i| start[i] + length * direction[i])
}

/// `factor * vector`.
pub(crate) fn scale(vector: Vec3, factor: f64) -> Vec3 {
    vector.map(|component| factor * component)
}

/// A direction drawn evenly from the sphere.
pub(crate) fn isotropic(rng: &mut impl Rng) -> Vec3 {
    let cosine = rng.random_range(-1.0..1.0);
    deflect([0.0, 0.0, 1.0], cosine, rng)
}

/// A direction at the angle of `cosine` to `direction`, at a random azimuth.
pub(crate) fn deflect(direction: Vec3, cosine: f64, rng: &mut impl Rng) -> Vec3 {
    let (sin_phi, cos_phi) = (TAU * rng.random::<f64>()).sin_cos();
    let sine = (1.0 - cosine * cosine).max(0.0).sqrt();
    let (a, b) = normals(direction);
    let turned = std::array::from_fn(|i| cosine * direction[i] + sine * (cos_phi * a[i] + sin_phi * b[i]));
    normalised(turned)
}

/// Two unit vectors that are at right angles to each other and to the unit vector `direction`.
fn normals(direction: Vec3) -> (Vec3, Vec3) {
    let [x, y, z] = direction;
    // Duff et al., "Building an orthonormal basis, revisited" (2017).
    let sign = 1.0_f64.copysign(z);
    let a = -1.0 / (sign + z);
    let b = x * y * a;
    ([1.0 + sign * x * x * a, sign * b, -sign * x], [b, sign + y * y * a, -y])
}

fn normalised(vector: Vec3) -> Vec3 {
    let norm = vector.iter().map(|component| component * component).sum::<f64>().sqrt();
    scale(vector, 1.0 / norm)
}
