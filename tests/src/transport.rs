//! Electrons and photons in liquid argon: tracks of energy deposits.

use rand::{Rng, RngExt as _};
use rand_distr::StandardNormal;

use crate::vector::{Vec3, advance, deflect, scale};

/// Rest energy of the electron, MeV.
pub(crate) const ELECTRON_MASS: f64 = 0.511;

/// Radiation length of liquid argon, cm (PDG).
const RADIATION_LENGTH: f64 = 14.0;

/// Collision loss of an electron at 1 MeV, MeV/cm, and its rise per e-fold of the energy above; about
/// 2.1 MeV/cm near the minimum and 2.4 at 30 MeV.
const COLLISION_LOSS: f64 = 1.95;
const RELATIVISTIC_RISE: f64 = 0.06;

/// Power of 1/β in the collision loss; a rough stand-in for Bethe's formula below 1 MeV, not a fit.
const COLLISION_POWER: f64 = 1.3;

/// Relative spread of the loss of one step (straggling below the delta-ray threshold).
const STRAGGLING: f64 = 0.15;

/// Length of one transport step, cm: about a third of the wire pitch.
const STEP: f64 = 0.16;

/// Bremsstrahlung against full screening. A tuned number, likely below the true one: it gives plane X about as
/// many secondary clusters as real files have (0.3 an ES event, 0.7 a CC event).
const BREMSSTRAHLUNG_SCALE: f64 = 0.6;

/// Photons of bremsstrahlung below this energy are left on the track, MeV.
const BREMSSTRAHLUNG_CUT: f64 = 0.4;

/// Photons below this energy are absorbed where they are, MeV (photoelectric effect).
const PHOTON_CUT: f64 = 0.08;

/// Deposits below this energy never cross a threshold and are dropped, MeV.
const DEPOSIT_CUT: f64 = 0.05;

/// Attenuation length of photons in liquid argon: (MeV, cm), rounded, at 1.396 g/cm³; not a copy of XCOM's table.
const ATTENUATION: [(f64, f64); 11] = [
    (0.1, 3.5),
    (0.2, 5.8),
    (0.5, 8.6),
    (1.0, 12.3),
    (1.5, 15.2),
    (2.0, 17.5),
    (3.0, 20.8),
    (5.0, 24.6),
    (10.0, 26.4),
    (20.0, 25.2),
    (60.0, 21.5),
];

/// Share of pair production among the interactions of a photon in argon: (MeV, share), approximate.
const PAIR_SHARE: [(f64, f64); 7] =
    [(1.5, 0.0), (3.0, 0.10), (5.0, 0.26), (10.0, 0.52), (20.0, 0.73), (40.0, 0.86), (60.0, 0.90)];

/// What moves through the argon.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Electron,
    Photon,
}

/// A particle at its starting point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Particle {
    pub(crate) kind: Kind,
    /// cm
    pub(crate) position: Vec3,
    pub(crate) direction: Vec3,
    /// Kinetic energy of an electron, energy of a photon, MeV.
    pub(crate) energy: f64,
}

impl Particle {
    /// Momentum, GeV/c.
    pub(crate) fn momentum(&self) -> Vec3 {
        let mev = match self.kind {
            Kind::Electron => (self.energy * (self.energy + 2.0 * ELECTRON_MASS)).sqrt(),
            Kind::Photon => self.energy,
        };
        scale(self.direction, mev / 1000.0)
    }
}

/// Ionisation of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deposit {
    /// cm
    pub(crate) position: Vec3,
    /// MeV
    pub(crate) energy: f64,
}

/// The deposits of one electron or positron.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub(crate) deposits: Vec<Deposit>,
    /// Sum of the deposits, MeV.
    pub(crate) energy: f64,
    /// Momentum of the particle of the interaction that the track descends from, GeV/c.
    pub(crate) momentum: Vec3,
}

