//! Radiological background: beta decays, photons from outside, neutron captures, and their pile-up.

use rand::{Rng, RngExt as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    detector::CM_PER_TICK,
    neutrino::vertex,
    rng::choose,
    transport::{ELECTRON_MASS, Kind, Particle, Track, follow},
    vector::{Vec3, isotropic},
};

/// Endpoint of potassium-42 (daughter of argon-42), MeV; the commonest cluster above 2 MeV.
const POTASSIUM_42: f64 = 3.525;

/// Endpoint of bismuth-214 (daughter of radon-222), MeV.
const BISMUTH_214: f64 = 3.270;

/// Line of thallium-208 from the rock and the cryostat, MeV.
const THALLIUM_208: f64 = 2.614;

/// Betas below this energy cannot reach the cluster cut and are not drawn, MeV.
const LEAST_BETA: f64 = 1.8;

/// Photon cascades of neutron capture in argon-40: (share, lines in MeV); 6.1 MeV in all, shares approximate.
const CAPTURES: [(f64, &[f64]); 4] = [
    (0.56, &[4.745, 1.187, 0.167]),
    (0.22, &[3.701, 1.881, 0.516]),
    (0.12, &[3.326, 2.772]),
    (0.10, &[2.130, 2.230, 1.740]),
];

/// Shares of the sources among the background units.
///
/// Tuned to the energy spectrum of real background clusters (half of them below 2.3 MeV, a tenth above 2.7),
/// but for the pile-up. Its share and size are the simulator's lever on difficulty: it is as energetic as
/// faint main tracks and can be told from them by its shape only.
const SOURCES: [(f64, Source); 5] = [
    (0.52, Source::Beta(POTASSIUM_42)),
    (0.22, Source::Beta(BISMUTH_214)),
    (0.10, Source::Thallium),
    (0.06, Source::Capture),
    (0.10, Source::PileUp),
];

/// Number of decays in a pile-up.
const PILE_UP_DECAYS: std::ops::RangeInclusive<u32> = 3..=6;

/// Energy of one decay in a pile-up, MeV: argon-42, potassium-42 and bismuth-214 betas.
const PILE_UP_ENERGY: std::ops::Range<f64> = 0.6..2.4;

/// Distance of pile-up decays on the wires (cm along z and y) and in time (ticks), standard deviations.
const PILE_UP_SPREAD: (f64, f64) = (0.8, 12.0);

#[derive(Clone, Copy, Debug)]
enum Source {
    Beta(f64),
    Thallium,
    Capture,
    PileUp,
}

/// Draws one background and follows its particles: a decay, a capture, or some decays in the same place.
pub(crate) fn decay(rng: &mut ChaCha8Rng) -> Vec<Track> {
    let position = vertex(rng);
    let mut tracks = Vec::new();
    // Rounding may leave the shares just short of 1.
    match *choose(&SOURCES, rng).unwrap_or(&SOURCES[0].1) {
        Source::Beta(endpoint) => {
            let energy = beta_energy(endpoint, LEAST_BETA, rng);
            beta(position, energy, &mut tracks, rng);
        }
        Source::Thallium => {
            let direction = isotropic(rng);
            let photon = Particle { kind: Kind::Photon, position, direction, energy: THALLIUM_208 };
            follow(photon, &mut tracks, rng);
        }
        Source::Capture => capture(position, &mut tracks, rng),
        Source::PileUp => pile_up(position, &mut tracks, rng),
    }
    tracks
}

/// The photons of a neutron captured at `position`.
pub(crate) fn capture(position: Vec3, tracks: &mut Vec<Track>, rng: &mut ChaCha8Rng) {
    let lines = choose(&CAPTURES, rng).unwrap_or(&CAPTURES[0].1);
    for &energy in *lines {
        let direction = isotropic(rng);
        follow(Particle { kind: Kind::Photon, position, direction, energy }, tracks, rng);
    }
}

fn beta(position: Vec3, energy: f64, tracks: &mut Vec<Track>, rng: &mut ChaCha8Rng) {
    let direction = isotropic(rng);
    follow(Particle { kind: Kind::Electron, position, direction, energy }, tracks, rng);
}

/// Several decays that the clustering takes for one.
fn pile_up(position: Vec3, tracks: &mut Vec<Track>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(PILE_UP_DECAYS) {
        let mut normal = || rng.sample::<f64, _>(rand_distr::StandardNormal);
        let shift = [
            normal() * PILE_UP_SPREAD.1 * CM_PER_TICK,
            normal() * PILE_UP_SPREAD.0,
            normal() * PILE_UP_SPREAD.0,
        ];
        let here = std::array::from_fn(|i| position[i] + shift[i]);
        let energy = rng.random_range(PILE_UP_ENERGY);
        beta(here, energy, tracks, rng);
    }
}

/// Kinetic energy of an allowed beta decay above `least`, MeV: p E (Q - T)².
fn beta_energy(endpoint: f64, least: f64, rng: &mut impl Rng) -> f64 {
    let density = |kinetic: f64| {
        let total = kinetic + ELECTRON_MASS;
        (kinetic * (kinetic + 2.0 * ELECTRON_MASS)).sqrt() * total * (endpoint - kinetic).powi(2)
    };
    // Above 1.5 MeV the density falls for the endpoints used here, so its largest value is at `least`.
    let ceiling = density(least);
    loop {
        let kinetic = rng.random_range(least..endpoint);
        if ceiling * rng.random::<f64>() < density(kinetic) {
            return kinetic;
        }
    }
}
