//! Finding repeated images, counting them, and leaving out those that would leak.

use arrow::array::AsArray;
use arrow::datatypes::Float32Type;
use shared::split::{Split, SplitFolder, column};

use super::{Fate, Inputs};
use crate::Error;
use crate::args::Duplicates;
use crate::image::SparseImages;
use crate::summary::{DuplicatePair, DuplicateReport};

/// The image of a row with its place and class: 125 bits of digest, 2 of place, 1 of class.
///
/// Sorted, equal images are neighbours, and among them those of earlier places come first.
type Tagged = u128;

const PLACE_SHIFT: u32 = 1;
const IMAGE: u128 = !0b111;
/// Places: the earlier training, then the splits.
const PLACES: [&str; 4] = ["earlier_training", "train", "validation", "test"];
const CLASSES: [&str; 2] = ["background", "main_track"];

fn tagged(digest: [u8; 16], place: usize, is_main_track: bool) -> Tagged {
    (u128::from_le_bytes(digest) & IMAGE) | (place as u128) << PLACE_SHIFT | u128::from(is_main_track)
}

fn place(tagged: Tagged) -> usize {
    (tagged >> PLACE_SHIFT & 3) as usize
}

/// Mark the rows that the settings leave out as unused, and say what was found.
pub fn leave_out(
    inputs: &Inputs<'_>,
    fates: &mut [u8],
    against: Option<&SplitFolder>,
) -> Result<DuplicateReport, Error> {
    let mut all = Vec::with_capacity(fates.len());
    if let Some(folder) = against {
        add_earlier(folder, &mut all)?;
    }
    inputs.each_row(|_, _, at, record| {
        if let Some(split) = Fate(fates[at]).split() {
            all.push(tagged(record.image, split as usize + 1, record.is_main_track));
        }
    })?;
    all.sort_unstable();
    let mut report = report(&all);
    report.left_out = inputs.settings.splits().into_iter().map(|split| (split, 0)).collect();
    let mode = inputs.settings.duplicates;
    if mode == Duplicates::Keep {
        return Ok(report);
    }
    let mut is_taken = vec![0_u64; all.len().div_ceil(64)];
    inputs.each_row(|_, _, at, record| {
        let Some(split) = Fate(fates[at]).split() else { return };
        let first = all.partition_point(|&other| other < tagged(record.image, 0, false));
        let mut leaves = place(all[first]) < split as usize + 1;
        if mode == Duplicates::Drop && !leaves {
            let (word, bit) = (first / 64, 1 << (first % 64));
            leaves = is_taken[word] & bit != 0;
            is_taken[word] |= bit;
        }
        if leaves {
            fates[at] |= Fate::UNUSED;
            *report.left_out.entry(split).or_default() += 1;
        }
    })?;
    Ok(report)
}

/// Add the images that an earlier training has seen.
fn add_earlier(folder: &SplitFolder, all: &mut Vec<Tagged>) -> Result<(), Error> {
    let pixels = folder.manifest().height * folder.manifest().width;
    let mut scratch = Vec::new();
    for split in [Split::Train, Split::Validation] {
        if folder.rows(split) == 0 {
            continue;
        }
        for batch in folder.batches(split, &[column::IMAGE, column::IS_MAIN_TRACK], 256)? {
            let batch = batch?;
            let images = batch.column(0).as_fixed_size_list().values().as_primitive::<Float32Type>();
            let labels = batch.column(1).as_boolean();
            for (image, is_main_track) in images.values().chunks_exact(pixels).zip(labels.values()) {
                let bytes: Vec<u8> = image.iter().flat_map(|value| value.to_le_bytes()).collect();
                let mut sparse = SparseImages::default();
                if sparse.push_bytes(&bytes).is_ok() {
                    all.push(tagged(sparse.get(0).digest(&mut scratch), 0, is_main_track));
                }
            }
        }
    }
    Ok(())
}

/// Count the rows by where and as what their image occurs again.
fn report(all: &[Tagged]) -> DuplicateReport {
    let mut report = DuplicateReport::default();
    // Rows by place, class, other place, and the classes there: background, main track, both
    let mut pairs = [[[[0_u64; 3]; 4]; 2]; 4];
    for group in all.chunk_by(|a, b| a & IMAGE == b & IMAGE) {
        let mut counts = [[0_u64; 2]; 4];
        for &row in group {
            counts[place(row)][(row & 1) as usize] += 1;
        }
        let own: u64 = counts[1..].iter().flatten().sum();
        report.images += u64::from(own > 0);
        report.repeated_rows += if group.len() > 1 { own } else { 0 };
        let is_class = |class: usize| counts.iter().any(|place| place[class] > 0);
        report.conflicting_images += u64::from(is_class(0) && is_class(1));
        if group.len() > 1 {
            count_pairs(&counts, &mut pairs);
        }
    }
    report.pairs = list(&pairs);
    report
}

fn count_pairs(counts: &[[u64; 2]; 4], pairs: &mut [[[[u64; 3]; 4]; 2]; 4]) {
    for (place, own) in counts.iter().enumerate().skip(1) {
        for class in 0..2 {
            for (other, there) in counts.iter().enumerate() {
                let mut there = *there;
                if other == place {
                    there[class] = there[class].saturating_sub(1); // the row itself
                }
                let classes = match there {
                    [0, 0] => continue,
                    [_, 0] => 0,
                    [0, _] => 1,
                    _ => 2,
                };
                pairs[place][class][other][classes] += own[class];
            }
        }
    }
}

fn list(pairs: &[[[[u64; 3]; 4]; 2]; 4]) -> Vec<DuplicatePair> {
    let mut list = Vec::new();
    for (split, by_class) in Split::ALL.into_iter().zip(&pairs[1..]) {
        for (class, by_place) in CLASSES.into_iter().zip(by_class) {
            for (also_in, by_classes) in PLACES.into_iter().zip(by_place) {
                let names = CLASSES.into_iter().chain(["both"]);
                for (as_class, &rows) in names.zip(by_classes).filter(|(_, rows)| **rows > 0) {
                    let (class, also_in, as_class) = (class.into(), also_in.into(), as_class.into());
                    list.push(DuplicatePair { split, class, also_in, as_class, rows });
                }
            }
        }
    }
    list
}
