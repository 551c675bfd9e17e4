//! The metadata layouts of the productions: which column holds what.

use crate::{detector::Plane, neutrino::Truth, vector::Vec3};

/// Marks a number that a background cluster has not.
const NONE: f64 = -1.0;

/// A metadata layout, named by its number of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// `is_marley`, `is_main`, `is_es`, position, momentum, neutrino energy, particle energy
    #[value(name = "11")]
    C11,
    /// As 11, then the plane
    #[value(name = "12")]
    C12,
    /// Event, then as 12, with the cluster energy in place of the neutrino energy
    #[value(name = "13")]
    C13,
    /// As 13, then the match id
    #[value(name = "14")]
    C14,
    /// `is_marley`, `is_main`, position, direction, momentum, neutrino energy, particle energy, plane, `is_es`
    #[value(name = "15")]
    C15,
    /// As 14, then neutrino energy and neutrino momentum
    #[value(name = "18")]
    C18,
}

impl Layout {
    /// All layouts, narrowest first.
    pub const ALL: [Self; 6] = [Self::C11, Self::C12, Self::C13, Self::C14, Self::C15, Self::C18];

    /// Number of metadata columns.
    pub fn columns(self) -> usize {
        match self {
            Self::C11 => 11,
            Self::C12 => 12,
            Self::C13 => 13,
            Self::C14 => 14,
            Self::C15 => 15,
            Self::C18 => 18,
        }
    }

    /// The column of `is_main`.
    pub fn label_column(self) -> usize {
        match self {
            Self::C11 | Self::C12 | Self::C15 => 1,
            Self::C13 | Self::C14 | Self::C18 => 2,
        }
    }

    /// Appends one row of metadata to `out`.
    pub(crate) fn push(self, row: &Row, out: &mut Vec<f32>) {
        let flags = [f64::from(row.truth.is_some()), f64::from(row.is_main)];
        let is_es = f64::from(row.truth.is_some_and(|truth| truth.is_es));
        let position = row.truth.map_or([0.0; 3], |truth| truth.position);
        let neutrino_energy = row.truth.map_or(NONE, |truth| truth.neutrino_energy);
        let plane = row.plane.number() as f64;
        let mut put = |values: &[f64]| out.extend(values.iter().map(|&value| value as f32));
        if self == Self::C15 {
            put(&flags);
            put(&position);
            put(&direction(row.momentum));
            put(&row.momentum);
            return put(&[neutrino_energy, row.energy, plane, is_es]);
        }
        let dated = matches!(self, Self::C13 | Self::C14 | Self::C18);
        if dated {
            put(&[row.event as f64]);
        }
        put(&flags);
        put(&[is_es]);
        put(&position);
        put(&row.momentum);
        put(&[if dated { row.image_energy } else { neutrino_energy }, row.energy]);
        if self != Self::C11 {
            put(&[plane]);
        }
        if matches!(self, Self::C14 | Self::C18) {
            put(&[row.match_id.map_or(NONE, f64::from)]);
        }
        if self == Self::C18 {
            put(&[neutrino_energy]);
            put(&row.truth.map_or([0.0; 3], |truth| truth.neutrino_momentum));
        }
    }
}

/// Everything that any layout tells of a cluster.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) event: u64,
    pub(crate) plane: Plane,
    pub(crate) is_main: bool,
    pub(crate) match_id: Option<u32>,
    /// None for a radiological background.
    pub(crate) truth: Option<&'a Truth>,
    /// Momentum of the particle, GeV/c; zeros for a background.
    pub(crate) momentum: Vec3,
    /// Energy inside the image, MeV.
    pub(crate) image_energy: f64,
    /// Energy of the whole cluster, MeV.
    pub(crate) energy: f64,
}

/// The unit vector along `momentum`; zeros for zeros.
fn direction(momentum: Vec3) -> Vec3 {
    let norm = momentum.iter().map(|p| p * p).sum::<f64>().sqrt();
    if norm > 0.0 { momentum.map(|p| p / norm) } else { momentum }
}
