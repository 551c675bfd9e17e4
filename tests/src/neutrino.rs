//! Supernova neutrinos on argon: elastic scattering on electrons (ES) and charged current (CC).

use rand::{Rng, RngExt as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    background::capture,
    detector::MAX_DRIFT,
    rng::choose,
    transport::{ELECTRON_MASS, Kind, Particle, Track, follow},
    vector::{Vec3, advance, deflect, isotropic, scale},
};

/// Range of the flat neutrino spectrum, MeV; gives the energies of main tracks in real files.
const ENERGY: std::ops::Range<f64> = 8.0..70.0;

/// Half the height and the length of the detector, cm; vertices lie evenly inside.
const HALF_HEIGHT: f64 = 600.0;
const LENGTH: f64 = 460.0;

/// Vertices keep this distance from cathode and anodes, cm.
const DRIFT_MARGIN: f64 = 2.0;

/// Difference of the atoms' masses, potassium-40 less argon-40, MeV.
const CC_THRESHOLD: f64 = 1.504;

/// Excitations of potassium-40: (share of the interactions, de-excitation photons in MeV).
///
/// The lines are approximate, cascades are cut to their strong lines, and the shares are rough guesses: what
/// matters here is that a few photons of 0.8 to 3 MeV come with the electron.
const EXCITATIONS: [(f64, &[f64]); 6] = [
    (0.14, &[1.490, 0.800]),
    (0.26, &[1.930, 0.800]),
    (0.10, &[1.507, 1.639]),
    (0.11, &[2.160, 1.639]),
    (0.31, &[2.095, 1.489, 0.800]),
    (0.02, &[2.750, 2.095, 0.800]),
];

/// Interactions in no level above leave potassium-39 and a neutron, at this excitation, MeV.
const NEUTRON_EXCITATION: f64 = 9.6;

/// Mean distance at which a freed neutron is captured, cm.
const NEUTRON_PATH: f64 = 40.0;

/// What the metadata tell of an interaction.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) is_es: bool,
    /// Vertex, cm.
    pub(crate) position: Vec3,
    /// MeV
    pub(crate) neutrino_energy: f64,
    /// GeV/c
    pub(crate) neutrino_momentum: Vec3,
}

/// Draws an interaction and follows all its particles.
pub(crate) fn interact(is_es: bool, rng: &mut ChaCha8Rng) -> (Truth, Vec<Track>) {
    let neutrino_energy = rng.random_range(ENERGY);
    let beam = isotropic(rng);
    let position = vertex(rng);
    let mut tracks = Vec::new();
    if is_es {
        follow(elastic(neutrino_energy, beam, position, rng), &mut tracks, rng);
    } else {
        charged_current(neutrino_energy, beam, position, &mut tracks, rng);
    }
    let neutrino_momentum = scale(beam, neutrino_energy / 1000.0);
    (Truth { is_es, position, neutrino_energy, neutrino_momentum }, tracks)
}

/// A point in the detector, cm.
pub(crate) fn vertex(rng: &mut impl Rng) -> Vec3 {
    let x = rng.random_range(DRIFT_MARGIN..MAX_DRIFT - DRIFT_MARGIN);
    let side = if rng.random::<bool>() { 1.0 } else { -1.0 };
    [side * x, rng.random_range(-HALF_HEIGHT..HALF_HEIGHT), rng.random_range(0.0..LENGTH)]
}

/// The recoil electron: its energy is flat up to the kinematic limit, which fixes the angle.
fn elastic(neutrino: f64, beam: Vec3, position: Vec3, rng: &mut impl Rng) -> Particle {
    let limit = 2.0 * neutrino * neutrino / (ELECTRON_MASS + 2.0 * neutrino);
    let energy = limit * rng.random::<f64>();
    let cosine = (1.0 + ELECTRON_MASS / neutrino) * (energy / (energy + 2.0 * ELECTRON_MASS)).sqrt();
    Particle { kind: Kind::Electron, position, direction: deflect(beam, cosine.min(1.0), rng), energy }
}

/// The electron and the photons (or the neutron) of the excited nucleus.
fn charged_current(neutrino: f64, beam: Vec3, position: Vec3, tracks: &mut Vec<Track>, rng: &mut ChaCha8Rng) {
    let (photons, energy) = loop {
        let photons = choose(&EXCITATIONS, rng);
        let excitation = photons.map_or(NEUTRON_EXCITATION, |lines| lines.iter().sum());
        let energy = neutrino - CC_THRESHOLD - excitation;
        // The lowest level is open to every neutrino of the spectrum, so this ends.
        if energy > 0.0 {
            break (photons, energy);
        }
    };
    // Fermi and Gamow-Teller parts nearly cancel: the electron's direction is close to even.
    let direction = deflect(beam, rng.random_range(-1.0..1.0), rng);
    follow(Particle { kind: Kind::Electron, position, direction, energy }, tracks, rng);
    if let Some(lines) = photons {
        for &energy in *lines {
            let direction = isotropic(rng);
            follow(Particle { kind: Kind::Photon, position, direction, energy }, tracks, rng);
        }
    } else {
        let path = -NEUTRON_PATH * (1.0 - rng.random::<f64>()).ln();
        let captured = advance(position, isotropic(rng), path);
        capture(captured, tracks, rng);
    }
}
