//! Reading split folders: batch by batch, or what a training needs as a whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{MANIFEST, Manifest, Part, Split, SplitError, column};
use crate::files;

/// Rows that [`SplitFolder::clusters`] decodes at a time.
const CLUSTER_BATCH: usize = 1024;

/// A complete split folder: one with a manifest.
#[derive(Debug, Clone)]
pub struct SplitFolder {
    path: PathBuf,
    manifest: Manifest,
}

impl SplitFolder {
    /// Open a folder that `prepare` finished.
    ///
    /// # Errors
    /// [`SplitError::Unfinished`] without a manifest, [`SplitError::OneSplit`] for `DIR/test` and the like.
    pub fn open(data: &Path) -> Result<Self, SplitError> {
        let manifest = data.join(MANIFEST);
        if !manifest.is_file() {
            return Err(match parent_of_split(data) {
                Some((folder, _)) if folder.join(MANIFEST).is_file() => {
                    SplitError::OneSplit { path: data.to_owned(), folder }
                }
                _ => SplitError::Unfinished { path: data.to_owned() },
            });
        }
        Ok(Self { path: data.to_owned(), manifest: files::read_json(&manifest)? })
    }

    /// Open the folder of one split: `DIR/test` gives the folder `DIR` and [`Split::Test`].
    ///
    /// # Errors
    /// [`SplitError::NoSplit`] if the last name is no split's, [`SplitError::Missing`] if the folder lacks that split.
    pub fn open_split(dir: &Path) -> Result<(Self, Split), SplitError> {
        let (parent, split) =
            parent_of_split(dir).ok_or_else(|| SplitError::NoSplit { path: dir.to_owned() })?;
        let folder = Self::open(&parent)?;
        folder.parts(split)?;
        Ok((folder, split))
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the folder holds and how it came about.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Rows of a split; 0 if the folder lacks it.
    pub fn rows(&self, split: Split) -> u64 {
        self.manifest.splits.get(&split).map_or(0, |summary| summary.rows)
    }

    /// The rows of a split, part after part, a part's in batches of at most `batch_rows`.
    ///
    /// Only the named columns are read; a batch has them in the order of [`super::schema`].
    ///
    /// # Errors
    /// [`SplitError::Missing`] if the folder lacks the split; a batch's errors come with the batch.
    pub fn batches(&self, split: Split, columns: &[&str], batch_rows: usize) -> Result<Batches, SplitError> {
        let folder = self.path.join(split.name());
        Ok(Batches {
            parts: self.parts(split)?.to_vec().into_iter(),
            folder,
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            batch_rows: batch_rows.max(1),
            current: None,
        })
    }

    /// Everything a training needs of a split, in memory.
    ///
    /// # Errors
    /// [`SplitError`]
    pub fn clusters(&self, split: Split) -> Result<Clusters, SplitError> {
        let (height, width) = (self.manifest.height, self.manifest.width);
        let rows = self.rows(split) as usize;
        let mut clusters = Clusters {
            images: Vec::with_capacity(rows * height * width),
            is_main_track: Vec::with_capacity(rows),
            cluster_energy: Vec::with_capacity(rows),
            height,
            width,
        };
        let names = [column::IMAGE, column::IS_MAIN_TRACK, column::CLUSTER_ENERGY];
        let mut batches = self.batches(split, &names, CLUSTER_BATCH)?;
        while let Some(batch) = batches.next() {
            clusters.extend(&batch?, &batches.path())?;
        }
        Ok(clusters)
    }

    fn parts(&self, split: Split) -> Result<&[Part], SplitError> {
        let summary = self.manifest.splits.get(&split).ok_or_else(|| {
            let found: Vec<_> = self.manifest.splits.keys().map(|split| split.name()).collect();
            SplitError::Missing { path: self.path.clone(), split, found: found.join(", ") }
        })?;
        Ok(&summary.parts)
    }
}

/// `DIR` and the split for `DIR/test` and the like, `None` for other names.
fn parent_of_split(dir: &Path) -> Option<(PathBuf, Split)> {
    let named = |path: &Path| {
        let split = path.file_name()?.to_str()?.parse().ok()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Some((parent.unwrap_or(Path::new(".")).to_owned(), split))
    };
    named(dir).or_else(|| named(&dir.canonicalize().ok()?))
}

/// The rows of a split as record batches; see [`SplitFolder::batches`].
#[derive(Debug)]
pub struct Batches {
    folder: PathBuf,
    parts: std::vec::IntoIter<Part>,
    columns: Vec<String>,
    batch_rows: usize,
    current: Option<Current>,
}

/// The part that is being read.
struct Current {
    part: Part,
    rows: u64,
    reader: ParquetRecordBatchReader,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("part", &self.part).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Batches {
    /// The part that the last batch came from.
    fn path(&self) -> PathBuf {
        self.folder.join(self.current.as_ref().map_or("", |current| &current.part.name))
    }

    fn open(&self, part: Part) -> Result<Current, SplitError> {
        let path = self.folder.join(&part.name);
        let file = File::open(&path).map_err(|source| SplitError::Open { path: path.clone(), source })?;
        let parquet = |source| SplitError::Parquet { path: path.clone(), source };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(parquet)?;
        let missing = |name: &&String| builder.schema().column_with_name(name).is_none();
        if let Some(column) = self.columns.iter().find(missing) {
            return Err(SplitError::NoColumn { path: path.clone(), column: column.clone() });
        }
        let roots: Vec<usize> =
            self.columns.iter().filter_map(|name| Some(builder.schema().column_with_name(name)?.0)).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let reader =
            builder.with_projection(mask).with_batch_size(self.batch_rows).build().map_err(parquet)?;
        Ok(Current { part, rows: 0, reader })
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>, SplitError> {
        loop {
            let path = self.path();
            if let Some(current) = &mut self.current {
                if let Some(batch) = current.reader.next() {
                    let batch = batch.map_err(|source| SplitError::Rows { path, source })?;
                    current.rows += batch.num_rows() as u64;
                    return Ok(Some(batch));
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

/// Clusters in memory: what a training needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clusters {
    /// Raw ADC, `[rows, height, width]`
    pub images: Vec<f32>,
    /// Labels, `[rows]`
    pub is_main_track: Vec<bool>,
    /// Energies in MeV, `[rows]`
    pub cluster_energy: Vec<f32>,
    /// Ticks of an image
    pub height: usize,
    /// Channels of an image
    pub width: usize,
}

impl Clusters {
    /// Number of clusters.
    pub fn rows(&self) -> usize {
        self.is_main_track.len()
    }

    fn extend(&mut self, batch: &RecordBatch, path: &Path) -> Result<(), SplitError> {
        let wrong = |column: &'static str| {
            let found = batch.column_by_name(column).map_or("absent".into(), |c| c.data_type().to_string());
            SplitError::ColumnType { path: path.to_owned(), column, found }
        };
        let pixels = self.height * self.width;
        let images = batch
            .column_by_name(column::IMAGE)
            .and_then(|c| c.as_fixed_size_list_opt())
            .filter(|list| list.value_length() as usize == pixels)
            .and_then(|list| list.values().as_primitive_opt::<Float32Type>())
            .ok_or_else(|| wrong(column::IMAGE))?;
        let labels = batch
            .column_by_name(column::IS_MAIN_TRACK)
            .and_then(|c| c.as_boolean_opt())
            .ok_or_else(|| wrong(column::IS_MAIN_TRACK))?;
        let energies = batch
            .column_by_name(column::CLUSTER_ENERGY)
            .and_then(|c| c.as_primitive_opt::<Float32Type>())
            .ok_or_else(|| wrong(column::CLUSTER_ENERGY))?;
        self.images.extend_from_slice(images.values());
        self.is_main_track.extend(labels.values());
        self.cluster_energy.extend_from_slice(energies.values());
        Ok(())
    }
}
