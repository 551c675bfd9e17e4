//! The test set without its images: one entry a cluster, in the order of the split.

use std::collections::HashMap;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{ArrowPrimitiveType, Float32Type, Int8Type, Int32Type, Int64Type, UInt32Type};
use shared::plane::Plane;
use shared::split::column;

use crate::error::Error;

/// Columns that a report reads besides the image.
pub const COLUMNS: [&str; 12] = [
    column::IS_MAIN_TRACK,
    column::IS_MARLEY,
    column::IS_ES,
    column::PLANE,
    column::SOURCE,
    column::ROW,
    column::EVENT,
    column::POSITION[0],
    column::POSITION[1],
    column::POSITION[2],
    column::NEUTRINO_ENERGY,
    column::CLUSTER_ENERGY,
];

/// Everything known of the clusters but their images; each vector has one entry a cluster.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Score of the model
    pub score: Vec<f32>,
    /// Whether it is a main track
    pub label: Vec<bool>,
    /// Whether it comes from the neutrino
    pub is_marley: Vec<bool>,
    /// Whether the interaction is elastic scattering
    pub is_es: Vec<bool>,
    /// Wire plane
    pub plane: Vec<Plane>,
    /// Index into [`Rows::sources`]
    pub source: Vec<u32>,
    /// Row in the source
    pub row: Vec<u32>,
    /// Event in the source
    pub event: Vec<Option<i64>>,
    /// True position in cm; NaN where unknown
    pub position: [Vec<f32>; 3],
    /// True neutrino energy in MeV; NaN where unknown
    pub neutrino_energy: Vec<f32>,
    /// Energy of the image in MeV
    pub cluster_energy: Vec<f32>,
    /// Channels from the first to the last that has a signal
    pub channels: Vec<u16>,
    /// Names of the sources, in the order of their first row
    pub sources: Vec<String>,
}

/// A part of [`Rows`] that one worker read: the batch's own columns.
#[derive(Debug)]
pub struct Piece {
    /// Scores of the batch
    pub score: Vec<f32>,
    /// Channels of each image
    pub channels: Vec<u16>,
    /// The batch without its images
    pub batch: RecordBatch,
}

impl Rows {
    /// Number of clusters.
    pub fn len(&self) -> usize {
        self.label.len()
    }

    /// Whether there are no clusters.
    pub fn is_empty(&self) -> bool {
        self.label.is_empty()
    }

    /// Name of the source of a row.
    pub fn source_name(&self, at: usize) -> &str {
        &self.sources[self.source[at] as usize]
    }

    /// Append a batch.
    ///
    /// # Errors
    /// [`Error::Column`]
    pub fn extend(&mut self, piece: &Piece, path: &Path) -> Result<(), Error> {
        let columns = Columns { batch: &piece.batch, path };
        self.score.extend_from_slice(&piece.score);
        self.channels.extend_from_slice(&piece.channels);
        self.label.extend(columns.bools(column::IS_MAIN_TRACK)?);
        self.is_marley.extend(columns.bools(column::IS_MARLEY)?);
        self.is_es.extend(columns.bools(column::IS_ES)?);
        self.row.extend(columns.numbers::<UInt32Type>(column::ROW)?.into_iter().flatten());
        self.event.extend(columns.numbers::<Int64Type>(column::EVENT)?);
        let real = |name| -> Result<Vec<f32>, Error> {
            let values = columns.numbers::<Float32Type>(name)?;
            Ok(values.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect())
        };
        for (to, name) in self.position.iter_mut().zip(column::POSITION) {
            to.extend(real(name)?);
        }
        self.neutrino_energy.extend(real(column::NEUTRINO_ENERGY)?);
        self.cluster_energy.extend(real(column::CLUSTER_ENERGY)?);
        self.extend_plane(&columns)?;
        self.extend_source(&columns)
    }

    /// Append a batch of a report's predictions, which hold the score and no truth but the label.
    ///
    /// # Errors
    /// [`Error::Column`]
    pub fn extend_predictions(
        &mut self,
        batch: &RecordBatch,
        score: &'static str,
        path: &Path,
    ) -> Result<(), Error> {
        let columns = Columns { batch, path };
        self.score.extend(columns.numbers::<Float32Type>(score)?.into_iter().flatten());
        self.label.extend(columns.bools(column::IS_MAIN_TRACK)?);
        self.row.extend(columns.numbers::<UInt32Type>(column::ROW)?.into_iter().flatten());
        self.event.extend(columns.numbers::<Int64Type>(column::EVENT)?);
        let energies = columns.numbers::<Float32Type>(column::CLUSTER_ENERGY)?;
        self.cluster_energy.extend(energies.into_iter().flatten());
        self.extend_plane(&columns)?;
        self.extend_source(&columns)
    }

