//! What the metadata columns mean: six layouts, told apart by their width.

#![expect(clippy::float_cmp, reason = "0, 1 and −1 are exact markers")]

use shared::plane::Plane;

/// Where each quantity stands in a row of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Number of columns
    pub columns: usize,
    event: Option<usize>,
    /// `is_marley`, `is_main`, `is_es`
    flags: [usize; 3],
    position: usize,
    momentum: usize,
    neutrino_energy: usize,
    /// Early productions put the neutrino's energy there, later ones the cluster's
    neutrino_energy_may_be_the_clusters: bool,
    particle_energy: usize,
    plane: Option<usize>,
    match_id: Option<usize>,
}

/// The widths of metadata that are known.
pub const KNOWN: &str = "11, 12, 13, 14, 15 or 18";

/// A metadata value that no sound file has; the file is then not used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("`metadata` has {0} columns, known are {KNOWN}")]
    Columns(u64),
    #[error("`{name}` is {value} in row {row} of `metadata`, expected 0 or 1")]
    Flag { name: &'static str, value: f64, row: u64 },
    #[error("event {value} in row {row} of `metadata` is no integer")]
    Event { value: f64, row: u64 },
    #[error("match id {value} in row {row} of `metadata` is no integer of 32 bits")]
    MatchId { value: f64, row: u64 },
    #[error("the name says plane {name}, column {column} of `metadata` says {found} in row {row}")]
    Plane { name: Plane, column: usize, found: String, row: u64 },
}

/// What the metadata say of a cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "three are the file's own flags")]
pub struct Truth {
    /// Whether the cluster comes from the neutrino
    pub is_marley: bool,
    /// The label
    pub is_main_track: bool,
    /// Whether the interaction is elastic scattering
    pub is_es: bool,
    /// Event as stored, of which −1 means none
    pub event: Option<i64>,
    /// Match id, unless −1
    pub match_id: Option<i32>,
    /// True position in cm
    pub position: [Option<f32>; 3],
    /// True momentum in GeV/c
    pub momentum: [Option<f32>; 3],
    /// Neutrino energy in MeV
    pub neutrino_energy: Option<f32>,
    /// Particle energy in MeV
    pub particle_energy: Option<f32>,
    /// Whether `neutrino_energy` counts only where it differs from the cluster's energy
    pub neutrino_energy_may_be_the_clusters: bool,
}

impl Layout {
    /// The layout with so many columns.
    pub fn of(columns: u64) -> Result<Self, LayoutError> {
        let old = Self {
            columns: 11,
            event: None,
            flags: [0, 1, 2],
            position: 3,
            momentum: 6,
            neutrino_energy: 9,
            neutrino_energy_may_be_the_clusters: false,
            particle_energy: 10,
            plane: None,
            match_id: None,
        };
        let with_event = Self {
            columns: 13,
            event: Some(0),
            flags: [1, 2, 3],
            position: 4,
            momentum: 7,
            neutrino_energy: 10,
            neutrino_energy_may_be_the_clusters: true,
            particle_energy: 11,
            plane: Some(12),
            match_id: None,
        };
        let matched = Self { columns: 14, match_id: Some(13), ..with_event };
        Ok(match columns {
            11 => old,
            12 => Self { columns: 12, plane: Some(11), ..old },
            13 => with_event,
            14 => matched,
            18 => Self {
                columns: 18,
                neutrino_energy: 14,
                neutrino_energy_may_be_the_clusters: false,
                ..matched
            },
            15 => Self {
                columns: 15,
                flags: [0, 1, 14],
                position: 2,
                momentum: 8,
                neutrino_energy: 11,
                particle_energy: 12,
                plane: Some(13),
                ..old
            },
            other => return Err(LayoutError::Columns(other)),
        })
    }

    /// Whether the rows name their event.
    pub fn has_event(&self) -> bool {
        self.event.is_some()
    }

    /// Read one row of metadata; `None` for a row whose flags are not finite.
    pub fn read(&self, values: &[f64], row: u64, plane: Plane) -> Result<Option<Truth>, LayoutError> {
        let flags = self.flags.map(|column| values[column]);
        if flags.iter().any(|flag| !flag.is_finite()) {
            return Ok(None);
        }
        for (name, value) in ["is_marley", "is_main", "is_es"].into_iter().zip(flags) {
            if value != 0.0 && value != 1.0 {
                return Err(LayoutError::Flag { name, value, row });
            }
        }
        self.check_plane(values, row, plane)?;
        let [is_marley, is_main_track, is_es] = flags.map(|flag| flag > 0.5);
        Ok(Some(Truth {
            is_marley,
            is_main_track,
            is_es,
            event: self.event(values, row)?,
            match_id: self.match_id(values, row)?,
            position: vector(&values[self.position..], is_marley),
            momentum: vector(&values[self.momentum..], is_marley),
            neutrino_energy: known(values[self.neutrino_energy]),
            particle_energy: known(values[self.particle_energy]),
            neutrino_energy_may_be_the_clusters: self.neutrino_energy_may_be_the_clusters,
        }))
    }

    fn check_plane(&self, values: &[f64], row: u64, name: Plane) -> Result<(), LayoutError> {
        let Some(column) = self.plane else { return Ok(()) };
        let found = Plane::ALL.into_iter().zip(0_u8..).find(|&(_, code)| f64::from(code) == values[column]);
        match found {
            Some((plane, _)) if plane == name => Ok(()),
            Some((plane, _)) => Err(LayoutError::Plane { name, column, found: plane.to_string(), row }),
            None => Err(LayoutError::Plane { name, column, found: values[column].to_string(), row }),
        }
    }

