//! A split goes through a model, batch by batch and on all threads; images are dropped as soon as they are scored.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use arrow::array::AsArray;
use indicatif::ProgressBar;
use shared::runtime::Device;
use shared::split::{Block, Images, Split, SplitError, SplitFolder, column};
use train::inference::{Run, SiteModel};

use crate::error::Error;
use crate::gallery::Gallery;
use crate::model::{self, Scorers};
use crate::reading::Queue;
use crate::rows::{COLUMNS, Piece, Rows};
use crate::scorer::{Scorer, Whole};

/// Rows that are decoded at a time, unless the model sees more.
pub(crate) const READ_BATCH: usize = 1024;

/// A split with its scores, and the images worth showing.
#[derive(Debug)]
pub struct Scored {
    /// All clusters in the order of the split
    pub rows: Rows,
    /// The most confident hits and errors
    pub gallery: Gallery,
}

/// Score a split. The result doesn't depend on the number of threads.
///
/// # Errors
/// [`Error::Empty`], [`Error::Inference`], [`Error::Differs`], [`Error::Score`], [`Error::Stopped`] and those of the split
pub fn score_split(folder: &SplitFolder, split: Split, scorers: &mut Scorers) -> Result<Scored, Error> {
    let path = folder.path().join(split.name());
    let manifest = folder.manifest();
    let shape = (manifest.height, manifest.width);
    let block_rows = READ_BATCH.max(scorers.batch());
    let work = Work {
        queue: Queue::new(folder, split, &COLUMNS, block_rows, scorers.threads)?,
        found: Mutex::new(Found::new(shape)),
        bar: shared::progress::bar(folder.rows(split), "scoring", "clusters"),
        path: &path,
        model: &scorers.path,
        sites: scorers.sites.as_deref(),
        reference: Mutex::new(scorers.reference.as_mut()),
        width: shape.1,
    };
    let start = Instant::now();
    let outcome = match scorers.device {
        Device::Cpu => work.side_by_side(&mut scorers.each),
        Device::Cuda(_) => work.fed(&mut scorers.each, scorers.threads),
    };
    work.bar.finish_and_clear();
    outcome?;
    let Found { mut rows, gallery, .. } = work.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if rows.is_empty() {
        return Err(Error::Empty { path });
    }
    check_scores(&mut rows, &scorers.path)?;
    let (n, seconds, device) = (rows.len(), start.elapsed().as_secs_f64(), scorers.device);
    tracing::info!(
        "{split}: {n} clusters scored in {seconds:.2} s on {device}, {:.0}/s, {}",
        n as f64 / seconds,
        scorers.way
    );
    Ok(Scored { rows, gallery })
}

/// Energies in MeV and labels of a split; no image is read.
///
/// # Errors
/// [`Error::Column`] and those of the split
pub fn energies(folder: &SplitFolder, split: Split) -> Result<(Vec<f32>, Vec<bool>), Error> {
    let path = folder.path().join(split.name());
    let mut rows = Rows::default();
    for batch in folder.batches(split, &COLUMNS, 1 << 16)? {
        rows.extend(&Piece { score: Vec::new(), channels: Vec::new(), batch: batch? }, &path)?;
    }
    Ok((rows.cluster_energy, rows.label))
}

/// What the threads share.
struct Work<'a> {
    queue: Queue,
    found: Mutex<Found>,
    bar: ProgressBar,
    path: &'a Path,
    model: &'a Path,
    /// The model at active sites, if it is scored there
    sites: Option<&'a SiteModel>,
    /// What then has to agree on the first clusters
    reference: Mutex<Option<&'a mut Whole>>,
    width: usize,
}

/// What was found so far: the rows from the first on, and pieces that came early.
struct Found {
    rows: Rows,
    waiting: BTreeMap<usize, Piece>,
    gallery: Gallery,
}

