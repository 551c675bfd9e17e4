//! Clusters of a test split that the training has seen: the same image, to the last bit.

use std::collections::HashSet;

use indicatif::ProgressBar;
use shared::split::{Split, SplitFolder};

use crate::error::Error;
use crate::reading::Queue;

/// Rows that are decoded at a time.
const BATCH: usize = 1024;

/// The first 16 bytes of the BLAKE3 digest of an image: its size and its occupied pixels.
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
    let queue = Queue::new(folder, split, &[], BATCH, threads)?;
    let bar = shared::progress::bar(folder.rows(split), "looking for rows seen", "clusters");
    let (shape, shared_bar) = ((folder.manifest().height, folder.manifest().width), &bar);
    let work = |worker| digests_of(&queue, worker, shape, shared_bar);
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
    (height, width): (usize, usize),
    bar: &ProgressBar,
) -> Result<Vec<Digest>, Error> {
    let (mut digests, mut bytes) = (Vec::new(), Vec::new());
    while let Some(block) = queue.next(worker)? {
        for row in 0..block.images.rows() {
            bytes.clear();
            bytes.extend([height, width].iter().flat_map(|size| size.to_le_bytes()));
            for (place, adc) in block.images.occupied(row) {
                bytes.extend((place as u16).to_le_bytes());
                bytes.extend(adc.to_le_bytes());
            }
            let mut digest = [0; 16];
            digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
            digests.push(digest);
        }
        bar.inc(block.images.rows() as u64);
        if shared::signal::stop_requested() {
            return Err(Error::Stopped);
        }
    }
    Ok(digests)
}
