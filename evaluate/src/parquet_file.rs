//! Parquet files of results: batch after batch, whole or not at all.

use std::io;
use std::path::Path;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use shared::files;

use crate::error::Error;

/// Rows of a batch, and of a row group: what of a long file is in memory at a time.
pub const BATCH: usize = 1 << 16;

/// Write a file of so many rows; `batch` makes those of a range.
///
/// # Errors
/// [`Error::File`]
pub fn write(
    path: &Path,
    rows: usize,
    batch: impl Fn(std::ops::Range<usize>) -> Result<RecordBatch, ParquetError>,
) -> Result<(), Error> {
    Ok(files::write_atomic(path, |file| {
        let first = batch(0..rows.min(BATCH)).map_err(io::Error::other)?;
        let fill = || -> Result<(), ParquetError> {
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
                .set_max_row_group_row_count(Some(BATCH))
                .build();
            let mut writer = ArrowWriter::try_new(file, first.schema(), Some(properties))?;
            writer.write(&first)?;
            for start in (BATCH..rows).step_by(BATCH) {
                writer.write(&batch(start..rows.min(start + BATCH))?)?;
            }
            writer.close()?;
            Ok(())
        };
        fill().map_err(io::Error::other)
    })?)
}
