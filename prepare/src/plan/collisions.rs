//! Counting clusters of one event and true position in several sources.

use super::{Fate, Inputs};
use crate::Error;
use crate::summary::Collisions;

/// Count (event, true position) that rows of different sources share.
///
/// Such rows may be one event simulated twice, which image digests can't see. Holds 16 bytes per row that has
/// both: 94 bits of digest, 2 of the split, 32 of the file.
pub fn count(inputs: &Inputs<'_>, fates: &[u8]) -> Result<Collisions, Error> {
    const PLACE: u128 = !((1 << 34) - 1);
    let mut all: Vec<u128> = Vec::new();
    let mut file = 0_u128;
    let mut last = None;
    inputs.each_row(|input, _, at, record| {
        if last != Some(input.fates_at) {
            file += u128::from(last.is_some());
            last = Some(input.fates_at);
        }
        if let (Some(truth), Some(split)) = (record.truth, Fate(fates[at]).split()) {
            let mut digest = [0; 16];
            digest[4..].copy_from_slice(&truth);
            all.push((u128::from_le_bytes(digest) & PLACE) | (split as u128) << 32 | file);
        }
    })?;
    all.sort_unstable();
    let mut collisions = Collisions::default();
    for group in all.chunk_by(|a, b| a & PLACE == b & PLACE) {
        let file = |row: u128| row as u32;
        let split = |row: u128| row >> 32 & 3;
        if group.iter().any(|&row| file(row) != file(group[0])) {
            collisions.positions += 1;
            collisions.rows += group.len() as u64;
            let is_across = group.iter().any(|&row| split(row) != split(group[0]));
            collisions.positions_across_splits += u64::from(is_across);
        }
    }
    Ok(collisions)
}