/// Follows `primary` and all that it sets free, and appends the tracks to `tracks`.
pub(crate) fn follow(primary: Particle, tracks: &mut Vec<Track>, rng: &mut impl Rng) {
    let momentum = primary.momentum();
    let mut pending = vec![primary];
    while let Some(particle) = pending.pop() {
        match particle.kind {
            Kind::Electron => {
                let deposits = electron(particle, &mut pending, rng);
                let energy = deposits.iter().map(|deposit| deposit.energy).sum();
                if energy >= DEPOSIT_CUT {
                    tracks.push(Track { deposits, energy, momentum });
                }
            }
            Kind::Photon => photon(particle, &mut pending, rng),
        }
    }
}

/// Steps an electron to rest: collision loss, multiple scattering, bremsstrahlung.
fn electron(start: Particle, pending: &mut Vec<Particle>, rng: &mut impl Rng) -> Vec<Deposit> {
    let Particle { mut position, mut direction, mut energy, .. } = start;
    let mut deposits = Vec::with_capacity(4 + (energy / (COLLISION_LOSS * STEP)) as usize);
    while energy > DEPOSIT_CUT {
        let total = energy + ELECTRON_MASS;
        let momentum = (energy * (energy + 2.0 * ELECTRON_MASS)).sqrt();
        let beta = momentum / total;
        let spread: f64 = rng.sample(StandardNormal);
        let mean = COLLISION_LOSS * STEP / beta.powf(COLLISION_POWER)
            * (1.0 + RELATIVISTIC_RISE * energy.max(1.0).ln());
        let loss = mean * (1.0 + STRAGGLING * spread).max(0.2);
        let loss = loss.min(energy);
        // A step that would overshoot the range is shortened, so that the track ends where it should.
        let length = if loss < energy { STEP } else { 0.5 * STEP };
        deposits.push(Deposit { position: advance(position, direction, 0.5 * length), energy: loss });
        position = advance(position, direction, length);
        energy -= loss;
        direction = scatter(direction, momentum * beta, rng);
        energy -= bremsstrahlung(position, direction, energy, pending, rng);
    }
    deposits
}