    fn event(&self, values: &[f64], row: u64) -> Result<Option<i64>, LayoutError> {
        const LARGEST: f64 = 9_007_199_254_740_992.0; // 2^53
        let Some(value) = self.event.map(|column| values[column]) else { return Ok(None) };
        if value.fract() != 0.0 || value.abs() > LARGEST {
            return Err(LayoutError::Event { value, row });
        }
        Ok(Some(value as i64))
    }

    fn match_id(&self, values: &[f64], row: u64) -> Result<Option<i32>, LayoutError> {
        let Some(value) = self.match_id.map(|column| values[column]) else { return Ok(None) };
        if value.is_nan() || value == -1.0 {
            return Ok(None);
        }
        if value.fract() != 0.0 || value < f64::from(i32::MIN) || value > f64::from(i32::MAX) {
            return Err(LayoutError::MatchId { value, row });
        }
        Ok(Some(value as i32))
    }
}

/// A quantity that is known: finite and not −1.
fn known(value: f64) -> Option<f32> {
    let value = value as f32;
    (value.is_finite() && value != -1.0).then_some(value)
}

/// Three components; a background cluster's all-zero vector is unknown.
fn vector(values: &[f64], is_marley: bool) -> [Option<f32>; 3] {
    let values = [values[0], values[1], values[2]];
    if !is_marley && values == [0.0; 3] { [None; 3] } else { values.map(known) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row whose value in each column is 100 + its number, but for flags, plane and event.
    fn row(columns: u64, is_marley: f64) -> Vec<f64> {
        let layout = Layout::of(columns).unwrap();
        let mut values: Vec<f64> = (0..columns).map(|column| 100.0 + column as f64).collect();
        for (column, value) in layout.flags.into_iter().zip([is_marley, 1.0, 0.0]) {
            values[column] = value;
        }
        if let Some(column) = layout.plane {
            values[column] = 2.0;
        }
        values
    }

    fn read(columns: u64, values: &[f64]) -> Result<Option<Truth>, LayoutError> {
        Layout::of(columns).unwrap().read(values, 3, Plane::X)
    }

    #[test]
    fn every_layout_finds_its_columns() {
        // columns, event, match id, first position, first momentum, neutrino, particle
        let expected = [
            (11, None, None, 103.0, 106.0, 109.0, 110.0),
            (12, None, None, 103.0, 106.0, 109.0, 110.0),
            (13, Some(100), None, 104.0, 107.0, 110.0, 111.0),
            (14, Some(100), Some(113), 104.0, 107.0, 110.0, 111.0),
            (15, None, None, 102.0, 108.0, 111.0, 112.0),
            (18, Some(100), Some(113), 104.0, 107.0, 114.0, 111.0),
        ];
        for (columns, event, match_id, position, momentum, neutrino, particle) in expected {
            let truth = read(columns, &row(columns, 1.0)).unwrap().unwrap();
            assert_eq!((truth.event, truth.match_id), (event, match_id), "{columns} columns");
            assert_eq!(truth.position[0], Some(position), "{columns} columns");
            assert_eq!(truth.momentum[0], Some(momentum), "{columns} columns");
            assert_eq!(truth.neutrino_energy, Some(neutrino), "{columns} columns");
            assert_eq!(truth.particle_energy, Some(particle), "{columns} columns");
            assert_eq!((truth.is_marley, truth.is_main_track, truth.is_es), (true, true, false));
        }
    }

    #[test]
    fn an_unknown_width_is_refused_by_name() {
        let message = Layout::of(16).unwrap_err().to_string();
        assert_eq!(message, "`metadata` has 16 columns, known are 11, 12, 13, 14, 15 or 18");
    }

    #[test]
    fn minus_one_and_a_backgrounds_zeros_are_unknown() {
        let mut values = row(14, 0.0);
        values[4..10].fill(0.0);
        values[10] = -1.0;
        values[13] = -1.0;
        let truth = read(14, &values).unwrap().unwrap();
        assert_eq!((truth.position, truth.momentum), ([None; 3], [None; 3]));
        assert_eq!((truth.neutrino_energy, truth.match_id), (None, None));
        values[1] = 1.0;
        assert_eq!(read(14, &values).unwrap().unwrap().position, [Some(0.0); 3]);
    }

    #[test]
    fn flags_that_are_not_finite_drop_the_row_and_others_the_file() {
        let mut values = row(14, f64::NAN);
        assert_eq!(read(14, &values).unwrap(), None);
        values[1] = 0.5;
        let message = read(14, &values).unwrap_err().to_string();
        assert_eq!(message, "`is_marley` is 0.5 in row 3 of `metadata`, expected 0 or 1");
    }

    #[test]
    fn an_event_or_match_id_that_is_no_integer_is_refused() {
        let mut values = row(14, 1.0);
        values[0] = 7.5;
        let message = read(14, &values).unwrap_err().to_string();
        assert_eq!(message, "event 7.5 in row 3 of `metadata` is no integer");
        values[0] = f64::NAN;
        let message = read(14, &values).unwrap_err().to_string();
        assert_eq!(message, "event NaN in row 3 of `metadata` is no integer");
        values[0] = 7.0;
        values[13] = 1e12;
        let message = read(14, &values).unwrap_err().to_string();
        assert_eq!(message, "match id 1000000000000 in row 3 of `metadata` is no integer of 32 bits");
    }

    #[test]
    fn a_plane_that_is_not_the_names_is_refused() {
        let mut values = row(12, 1.0);
        values[11] = 0.0;
        let message = read(12, &values).unwrap_err().to_string();
        assert_eq!(message, "the name says plane X, column 11 of `metadata` says U in row 3");
        values[11] = 5.0;
        let message = read(12, &values).unwrap_err().to_string();
        assert_eq!(message, "the name says plane X, column 11 of `metadata` says 5 in row 3");
    }
}