    fn extend_plane(&mut self, columns: &Columns) -> Result<(), Error> {
        let (keys, names) = columns.texts::<Int8Type>(column::PLANE)?;
        let wrong = || columns.wrong(column::PLANE);
        let planes: Vec<Option<Plane>> = names.iter().map(|name| name?.parse().ok()).collect();
        for key in keys {
            self.plane.push(planes.get(key).copied().flatten().ok_or_else(wrong)?);
        }
        Ok(())
    }

    fn extend_source(&mut self, columns: &Columns) -> Result<(), Error> {
        let (keys, names) = columns.texts::<Int32Type>(column::SOURCE)?;
        // The parts' dictionaries differ; sources come in long runs, so a look back finds most.
        let mut known: Vec<Option<u32>> = vec![None; names.len()];
        for key in keys {
            let slot = known.get_mut(key).ok_or_else(|| columns.wrong(column::SOURCE))?;
            let index = *slot.get_or_insert_with(|| {
                let name = names.value(key);
                let at = self.sources.iter().rposition(|source| source == name).unwrap_or_else(|| {
                    self.sources.push(name.to_owned());
                    self.sources.len() - 1
                });
                at as u32
            });
            self.source.push(index);
        }
        Ok(())
    }

    /// Digest of source, row and label of each row in order: the same for every model on the same split.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for source in &self.sources {
            hasher.update(&(source.len() as u64).to_le_bytes());
            hasher.update(source.as_bytes());
        }
        let mut bytes = Vec::with_capacity(9 * self.len());
        for ((source, row), label) in self.source.iter().zip(&self.row).zip(&self.label) {
            bytes.extend_from_slice(&source.to_le_bytes());
            bytes.extend_from_slice(&row.to_le_bytes());
            bytes.push(u8::from(*label));
        }
        hasher.update(&bytes);
        shared::files::short(&hasher.finalize())
    }

    /// The event of each row as a number from 0, and how many there are.
    ///
    /// An event is the same number in sources of the same stem (the planes of one event); rows without an event
    /// number share one event a source, as nothing finer is known to be independent.
    pub fn events(&self) -> (Vec<u32>, usize) {
        let mut stems: HashMap<&str, u32> = HashMap::new();
        let mut stem_of = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let next = stems.len() as u32;
            stem_of.push(*stems.entry(stem(source)).or_insert(next));
        }
        let mut numbers: HashMap<(u32, Option<i64>), u32> = HashMap::new();
        let keys = self.source.iter().zip(&self.event);
        let events = keys
            .map(|(&source, &event)| {
                let next = numbers.len() as u32;
                *numbers.entry((stem_of[source as usize], event)).or_insert(next)
            })
            .collect();
        (events, numbers.len())
    }
}

/// A source's name without `.npz` and the plane before it.
fn stem(source: &str) -> &str {
    let name = source.strip_suffix(".npz").unwrap_or(source);
    Plane::ALL
        .iter()
        .find_map(|plane| name.strip_suffix(plane.letter())?.strip_suffix("_plane"))
        .unwrap_or(name)
}

/// Typed access to a batch's columns.
struct Columns<'a> {
    batch: &'a RecordBatch,
    path: &'a Path,
}

impl Columns<'_> {
    fn wrong(&self, column: &'static str) -> Error {
        let found = self.batch.column_by_name(column).map_or("absent".into(), |c| c.data_type().to_string());
        Error::Column { path: self.path.to_owned(), column, found }
    }

    fn bools(&self, name: &'static str) -> Result<Vec<bool>, Error> {
        let column = self.batch.column_by_name(name).and_then(|c| c.as_boolean_opt());
        Ok(column.ok_or_else(|| self.wrong(name))?.values().iter().collect())
    }

    fn numbers<T: ArrowPrimitiveType>(&self, name: &'static str) -> Result<Vec<Option<T::Native>>, Error> {
        let column = self.batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<T>());
        Ok(column.ok_or_else(|| self.wrong(name))?.iter().collect())
    }

    /// Keys and names of a dictionary column.
    fn texts<K: arrow::datatypes::ArrowDictionaryKeyType>(
        &self,
        name: &'static str,
    ) -> Result<(Vec<usize>, &StringArray), Error> {
        let column = self.batch.column_by_name(name).and_then(|c| c.as_dictionary_opt::<K>());
        let column = column.filter(|c| c.null_count() == 0).ok_or_else(|| self.wrong(name))?;
        let names = column.values().as_string_opt::<i32>().ok_or_else(|| self.wrong(name))?;
        let keys = column.keys_iter().flatten().collect();
        Ok((keys, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_of_one_event_share_it_and_rows_without_a_number_share_their_source() {
        let rows = Rows {
            sources: vec!["es/a_planeX.npz".into(), "es/a_planeU.npz".into(), "es/b_planeX.npz".into()],
            source: vec![0, 1, 2, 0, 2, 2],
            event: vec![Some(1), Some(1), Some(1), Some(2), None, None],
            ..Rows::default()
        };
        assert_eq!(rows.events(), (vec![0, 0, 1, 2, 3, 3], 4));
    }
}