/// Highland's multiple scattering over one step, without the logarithm; `momentum_beta` in MeV.
fn scatter(direction: Vec3, momentum_beta: f64, rng: &mut impl Rng) -> Vec3 {
    let width = 13.6 / momentum_beta * (STEP / RADIATION_LENGTH).sqrt();
    // The space angle of two independent projected angles follows a Rayleigh distribution.
    let angle = width * (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    deflect(direction, angle.min(std::f64::consts::PI).cos(), rng)
}

/// Radiates at most one photon in a step and returns its energy, MeV.
fn bremsstrahlung(
    position: Vec3,
    direction: Vec3,
    energy: f64,
    pending: &mut Vec<Particle>,
    rng: &mut impl Rng,
) -> f64 {
    if energy <= BREMSSTRAHLUNG_CUT {
        return 0.0;
    }
    // Photons per step of the spectrum (4/3) / y, which the true one, (4/3 - 4/3 y + y²) / y, stays below.
    let logarithm = (energy / BREMSSTRAHLUNG_CUT).ln();
    if rng.random::<f64>() >= BREMSSTRAHLUNG_SCALE * STEP / RADIATION_LENGTH * 4.0 / 3.0 * logarithm {
        return 0.0;
    }
    let photon = BREMSSTRAHLUNG_CUT * (logarithm * rng.random::<f64>()).exp();
    let y = photon / energy;
    if rng.random::<f64>() > 1.0 - y + 0.75 * y * y {
        return 0.0;
    }
    pending.push(Particle { kind: Kind::Photon, position, direction, energy: photon });
    photon
}

/// Carries a photon to its next interaction; what comes out of it goes onto `pending`.
fn photon(start: Particle, pending: &mut Vec<Particle>, rng: &mut impl Rng) {
    let path = -interpolate(&ATTENUATION, start.energy) * (1.0 - rng.random::<f64>()).ln();
    let here = Particle { position: advance(start.position, start.direction, path), ..start };
    if here.energy < PHOTON_CUT {
        pending.push(Particle { kind: Kind::Electron, ..here });
    } else if rng.random::<f64>() < interpolate(&PAIR_SHARE, here.energy) {
        pair(here, pending, rng);
    } else {
        compton(here, pending, rng);
    }
}

/// Pair production: an even split of the energy, and the two photons of the positron's end.
fn pair(photon: Particle, pending: &mut Vec<Particle>, rng: &mut impl Rng) {
    let shared = photon.energy - 2.0 * ELECTRON_MASS;
    let first = shared * rng.random::<f64>();
    for energy in [first, shared - first] {
        let angle = ELECTRON_MASS / (energy + ELECTRON_MASS);
        let direction = deflect(photon.direction, angle.cos(), rng);
        pending.push(Particle { kind: Kind::Electron, direction, energy, ..photon });
    }
    let direction = crate::vector::isotropic(rng);
    for direction in [direction, scale(direction, -1.0)] {
        pending.push(Particle { direction, energy: ELECTRON_MASS, ..photon });
    }
}

/// Compton scattering after Klein and Nishina, by the composition method of Geant4 and EGS.
fn compton(photon: Particle, pending: &mut Vec<Particle>, rng: &mut impl Rng) {
    let ratio = photon.energy / ELECTRON_MASS;
    let least = 1.0 / (1.0 + 2.0 * ratio);
    let (alpha_1, alpha_2) = (-least.ln(), 0.5 * (1.0 - least * least));
    let (kept, cosine) = loop {
        let draw = rng.random::<f64>();
        let kept = if rng.random::<f64>() * (alpha_1 + alpha_2) < alpha_1 {
            (-alpha_1 * draw).exp()
        } else {
            (least * least + (1.0 - least * least) * draw).sqrt()
        };
        let t = (1.0 - kept) / (ratio * kept);
        let sine_squared = t * (2.0 - t);
        if rng.random::<f64>() < 1.0 - kept * sine_squared / (1.0 + kept * kept) {
            break (kept, 1.0 - t);
        }
    };
    let scattered = kept * photon.energy;
    let direction = deflect(photon.direction, cosine, rng);
    let recoil = std::array::from_fn(|i| photon.energy * photon.direction[i] - scattered * direction[i]);
    let norm = recoil.iter().map(|p: &f64| p * p).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    pending.push(Particle { direction, energy: scattered, ..photon });
    pending.push(Particle {
        kind: Kind::Electron,
        direction: scale(recoil, 1.0 / norm),
        energy: photon.energy - scattered,
        ..photon
    });
}

/// Linear interpolation in a table of (energy, value); constant outside.
fn interpolate(table: &[(f64, f64)], energy: f64) -> f64 {
    let next = table.partition_point(|(at, _)| *at < energy);
    if next == 0 {
        return table[0].1;
    }
    if next == table.len() {
        return table[next - 1].1;
    }
    let ((x0, y0), (x1, y1)) = (table[next - 1], table[next]);
    y0 + (y1 - y0) * (energy - x0) / (x1 - x0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    #[test]
    fn energy_is_conserved() {
        let mut rng = stream(1, Purpose::Neutrino, 0, 0);
        for energy in [2.0, 10.0, 50.0] {
            let mut tracks = Vec::new();
            let particle =
                Particle { kind: Kind::Electron, position: [0.0; 3], direction: [0.0, 0.0, 1.0], energy };
            follow(particle, &mut tracks, &mut rng);
            let seen: f64 = tracks.iter().map(|track| track.energy).sum();
            // A pair's two rest masses come back as photons; only deposits below the cut are lost.
            assert!(seen <= energy + 1e-9 && seen > 0.8 * energy, "{seen} of {energy} MeV");
        }
    }

    #[test]
    fn a_ten_mev_electron_ranges_about_five_centimetres() {
        let mut rng = stream(1, Purpose::Neutrino, 0, 1);
        let start =
            Particle { kind: Kind::Electron, position: [0.0; 3], direction: [0.0, 0.0, 1.0], energy: 10.0 };
        let length: f64 =
            (0..200).map(|_| electron(start, &mut Vec::new(), &mut rng).len() as f64 * STEP).sum();
        assert!((3.5..5.5).contains(&(length / 200.0)), "{}", length / 200.0);
    }
}
