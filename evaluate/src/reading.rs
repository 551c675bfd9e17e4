//! A split read by several threads at once: each decodes a row group of its own, the last ones are shared.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::split::{Block, Blocks, RowGroups, Split, SplitError, SplitFolder};

/// The row groups of a split, handed out to a fixed number of workers.
///
/// Every worker holds at most one open row group, so memory grows with the workers and not with the split.
#[derive(Debug)]
pub struct Queue {
    groups: RowGroups,
    next: AtomicUsize,
    stopped: AtomicBool,
    slots: Vec<Mutex<Option<Blocks>>>,
}

impl Queue {
    /// Look at all parts of a split; their footers are read, and must have the rows that the manifest says.
    ///
    /// - `columns`: what is read of each row beside its image
    /// - `block_rows`: rows of a block at most
    ///
    /// # Errors
    /// [`SplitError`]
    pub fn new(
        folder: &SplitFolder,
        split: Split,
        columns: &[&str],
        block_rows: usize,
        workers: usize,
    ) -> Result<Self, SplitError> {
        let groups = folder.row_groups(split, columns, block_rows)?;
        let slots = (0..workers).map(|_| Mutex::new(None)).collect();
        Ok(Self { groups, next: AtomicUsize::new(0), stopped: AtomicBool::new(false), slots })
    }

    /// The next rows for a worker; `None` once all rows are handed out.
    ///
    /// # Errors
    /// [`SplitError`]; then every worker gets `None`.
    pub fn next(&self, worker: usize) -> Result<Option<Block>, SplitError> {
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

    fn take(&self, worker: usize) -> Result<Option<Block>, SplitError> {
        let mut own = lock(&self.slots[worker]);
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if let Some(block) = read(&mut own)? {
                return Ok(Some(block));
            }
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            if next >= self.groups.len() {
                break;
            }
            *own = Some(self.groups.open(next)?);
        }
        drop(own);
        // No row group is left: help with those that others still read.
        for slot in &self.slots {
            if let Some(block) = read(&mut lock(slot))? {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }
}

/// The next block of a slot, which is emptied at the end of its row group.
fn read(slot: &mut Option<Blocks>) -> Result<Option<Block>, SplitError> {
    let block = slot.as_mut().and_then(Iterator::next).transpose();
    if !matches!(block, Ok(Some(_))) {
        *slot = None;
    }
    block
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
