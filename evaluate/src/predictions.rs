//! predictions.parquet: one row a cluster, in the order of the split.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Float32Array, Int8Array, Int32Array, Int64Array, RecordBatch,
    StringArray, UInt32Array,
};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use shared::files;
use shared::plane::Plane;
use shared::split::column;

use crate::error::Error;
use crate::rows::Rows;

/// Name of the score's column.
pub const SCORE: &str = "score";

/// Write the file, whole or not at all.
///
/// # Errors
/// [`Error::Parquet`], [`Error::File`]
pub fn write(path: &Path, rows: &Rows) -> Result<(), Error> {
    let bytes = encode(rows).map_err(|source| Error::Parquet { path: path.to_owned(), source })?;
    Ok(files::write_bytes(path, &bytes)?)
}

/// A report's predictions, as a comparison needs them.
pub type Predictions = Rows;

/// Read a report's predictions.
///
/// # Errors
/// [`Error::File`], [`Error::Parquet`], [`Error::Column`]
pub fn read(path: &Path) -> Result<Predictions, Error> {
    let parquet = |source| Error::Parquet { path: path.to_owned(), source };
    let bytes = Bytes::from(files::read_bytes(path)?);
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(parquet)?.build().map_err(parquet)?;
    let mut rows = Rows::default();
    for batch in reader {
        let batch = batch.map_err(|e| parquet(e.into()))?;
        rows.extend_predictions(&batch, SCORE, path)?;
    }
    Ok(rows)
}

fn encode(rows: &Rows) -> Result<Vec<u8>, ParquetError> {
    let batch = batch(rows)?;
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes)
}

fn batch(rows: &Rows) -> Result<RecordBatch, ParquetError> {
    let source_keys: Int32Array = rows.source.iter().map(|&at| Some(at as i32)).collect();
    let source_names = StringArray::from_iter_values(&rows.sources);
    let plane_keys: Int8Array = rows.plane.iter().map(|&plane| Some(plane as i8)).collect();
    let plane_names = StringArray::from_iter_values(Plane::ALL.map(Plane::letter));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (column::SOURCE, Arc::new(DictionaryArray::new(source_keys, Arc::new(source_names))), false),
        (column::ROW, Arc::new(UInt32Array::from(rows.row.clone())), false),
        (column::EVENT, Arc::new(Int64Array::from(rows.event.clone())), true),
        (column::PLANE, Arc::new(DictionaryArray::new(plane_keys, Arc::new(plane_names))), false),
        (column::IS_MAIN_TRACK, Arc::new(BooleanArray::from(rows.label.clone())), false),
        (SCORE, Arc::new(Float32Array::from(rows.score.clone())), false),
        (column::CLUSTER_ENERGY, Arc::new(Float32Array::from(rows.cluster_energy.clone())), false),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}
