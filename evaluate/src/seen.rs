//! Clusters of a test split that the training has seen: the same image, to the last bit.

use std::collections::HashSet;

use indicatif::ProgressBar;
use shared::split::{Split, SplitFolder, column};

use crate::error::Error;
use crate::reading::Queue;
use crate::score::images;

/// Rows that are decoded at a time.
const BATCH: usize = 1024;

/// The first 16 bytes of an image's BLAKE3 digest.
type Digest = [u8; 16];

/// Count the test clusters whose image is also in the training split of `known`.
///
/// Holds a digest for each training row, not its image.
///
/// # Errors
/// Those of reading the splits.
pub fn count(known: &SplitFolder, folder: &SplitFolder, split: Split) -> Result<u64, Error> {
    let digests: HashSet<Digest> = digests(known, Split::Train)?.into_iter().flatten().collect();
    let seen = self::digests(folder, split)?.into_iter().flatten().filter(|digest| digests.contains(digest));
    Ok(seen.count() as u64)
}

/// Digests of all images of a split, a list for each thread.
fn digests(folder: &SplitFolder, split: Split) -> Result<Vec<Vec<Digest>>, Error> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let queue = Queue::new(folder, split, &[column::IMAGE], BATCH, threads)?;
    let bar = shared::progress::bar(folder.rows(split), "looking for rows seen", "clusters");
    let (path, shared_bar) = (folder.path().join(split.name()), &bar);
    let work = |worker| digests_of(&queue, worker, &path, shared_bar);
    let lists = std::thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = (0..threads).map(|worker| scope.spawn(move || work(worker))).collect();
        started.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    bar.finish_and_clear();
    lists
}

fn digests_of(
    queue: &Queue,
    worker: usize,
    path: &std::path::Path,
    bar: &ProgressBar,
) -> Result<Vec<Digest>, Error> {
    let (mut digests, mut bytes) = (Vec::new(), Vec::new());
    while let Some(batch) = queue.next(worker)? {
        let images = images(&batch.rows, path)?;
        let pixels = images.len() / batch.rows.num_rows().max(1);
        for image in images.chunks_exact(pixels.max(1)) {
            bytes.clear();
            bytes.extend(image.iter().flat_map(|adc| adc.to_le_bytes()));
            let mut digest = [0; 16];
            digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
            digests.push(digest);
        }
        bar.inc(batch.rows.num_rows() as u64);
        if shared::signal::stop_requested() {
            return Err(Error::Stopped);
        }
    }
    Ok(digests)
}
