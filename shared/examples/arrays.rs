//! The splits as numpy arrays, for measurements in Python on a machine without pyarrow (`scripts/bench/split_data.py`).

use std::path::{Path, PathBuf};

use clap::Parser;
use shared::files;
use shared::split::{Clusters, Split, SplitFolder};

/// Write the images and labels of a split folder as numpy arrays
#[derive(Debug, Parser)]
struct Args {
    /// Split folder that `prepare` made
    data: PathBuf,
    /// Folder for `manifest.json` and, in a folder for each split, `ends.npy` `[rows]` (where an image's pixels end), `places.npy`
    /// (index in the image of each occupied pixel), `adc.npy` (its ADC) and `labels.npy` `[rows]` (1: main track)
    output: PathBuf,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A one-dimensional array in numpy's format 1.0; `kind` is numpy's name of the type.
fn write(folder: &Path, name: &str, kind: &str, length: usize, bytes: &[u8]) -> Outcome<()> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({length},), }}");
    // Magic number, version and length take 10 bytes; with the header and its line feed a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - 1 - header.len()));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len())?.to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(bytes);
    Ok(files::write_bytes(&folder.join(name), &file)?)
}

fn write_split(folder: &Path, clusters: &Clusters) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    let (mut ends, mut places, mut adc, mut occupied) = (Vec::new(), Vec::new(), Vec::new(), 0_usize);
    for row in 0..clusters.rows() {
        for (place, value) in clusters.images.occupied(row) {
            places.extend(u16::try_from(place)?.to_le_bytes());
            adc.extend(value.to_le_bytes());
            occupied += 1;
        }
        ends.extend((occupied as i64).to_le_bytes());
    }
    let labels: Vec<u8> = clusters.is_main_track.iter().map(|&main| u8::from(main)).collect();
    write(folder, "ends.npy", "<i8", clusters.rows(), &ends)?;
    write(folder, "places.npy", "<u2", occupied, &places)?;
    write(folder, "adc.npy", "<f4", occupied, &adc)?;
    write(folder, "labels.npy", "|u1", clusters.rows(), &labels)
}

fn main() -> Outcome<()> {
    let args = Args::parse();
    let splits = SplitFolder::open(&args.data)?;
    for split in [Split::Train, Split::Validation, Split::Test] {
        write_split(&args.output.join(split.name()), &splits.clusters(split)?)?;
    }
    files::write_bytes(
        &args.output.join("manifest.json"),
        &files::read_bytes(&args.data.join("manifest.json"))?,
    )?;
    Ok(())
}
