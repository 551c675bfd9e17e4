//! The rows of a split as record batches, part after part.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::part::{ImageReader, OpenPart};
use super::{Part, Split, SplitError, SplitFolder, column};

/// The rows of a split as record batches; see [`SplitFolder::batches`].
#[derive(Debug)]
pub struct Batches {
    folder: PathBuf,
    parts: std::vec::IntoIter<Part>,
    columns: Vec<String>,
    batch_rows: usize,
    pixels: usize,
    current: Option<Current>,
}

/// The part that is being read.
struct Current {
    part: Part,
    rows: u64,
    /// The columns, without the images where those are read by their pages
    reader: ParquetRecordBatchReader,
    images: Option<Tensors>,
}

/// Images as a column of a batch.
struct Tensors {
    reader: ImageReader,
    field: FieldRef,
    pixels: usize,
    /// Place among the batch's columns
    at: usize,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("part", &self.part).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Batches {
    pub(super) fn new(
        folder: &SplitFolder,
        split: Split,
        columns: &[&str],
        batch_rows: usize,
    ) -> Result<Self, SplitError> {
        Ok(Self {
            parts: folder.parts(split)?.to_vec().into_iter(),
            folder: folder.path().join(split.name()),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            batch_rows: batch_rows.max(1),
            pixels: folder.manifest().height * folder.manifest().width,
            current: None,
        })
    }

    /// The part that the last batch came from.
    fn path(&self) -> PathBuf {
        self.folder.join(self.current.as_ref().map_or("", |current| &current.part.name))
    }

    fn open(&self, part: Part) -> Result<Current, SplitError> {
        let opened = OpenPart::open(self.folder.join(&part.name))?;
        let mut roots = self.columns.iter().map(|name| opened.column(name)).collect::<Result<Vec<_>, _>>()?;
        roots.sort_unstable();
        let groups: Vec<usize> = (0..opened.group_rows().count()).collect();
        let mut images = None;
        if opened.has_images(self.pixels) {
            let column = opened.column(column::IMAGE)?;
            if let Ok(at) = roots.binary_search(&column) {
                roots.remove(at);
                let (field, pixels) = (opened.field(column), self.pixels);
                images = Some(Tensors { reader: opened.images(groups.clone(), pixels)?, field, pixels, at });
            }
        }
        let reader = opened.columns(&roots, &groups, 0, self.batch_rows)?;
        Ok(Current { part, rows: 0, reader, images })
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>, SplitError> {
        loop {
            let path = self.path();
            if let Some(current) = &mut self.current {
                if let Some(batch) = current.reader.next() {
                    let rows = |source| SplitError::Rows { path: path.clone(), source };
                    let batch = batch.map_err(rows)?;
                    current.rows += batch.num_rows() as u64;
                    return match &mut current.images {
                        Some(images) => images.join(&batch)?.map_err(rows).map(Some),
                        None => Ok(Some(batch)),
                    };
                }
                let (found, expected) = (current.rows, current.part.rows);
                if found != expected {
                    return Err(SplitError::RowCount { path, found, expected });
                }
            }
            let Some(part) = self.parts.next() else { return Ok(None) };
            self.current = Some(self.open(part)?);
        }
    }
}

impl Tensors {
    /// Put the next images beside the other columns of their rows.
    fn join(&mut self, batch: &RecordBatch) -> Result<Result<RecordBatch, ArrowError>, SplitError> {
        let rows = batch.num_rows();
        let mut values = Vec::with_capacity(rows * self.pixels);
        self.reader.read(rows, &mut |bytes| {
            values.extend(
                bytes.chunks_exact(4).map(|adc| f32::from_le_bytes([adc[0], adc[1], adc[2], adc[3]])),
            );
        })?;
        Ok(self.with_column(batch, values))
    }

    fn with_column(&self, batch: &RecordBatch, values: Vec<f32>) -> Result<RecordBatch, ArrowError> {
        let DataType::FixedSizeList(pixel, size) = self.field.data_type() else {
            return Err(ArrowError::SchemaError("images are no lists".to_owned()));
        };
        let values = Arc::new(Float32Array::from(values));
        let images = FixedSizeListArray::try_new(Arc::clone(pixel), *size, values, None)?;
        let (mut fields, mut columns) = (batch.schema().fields().to_vec(), batch.columns().to_vec());
        fields.insert(self.at, Arc::clone(&self.field));
        columns.insert(self.at, Arc::new(images));
        let schema = Schema::new_with_metadata(fields, batch.schema().metadata().clone());
        RecordBatch::try_new(Arc::new(schema), columns)
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            // Nothing after an error: a reader must not mistake the rest for the whole.
            self.parts = Vec::new().into_iter();
            self.current = None;
        }
        next
    }
}
