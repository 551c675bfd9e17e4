//! The three wire planes and how ADC counts become energy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A wire plane: two induction planes and the collection plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Plane {
    /// First induction plane
    U,
    /// Second induction plane
    V,
    /// Collection plane
    X,
}

impl Plane {
    /// All planes in the order of their numbers in the metadata: 0 U, 1 V, 2 X.
    pub const ALL: [Self; 3] = [Self::U, Self::V, Self::X];

    /// ADC counts that make one MeV.
    pub const fn adc_per_mev(self) -> f32 {
        match self {
            Self::U | Self::V => 900.0,
            Self::X => 3600.0,
        }
    }

    /// The letter in file names.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::U => "U",
            Self::V => "V",
            Self::X => "X",
        }
    }
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.letter())
    }
}

/// A name that is no plane.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no plane; give U, V or X")]
pub struct NoPlane(String);

impl FromStr for Plane {
    type Err = NoPlane;

    fn from_str(text: &str) -> Result<Self, NoPlane> {
        Self::ALL
            .into_iter()
            .find(|plane| plane.letter().eq_ignore_ascii_case(text))
            .ok_or_else(|| NoPlane(text.to_owned()))
    }
}
