//! How fast a split is read, how fast a model scores what is in memory, and both together: which of them binds.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Instant;

use shared::runtime::Device;
use shared::split::{Block, Split, SplitFolder};
use train::inference::Run;

use crate::args::InferenceArgs;
use crate::error::Error;
use crate::model::{self, Model, Scorers};
use crate::reading::Queue;
use crate::rows::COLUMNS;
use crate::score::{self, READ_BATCH};
use crate::scorer::Scorer;

/// Rates of the stages, in clusters a second; displays as lines.
#[derive(Debug, Clone, Copy)]
pub struct Stages {
    /// Clusters of the split
    pub rows: usize,
    /// Bytes of its files
    pub bytes: u64,
    /// Reading and decoding alone, on all threads
    pub reading: f64,
    /// Whether the model is scored at active sites, not on whole images
    pub at_sites: bool,
    /// The sessions alone: images put into batches or tables, copied and scored
    pub scoring: f64,
    /// A report's scoring
    pub everything: f64,
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, bytes, reading, at_sites, scoring, everything } = *self;
        let per_row = bytes as f64 / rows.max(1) as f64;
        writeln!(
            f,
            "reading     {reading:10.0}/s  {:.0} MB/s of file, {per_row:.0} bytes a cluster",
            reading * per_row / 1e6
        )?;
        let way = if at_sites { "at active sites" } else { "on whole images" };
        writeln!(f, "scoring     {scoring:10.0}/s  {way}")?;
        let slower = reading.min(scoring);
        let binds = match everything < 0.8 * slower {
            true => "neither alone",
            false if reading < scoring => "reading",
            false => "scoring",
        };
        write!(
            f,
            "everything  {everything:10.0}/s  {:.2} of the slower one; what binds: {binds}",
            everything / slower
        )
    }
}

/// Time the stages of a model's report on a split, which should be in the page cache or not, as the caller wants it.
///
/// - `in_memory`: clusters that are held for the timing of the sessions
///
/// # Errors
/// [`Error`]
pub fn time(model: &Path, data: &Path, inference: &InferenceArgs, in_memory: usize) -> Result<Stages, Error> {
    let (folder, split) = SplitFolder::open_split(data)?;
    let shape = (folder.manifest().height, folder.manifest().width);
    let mut scorers = Model::read(model)?.open(shape, data, inference)?;
    let reading = read(&folder, split, &scorers)?;
    let blocks = some(&folder, split, &scorers, in_memory)?;
    // The first run of a session makes its plans and, on a GPU, looks for the best algorithms.
    score(&blocks[..blocks.len().min(2 * scorers.each.len())], &mut scorers)?;
    let scoring = score(&blocks, &mut scorers)?;
    let begin = Instant::now();
    let rows = score::score_split(&folder, split, &mut scorers)?.rows.len();
    let everything = rows as f64 / begin.elapsed().as_secs_f64();
    let at_sites = scorers.sites.is_some();
    Ok(Stages { rows, bytes: bytes(&folder, split), reading, at_sites, scoring, everything })
}

fn queue(folder: &SplitFolder, split: Split, scorers: &Scorers) -> Result<Queue, Error> {
    Ok(Queue::new(folder, split, &COLUMNS, READ_BATCH.max(scorers.batch()), scorers.threads)?)
}

/// Clusters a second when nothing is done with them.
fn read(folder: &SplitFolder, split: Split, scorers: &Scorers) -> Result<f64, Error> {
    let begin = Instant::now();
    let (queue, rows) = (queue(folder, split, scorers)?, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let drain = |worker| -> Result<(), Error> {
            while let Some(block) = queue.next(worker)? {
                rows.fetch_add(block.images.rows(), Ordering::Relaxed);
            }
            Ok(())
        };
        let started: Vec<_> = (0..scorers.threads).map(|worker| scope.spawn(move || drain(worker))).collect();
        started.into_iter().try_for_each(score::join)
    })?;
    Ok(rows.into_inner() as f64 / begin.elapsed().as_secs_f64())
}

/// The first blocks of a split.
fn some(folder: &SplitFolder, split: Split, scorers: &Scorers, rows: usize) -> Result<Vec<Block>, Error> {
    let (queue, mut blocks, mut found) = (queue(folder, split, scorers)?, Vec::new(), 0);
    while found < rows {
        let Some(block) = queue.next(0)? else { break };
        found += block.images.rows();
        blocks.push(block);
    }
    Ok(blocks)
}

/// Clusters a second of all sessions, each on a thread of its own; as in a report, a GPU gets tables that threads make ahead.
fn score(blocks: &[Block], scorers: &mut Scorers) -> Result<f64, Error> {
    let (begin, next) = (Instant::now(), AtomicUsize::new(0));
    let Scorers { each, sites, device, threads, path, .. } = scorers;
    let take = || blocks.get(next.fetch_add(1, Ordering::Relaxed));
    if let (Some(sites), Device::Cuda(_)) = (sites, *device) {
        let (sender, receiver) = mpsc::sync_channel(*threads);
        let (sites, take, receiver) = (&**sites, &take, Mutex::new(receiver));
        std::thread::scope(|scope| {
            for _ in 0..*threads {
                let sender = sender.clone();
                scope.spawn(move || {
                    while let Some(block) = take() {
                        let _ = sender.send((block, model::tables(Some(sites), &block.images)));
                    }
                });
            }
            drop(sender);
            let take = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
            run(each, path, *device, take)
        })?;
    } else {
        run(each, path, *device, || take().map(|block| (block, None)))?;
    }
    let rows: usize = blocks.iter().map(|block| block.images.rows()).sum();
    Ok(rows as f64 / begin.elapsed().as_secs_f64())
}

/// Let the sessions score all that `take` gives.
fn run<'a>(
    each: &mut [Scorer],
    path: &Path,
    device: Device,
    take: impl Fn() -> Option<(&'a Block, Option<Vec<Run>>)> + Sync,
) -> Result<(), Error> {
    // As in a report, a GPU's sessions end together.
    let all_done = std::sync::Barrier::new(if device == Device::Cpu { 1 } else { each.len() });
    std::thread::scope(|scope| {
        let (take, all_done) = (&take, &all_done);
        let work = |scorer: &mut Scorer| -> Result<(), Error> {
            let mut attempt = || -> ort::Result<()> {
                let mut scores = Vec::new();
                while let Some((block, tables)) = take() {
                    scores.clear();
                    scorer.score_made(&block.images, tables, &mut scores)?;
                }
                Ok(())
            };
            let outcome = attempt().map_err(|source| Error::Inference { path: path.to_owned(), source });
            // Whoever makes tables must not wait for ever.
            while take().is_some() {}
            all_done.wait();
            outcome
        };
        let started: Vec<_> = each.iter_mut().map(|scorer| scope.spawn(move || work(scorer))).collect();
        started.into_iter().try_for_each(score::join)
    })
}

/// Bytes of a split's files; 0 for one that can't be looked at.
fn bytes(folder: &SplitFolder, split: Split) -> u64 {
    let parts =
        folder.manifest().splits.get(&split).map(|summary| summary.parts.as_slice()).unwrap_or_default();
    let size = |part: &shared::split::Part| folder.path().join(split.name()).join(&part.name).metadata();
    parts.iter().filter_map(|part| size(part).ok()).map(|found| found.len()).sum()
}