impl Work<'_> {
    /// Each session has a thread that reads batches and scores them, so that they stay in its core's cache.
    fn side_by_side(&self, scorers: &mut [Scorer]) -> Result<(), Error> {
        std::thread::scope(|scope| {
            let work = |(worker, scorer): (usize, &mut Scorer)| {
                self.until_an_error(|| self.queue.next(worker), |block| self.score(scorer, block, None))
            };
            let started: Vec<_> =
                (scorers.iter_mut().enumerate()).map(|pair| scope.spawn(move || work(pair))).collect();
            started.into_iter().try_for_each(join)
        })
    }

    /// All threads read batches and make their tables, for the one thread of each session: that takes many cores to keep up
    /// with a GPU.
    ///
    /// Blocks are their occupied pixels, so as many as there are threads may wait. A CUDA session keeps state for each thread that runs it, and takes
    /// it down when the thread ends, so the sessions' threads are few, and end together when none runs any more.
    fn fed(&self, scorers: &mut [Scorer], readers: usize) -> Result<(), Error> {
        let (sender, receiver) = mpsc::sync_channel(readers);
        let (receiver, all_done) = (Mutex::new(receiver), Barrier::new(scorers.len()));
        let (receiver, all_done) = (&receiver, &all_done);
        std::thread::scope(|scope| {
            let score = |scorer: &mut Scorer| {
                let next = || Ok(lock(receiver).recv().ok());
                let outcome = self.until_an_error(next, |(block, tables)| self.score(scorer, block, tables));
                // Whoever still reads must not wait for a place in the channel for ever.
                while lock(receiver).recv().is_ok() {}
                all_done.wait();
                outcome
            };
            let mut started: Vec<_> =
                scorers.iter_mut().map(|scorer| scope.spawn(move || score(scorer))).collect();
            for reader in 0..readers {
                let sender = sender.clone();
                let pass_on = move |block: Block| {
                    let tables = model::tables(self.sites, &block.images);
                    let _ = sender.send((block, tables)); // fails only when nobody receives any more
                    Ok(())
                };
                started.push(scope.spawn(move || self.until_an_error(|| self.queue.next(reader), pass_on)));
            }
            drop(sender);
            started.into_iter().try_for_each(join)
        })
    }

    /// Do a task with every batch; an error ends the other threads soon after.
    fn until_an_error<T>(
        &self,
        next: impl Fn() -> Result<Option<T>, SplitError>,
        mut task: impl FnMut(T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while let Some(batch) = next()? {
            let outcome = task(batch);
            if outcome.is_err() {
                self.queue.stop();
                return outcome;
            }
        }
        Ok(())
    }

    fn score(&self, scorer: &mut Scorer, block: Block, tables: Option<Vec<Run>>) -> Result<(), Error> {
        if shared::signal::stop_requested() {
            return Err(Error::Stopped);
        }
        let Block { first_row, images, columns } = block;
        let mut score = Vec::with_capacity(images.rows());
        let failed = |source| Error::Inference { path: self.model.to_owned(), source };
        scorer.score_made(&images, tables, &mut score).map_err(failed)?;
        // The first block, whoever gets it, so that the outcome doesn't depend on the threads.
        if first_row == 0
            && let Some(reference) = &mut *lock(&self.reference)
        {
            model::compare(self.model, reference, &images, &score)?;
        }
        let channels = (0..images.rows()).map(|row| channels(&images, row, self.width)).collect();
        self.bar.inc(images.rows() as u64);
        let labels = columns.column_by_name(column::IS_MAIN_TRACK).and_then(|c| c.as_boolean_opt().cloned());
        let piece = Piece { score, channels, batch: columns };
        let mut found = lock(&self.found);
        if let Some(labels) = labels {
            found.gallery.offer(first_row, &piece.score, labels.values(), &images);
        }
        found.add(first_row, piece, self.path)
    }
}

impl Found {
    fn new(shape: (usize, usize)) -> Self {
        Self { rows: Rows::default(), waiting: BTreeMap::new(), gallery: Gallery::new(shape) }
    }

    /// Append a piece, and those that waited for it.
    fn add(&mut self, first_row: usize, piece: Piece, path: &Path) -> Result<(), Error> {
        self.waiting.insert(first_row, piece);
        while let Some(piece) = self.waiting.remove(&self.rows.len()) {
            self.rows.extend(&piece, path)?;
        }
        Ok(())
    }
}

/// The outcome of a thread; its panic goes on here.
pub(crate) fn join<T>(thread: ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Channels from the first to the last with a signal.
fn channels(images: &Images, row: usize, width: usize) -> u16 {
    let hit = images.occupied(row).filter(|&(_, adc)| adc > 0.0).map(|(place, _)| place % width);
    let range = hit.fold(None, |range, at| match range {
        None => Some((at, at)),
        Some((first, last)) => Some((at.min(first), at.max(last))),
    });
    range.map_or(0, |(first, last)| (last - first + 1) as u16)
}

/// Scores must be probabilities; what a softmax in f32 is above 1 is rounding.
fn check_scores(rows: &mut Rows, model: &Path) -> Result<(), Error> {
    for at in 0..rows.len() {
        let score = rows.score[at];
        if !(-1e-5..=1.0 + 1e-5).contains(&score) {
            let source_name = rows.source_name(at).to_owned();
            return Err(Error::Score { path: model.to_owned(), score, source_name, row: rows.row[at] });
        }
        rows.score[at] = score.clamp(0.0, 1.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn track_length_counts_from_the_first_to_the_last_channel() {
        let mut image = vec![0.0; 4 * 8];
        let length = |image: &[f32]| channels(&Images::new(image, 32), 0, 8);
        assert_eq!(length(&image), 0);
        image[2] = 60.0; // tick 0, channel 2
        image[8 + 5] = 60.0; // tick 1, channel 5
        assert_eq!(length(&image), 4);
    }
}
