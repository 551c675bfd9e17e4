//! Rows of one Parquet file: the images by their pages, the other columns by `parquet`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Float32Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use super::pages::{ImagePages, Next};
use super::{SplitError, column};

/// Rows that the general decoder makes of a row group at a time, where pages are of another kind.
const GENERAL_ROWS: usize = 256;

/// A part whose footer was read.
#[derive(Debug, Clone)]
pub(super) struct OpenPart {
    path: PathBuf,
    footer: ArrowReaderMetadata,
}

impl OpenPart {
    /// # Errors
    /// [`SplitError::Open`], [`SplitError::Parquet`]
    pub fn open(path: PathBuf) -> Result<Self, SplitError> {
        let file = open(&path)?;
        match ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()) {
            Ok(footer) => Ok(Self { path, footer }),
            Err(source) => Err(SplitError::Parquet { path, source }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows of each row group.
    pub fn group_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.footer.metadata().row_groups().iter().map(|group| group.num_rows() as usize)
    }

    /// Whether the images are such that [`OpenPart::images`] can read them.
    pub fn has_images(&self, pixels: usize) -> bool {
        let field = self.footer.schema().column_with_name(column::IMAGE);
        field.is_some_and(|(_, field)| match field.data_type() {
            DataType::FixedSizeList(pixel, size) => {
                *size as usize == pixels && *pixel.data_type() == DataType::Float32
            }
            _ => false,
        })
    }

    /// # Errors
    /// [`SplitError::NoColumn`], [`SplitError::ColumnType`] if the images are of another size or type.
    pub fn check_images(&self, pixels: usize) -> Result<(), SplitError> {
        let at = self.column(column::IMAGE)?;
        if self.has_images(pixels) {
            return Ok(());
        }
        let found = self.footer.schema().field(at).data_type().to_string();
        Err(SplitError::ColumnType { path: self.path.clone(), column: column::IMAGE, found })
    }

    /// Place of a column in the schema.
    ///
    /// # Errors
    /// [`SplitError::NoColumn`]
    pub fn column(&self, name: &str) -> Result<usize, SplitError> {
        let found = self.footer.schema().column_with_name(name);
        let missing = || SplitError::NoColumn { path: self.path.clone(), column: name.to_owned() };
        found.map(|(at, _)| at).ok_or_else(missing)
    }

    /// What the schema says of a column.
    pub fn field(&self, at: usize) -> FieldRef {
        Arc::clone(&self.footer.schema().fields()[at])
    }

    /// Some columns of some row groups, by the general decoder.
    ///
    /// - `skipped`: rows at the start that are left out
    ///
    /// # Errors
    /// [`SplitError::Open`], [`SplitError::Parquet`]
    pub fn columns(
        &self,
        roots: &[usize],
        groups: &[usize],
        skipped: usize,
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader, SplitError> {
        let columns = ProjectionMask::roots(self.footer.parquet_schema(), roots.iter().copied());
        ParquetRecordBatchReaderBuilder::new_with_metadata(open(&self.path)?, self.footer.clone())
            .with_projection(columns)
            .with_row_groups(groups.to_vec())
            .with_offset(skipped)
            .with_batch_size(batch_rows)
            .build()
            .map_err(|source| self.parquet(source))
    }

    /// The images of some row groups; the caller has looked at [`OpenPart::has_images`].
    ///
    /// # Errors
    /// [`SplitError::Open`]
    pub fn images(&self, groups: Vec<usize>, pixels: usize) -> Result<ImageReader, SplitError> {
        let file = Arc::new(open(&self.path)?);
        Ok(ImageReader { part: self.clone(), file, pixels, groups: groups.into_iter(), current: None })
    }

    fn parquet(&self, source: ParquetError) -> SplitError {
        SplitError::Parquet { path: self.path.clone(), source }
    }
}

fn open(path: &Path) -> Result<File, SplitError> {
    File::open(path).map_err(|source| SplitError::Open { path: path.to_owned(), source })
}

/// The images of a part, row group after row group.
pub(super) struct ImageReader {
    part: OpenPart,
    file: Arc<File>,
    pixels: usize,
    groups: std::vec::IntoIter<usize>,
    current: Option<Group>,
}

/// The row group that is being read.
struct Group {
    number: usize,
    /// Images that were handed out
    taken: usize,
    decoder: Decoder,
}

enum Decoder {
    /// The pages hold plain images, so far
    Pages(Box<ImagePages>),
    /// They don't; the rows that were decoded and not handed out
    General(ParquetRecordBatchReader, Option<RecordBatch>),
}

impl ImageReader {
    /// Hand the next images to `to`, as f32 in little-endian bytes, whole images at a time.
    ///
    /// # Errors
    /// [`SplitError::Parquet`], [`SplitError::Rows`]
    pub fn read(&mut self, rows: usize, to: &mut impl FnMut(&[u8])) -> Result<(), SplitError> {
        let mut left = rows;
        while left > 0 {
            let Some(group) = &mut self.current else {
                self.current = Some(self.next_group()?);
                continue;
            };
            let taken = match &mut group.decoder {
                Decoder::Pages(pages) => match pages.next(left).map_err(|e| self.part.parquet(e))? {
                    Next::Images(bytes) => {
                        to(bytes);
                        bytes.len() / (4 * self.pixels)
                    }
                    Next::Other => {
                        let roots = [self.part.column(column::IMAGE)?];
                        let batches =
                            self.part.columns(&roots, &[group.number], group.taken, GENERAL_ROWS)?;
                        group.decoder = Decoder::General(batches, None);
                        continue;
                    }
                    Next::End => 0,
                },
                Decoder::General(batches, rest) => match rest.take().map(Ok).or_else(|| batches.next()) {
                    Some(batch) => {
                        let batch = batch
                            .map_err(|source| SplitError::Rows { path: self.part.path.clone(), source })?;
                        let taken = left.min(batch.num_rows());
                        *rest =
                            (taken < batch.num_rows()).then(|| batch.slice(taken, batch.num_rows() - taken));
                        hand_over(&batch.slice(0, taken), self.pixels, to);
                        taken
                    }
                    None => 0,
                },
            };
            (group.taken, left) = (group.taken + taken, left - taken);
            if taken == 0 {
                self.current = None;
            }
        }
        Ok(())
    }

    /// Whether the row group that is being read has had nothing but plain pages.
    #[cfg(test)]
    pub fn is_by_pages(&self) -> bool {
        matches!(self.current, Some(Group { decoder: Decoder::Pages(_), .. }))
    }

    fn next_group(&mut self) -> Result<Group, SplitError> {
        let early = || ParquetError::EOF("the image column ends before the others".to_owned());
        let number = self.groups.next().ok_or_else(|| self.part.parquet(early()))?;
        let metadata = self.part.footer.metadata();
        let is_image = |leaf: &usize| {
            metadata.file_metadata().schema_descr().column(*leaf).path().parts()[0] == column::IMAGE
        };
        let group = metadata.row_group(number);
        let leaf = (0..group.num_columns()).find(is_image).ok_or_else(|| self.part.parquet(early()))?;
        let rows = group.num_rows() as usize;
        let pages = ImagePages::new(Arc::clone(&self.file), group.column(leaf), rows, self.pixels)
            .map_err(|e| self.part.parquet(e))?;
        Ok(Group { number, taken: 0, decoder: Decoder::Pages(Box::new(pages)) })
    }
}

/// Hand on images that the general decoder made; [`OpenPart::has_images`] has looked at their type.
fn hand_over(batch: &RecordBatch, pixels: usize, to: &mut impl FnMut(&[u8])) {
    let list = batch.column(0).as_fixed_size_list();
    let values = list.values().as_primitive::<Float32Type>().values();
    let own = &values[list.offset() * pixels..(list.offset() + list.len()) * pixels];
    let bytes: Vec<u8> = own.iter().flat_map(|adc| adc.to_le_bytes()).collect();
    to(&bytes);
}
