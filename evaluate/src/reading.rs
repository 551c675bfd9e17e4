//! A split read by several threads at once: each decodes a row group of its own, the last ones are shared.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use shared::split::{Part, Split, SplitError, SplitFolder};

/// Rows that follow each other in a split.
#[derive(Debug)]
pub struct Batch {
    /// Place of the first one in the split
    pub first_row: usize,
    /// The columns that were asked for, in the order of the schema
    pub rows: RecordBatch,
}

/// The row groups of a split, handed out to a fixed number of workers.
///
/// Every worker holds at most one open row group, so memory grows with the workers and not with the split.
#[derive(Debug)]
pub struct Queue {
    parts: Vec<OpenPart>,
    groups: Vec<Group>,
    batch_rows: usize,
    next: AtomicUsize,
    stopped: AtomicBool,
    slots: Vec<Mutex<Option<Reader>>>,
}

#[derive(Debug)]
struct OpenPart {
    path: PathBuf,
    footer: ArrowReaderMetadata,
    columns: ProjectionMask,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    part: usize,
    /// In its part
    number: usize,
    first_row: usize,
}

/// A row group that a worker reads.
struct Reader {
    batches: ParquetRecordBatchReader,
    part: usize,
    next_row: usize,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("next_row", &self.next_row).finish_non_exhaustive()
    }
}

impl Queue {
    /// Look at all parts of a split; their footers are read, and must have the rows that the manifest says.
    ///
    /// - `columns`: what is read of each row
    /// - `batch_rows`: rows of a batch at most
    ///
    /// # Errors
    /// [`SplitError`]
    pub fn new(
        folder: &SplitFolder,
        split: Split,
        columns: &[&str],
        batch_rows: usize,
        workers: usize,
    ) -> Result<Self, SplitError> {
        let summary = folder.manifest().splits.get(&split).ok_or_else(|| {
            let found: Vec<_> = folder.manifest().splits.keys().map(|split| split.name()).collect();
            SplitError::Missing { path: folder.path().to_owned(), split, found: found.join(", ") }
        })?;
        let (mut parts, mut groups, mut first_row) = (Vec::new(), Vec::new(), 0);
        for part in &summary.parts {
            let opened = open(folder.path().join(split.name()).join(&part.name), part, columns)?;
            for (number, group) in opened.footer.metadata().row_groups().iter().enumerate() {
                groups.push(Group { part: parts.len(), number, first_row });
                first_row += group.num_rows() as usize;
            }
            parts.push(opened);
        }
        let slots = (0..workers).map(|_| Mutex::new(None)).collect();
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        Ok(Self { parts, groups, batch_rows, next, stopped, slots })
    }

    /// The next rows for a worker; `None` once all rows are handed out.
    ///
    /// # Errors
    /// [`SplitError`]; then every worker gets `None`.
    pub fn next(&self, worker: usize) -> Result<Option<Batch>, SplitError> {
        let next = self.take(worker);
        if next.is_err() {
            self.stop();
        }
        next
    }

    /// Hand out nothing more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn take(&self, worker: usize) -> Result<Option<Batch>, SplitError> {
        let mut own = lock(&self.slots[worker]);
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if let Some(batch) = self.read(&mut own)? {
                return Ok(Some(batch));
            }
            let Some(group) = self.groups.get(self.next.fetch_add(1, Ordering::Relaxed)) else { break };
            *own = Some(self.open_group(*group)?);
        }
        drop(own);
        // No row group is left: help with those that others still read.
        for slot in &self.slots {
            if let Some(batch) = self.read(&mut lock(slot))? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn open_group(&self, group: Group) -> Result<Reader, SplitError> {
        let part = &self.parts[group.part];
        let path = || part.path.clone();
        let file = File::open(&part.path).map_err(|source| SplitError::Open { path: path(), source })?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, part.footer.clone());
        let batches = builder
            .with_projection(part.columns.clone())
            .with_row_groups(vec![group.number])
            .with_batch_size(self.batch_rows)
            .build()
            .map_err(|source| SplitError::Parquet { path: path(), source })?;
        Ok(Reader { batches, part: group.part, next_row: group.first_row })
    }

    /// The next batch of a slot, which is emptied at the end of its row group.
    fn read(&self, slot: &mut Option<Reader>) -> Result<Option<Batch>, SplitError> {
        let Some(reader) = slot.as_mut() else { return Ok(None) };
        let Some(rows) = reader.batches.next() else {
            *slot = None;
            return Ok(None);
        };
        let path = || self.parts[reader.part].path.clone();
        let rows = rows.map_err(|source| SplitError::Rows { path: path(), source })?;
        let first_row = reader.next_row;
        reader.next_row += rows.num_rows();
        Ok(Some(Batch { first_row, rows }))
    }
}

fn open(path: PathBuf, part: &Part, columns: &[&str]) -> Result<OpenPart, SplitError> {
    let file = File::open(&path).map_err(|source| SplitError::Open { path: path.clone(), source })?;
    let parquet = |source| SplitError::Parquet { path: path.clone(), source };
    let footer =
        ArrowReaderMetadata::load(&file, parquet::arrow::arrow_reader::ArrowReaderOptions::default())
            .map_err(parquet)?;
    let find = |name: &&str| match footer.schema().column_with_name(name) {
        Some((at, _)) => Ok(at),
        None => Err(SplitError::NoColumn { path: path.clone(), column: (*name).to_owned() }),
    };
    let roots = columns.iter().map(find).collect::<Result<Vec<usize>, _>>()?;
    let (found, expected) = (footer.metadata().file_metadata().num_rows() as u64, part.rows);
    if found != expected {
        return Err(SplitError::RowCount { path, found, expected });
    }
    let columns = ProjectionMask::roots(footer.parquet_schema(), roots);
    Ok(OpenPart { path, footer, columns })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
