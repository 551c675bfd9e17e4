//! Rows on their way into a Parquet file, and the columns they become.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Float32Array, Int8Array, Int32Array, Int64Array, StringArray,
    UInt32Array,
};
use shared::plane::Plane;

use crate::image::{SparseImage, SparseImages};
use crate::layout::Truth;

/// Rows of one split.
#[derive(Debug, Default)]
pub struct Rows {
    /// Their images
    pub images: SparseImages,
    details: Vec<Details>,
}

/// A row but for its image.
#[derive(Debug, Clone)]
struct Details {
    source: Arc<str>,
    row: u32,
    truth: Truth,
    energy: f32,
}

/// Relative difference up to which a stored energy is the image's: the sum of f32 is not exact.
const SAME_ENERGY: f32 = 1e-4;

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.details.len()
    }

    /// Add a row.
    pub fn push(&mut self, image: SparseImage<'_>, source: &Arc<str>, row: u32, truth: Truth, energy: f32) {
        self.images.push(image);
        self.details.push(Details { source: Arc::clone(source), row, truth, energy });
    }

    /// Add rows of `other` from `first` on, until there are `limit`; returns how many.
    pub fn append(&mut self, other: &Self, first: usize, limit: usize) -> usize {
        let count = (other.len() - first).min(limit.saturating_sub(self.len()));
        for row in first..first + count {
            self.images.push(other.images.get(row));
        }
        self.details.extend_from_slice(&other.details[first..first + count]);
        count
    }

    /// All columns but the image, in the order of the schema.
    pub fn columns(&self, plane: Plane) -> Vec<ArrayRef> {
        let rows = &self.details;
        let flag = |get: fn(&Truth) -> bool| -> ArrayRef {
            Arc::new(rows.iter().map(|row| Some(get(&row.truth))).collect::<BooleanArray>())
        };
        let truth = |get: &dyn Fn(&Details) -> Option<f32>| -> ArrayRef {
            Arc::new(rows.iter().map(get).collect::<Float32Array>())
        };
        let mut columns = vec![
            flag(|truth| truth.is_main_track),
            flag(|truth| truth.is_marley),
            flag(|truth| truth.is_es),
            self.planes(plane),
            self.sources(),
            Arc::new(rows.iter().map(|row| row.row).collect::<UInt32Array>()),
            Arc::new(
                rows.iter().map(|row| row.truth.event.filter(|&event| event != -1)).collect::<Int64Array>(),
            ),
            Arc::new(rows.iter().map(|row| row.truth.match_id).collect::<Int32Array>()),
        ];
        columns.extend((0..3).map(|axis| truth(&|row| row.truth.position[axis])));
        columns.extend((0..3).map(|axis| truth(&|row| row.truth.momentum[axis])));
        columns.push(truth(&Details::neutrino_energy));
        columns.push(truth(&|row| row.truth.particle_energy));
        columns.push(truth(&|row| Some(row.energy)));
        columns
    }

    fn planes(&self, plane: Plane) -> ArrayRef {
        let keys = Int8Array::from(vec![0; self.len()]);
        Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(vec![plane.letter()]))))
    }

    fn sources(&self) -> ArrayRef {
        let mut names: Vec<&str> = Vec::new();
        let mut known = HashMap::new();
        let keys = self.details.iter().map(|row| {
            *known.entry(&*row.source).or_insert_with(|| {
                names.push(&row.source);
                names.len().cast_signed() as i32 - 1
            })
        });
        let keys: Int32Array = keys.collect::<Vec<i32>>().into();
        Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(names))))
    }
}

impl Details {
    /// The neutrino's energy, where the column does not repeat the cluster's.
    fn neutrino_energy(&self) -> Option<f32> {
        let stored = self.truth.neutrino_energy?;
        let is_clusters = (stored - self.energy).abs() <= SAME_ENERGY * self.energy.abs().max(1.0);
        let is_known = !(self.truth.neutrino_energy_may_be_the_clusters && is_clusters);
        is_known.then_some(stored)
    }
}
