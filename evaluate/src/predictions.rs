//! predictions.parquet: one row a cluster, in the order of the split.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Float32Array, Int8Array, Int32Array, Int64Array, RecordBatch,
    StringArray, UInt32Array,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use shared::files::FileError;
use shared::plane::Plane;
use shared::split::column;

use crate::error::Error;
use crate::parquet_file;
use crate::rows::Rows;

/// Name of the score's column.
pub const SCORE: &str = "score";

/// Write the file, whole or not at all.
///
/// # Errors
/// [`Error::File`]
pub fn write(path: &Path, rows: &Rows) -> Result<(), Error> {
    parquet_file::write(path, rows.len(), |at| batch(rows, at))
}

/// A report's predictions, as a comparison needs them.
pub type Predictions = Rows;

/// Read a report's predictions.
///
/// # Errors
/// [`Error::File`], [`Error::Parquet`], [`Error::Column`]
pub fn read(path: &Path) -> Result<Predictions, Error> {
    let parquet = |source| Error::Parquet { path: path.to_owned(), source };
    let file = File::open(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(parquet)?.build().map_err(parquet)?;
    let mut rows = Rows::default();
    for batch in reader {
        let batch = batch.map_err(|e| parquet(e.into()))?;
        rows.extend_predictions(&batch, SCORE, path)?;
    }
    Ok(rows)
}

fn batch(rows: &Rows, at: Range<usize>) -> Result<RecordBatch, ParquetError> {
    let source_keys: Int32Array = rows.source[at.clone()].iter().map(|&key| Some(key as i32)).collect();
    let source_names = StringArray::from_iter_values(&rows.sources);
    let plane_keys: Int8Array = rows.plane[at.clone()].iter().map(|&plane| Some(plane as i8)).collect();
    let plane_names = StringArray::from_iter_values(Plane::ALL.map(Plane::letter));
    let real = |values: &[f32]| Arc::new(Float32Array::from(values[at.clone()].to_vec()));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (column::SOURCE, Arc::new(DictionaryArray::new(source_keys, Arc::new(source_names))), false),
        (column::ROW, Arc::new(UInt32Array::from(rows.row[at.clone()].to_vec())), false),
        (column::EVENT, Arc::new(Int64Array::from(rows.event[at.clone()].to_vec())), true),
        (column::PLANE, Arc::new(DictionaryArray::new(plane_keys, Arc::new(plane_names))), false),
        (column::IS_MAIN_TRACK, Arc::new(BooleanArray::from(rows.label[at.clone()].to_vec())), false),
        (SCORE, real(&rows.score), false),
        (column::CLUSTER_ENERGY, real(&rows.cluster_energy), false),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}
