//! Clusters of a test split that the training has seen: the same image, to the last bit.

use std::collections::HashSet;
use std::path::Path;

use shared::split::{Split, SplitFolder, column};

use crate::error::Error;
use crate::score::images;

/// Count the test clusters whose image is also in the training split of `training`.
///
/// # Errors
/// Those of reading the splits.
pub fn count(training: &Path, folder: &SplitFolder, split: Split) -> Result<u64, Error> {
    let known = SplitFolder::open(training)?;
    let mut digests = HashSet::new();
    each_image(&known, Split::Train, |digest| {
        digests.insert(digest);
    })?;
    let mut seen = 0;
    each_image(folder, split, |digest| seen += u64::from(digests.contains(&digest)))?;
    Ok(seen)
}

/// The first 16 bytes of each image's digest.
fn each_image(folder: &SplitFolder, split: Split, mut take: impl FnMut([u8; 16])) -> Result<(), Error> {
    let path = folder.path().join(split.name());
    let bar = shared::progress::bar(folder.rows(split), "looking for rows seen", "clusters");
    let mut bytes = Vec::new();
    for batch in folder.batches(split, &[column::IMAGE], 1024)? {
        let batch = batch?;
        let images = images(&batch, &path)?;
        let pixels = images.len() / batch.num_rows().max(1);
        for image in images.chunks_exact(pixels.max(1)) {
            bytes.clear();
            bytes.extend(image.iter().flat_map(|adc| adc.to_le_bytes()));
            let mut digest = [0; 16];
            digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
            take(digest);
        }
        bar.inc(batch.num_rows() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}
