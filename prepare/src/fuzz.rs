//! A fuzzer of the NPZ reader: mutated archives, and sound archives around mutated arrays.
//!
//! `MTID_FUZZ_INPUTS=10000000 cargo test --release -p prepare fuzz -- --nocapture` runs ten million inputs;
//! without the variable it is a short test. It looks for panics, hangs, and memory past the bound.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use shared::plane::Plane;

use crate::clusters::ClusterFile;

const HEIGHT: usize = 8;
const WIDTH: usize = 4;
/// Resident memory that the whole test may reach, in KiB.
const MEMORY: u64 = 256 << 10;
const SLOWEST: Duration = Duration::from_secs(2);

/// Read an input to its end; the outcome is of no interest, only that there is one.
fn read(bytes: &[u8]) -> bool {
    let Ok(file) = ClusterFile::from_source(bytes, Plane::X, HEIGHT, WIDTH) else { return false };
    let mut rows = 0;
    let outcome = file.read(true, |block| {
        rows += block.truths.len() as u64;
        let kept = block.truths.iter().flatten().count();
        assert_eq!(kept, block.images.len());
        ControlFlow::Continue(())
    });
    if outcome.is_ok() {
        assert_eq!(rows, file.contents().rows());
    }
    outcome.is_ok()
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while !(10 + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\0".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

pub fn zip(members: &[(&str, &[u8])], deflate: bool) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, content).unwrap();
        let packed = if deflate { encoder.finish().unwrap() } else { content.to_vec() };
        let offset = bytes.len() as u32;
        let mut fields = vec![20, 0, 0, 0, if deflate { 8 } else { 0 }, 0, 0, 0, 0, 0];
        fields.extend(crc32fast::hash(content).to_le_bytes());
        fields.extend((packed.len() as u32).to_le_bytes());
        fields.extend((content.len() as u32).to_le_bytes());
        fields.extend((name.len() as u32).to_le_bytes()); // and no extra field
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fields);
        bytes.extend(name.as_bytes());
        bytes.extend(packed);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([members.len() as u8, 0, members.len() as u8, 0]);
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// Sound arrays: some rows of images, and metadata of some layout.
fn arrays(rng: &mut impl Rng) -> [Vec<u8>; 2] {
    let rows = [0, 1, 3, 300][rng.random_range(0..4)];
    let columns = [11, 12, 13, 14, 15, 18][rng.random_range(0..6)];
    let is_wide = rng.random_range(0..4) == 0;
    if is_wide { arrays_of(rows, columns, "<f8", f64::to_le_bytes) } else { sound_arrays(rows, columns) }
}

/// Images and metadata of f32.
pub fn sound_arrays(rows: usize, columns: usize) -> [Vec<u8>; 2] {
    arrays_of(rows, columns, "<f4", |value| (value as f32).to_le_bytes())
}

fn arrays_of<const N: usize>(
    rows: usize,
    columns: usize,
    descr: &str,
    encode: fn(f64) -> [u8; N],
) -> [Vec<u8>; 2] {
    let pixel = |i: usize| encode(if i.is_multiple_of(9) { 60.0 } else { 0.0 });
    let pixels: Vec<u8> = (0..rows * HEIGHT * WIDTH).flat_map(pixel).collect();
    let plane = match columns {
        12 => Some(11),
        13 | 14 | 18 => Some(12),
        15 => Some(13),
        _ => None,
    };
    let value = |i: usize| encode(if Some(i % columns) == plane { 2.0 } else { 1.0 });
    let values: Vec<u8> = (0..rows * columns).flat_map(value).collect();
    [
        npy(descr, &format!("({rows}, {HEIGHT}, {WIDTH})"), &pixels),
        npy(descr, &format!("({rows}, {columns})"), &values),
    ]
}

/// Change some bytes.
fn mutate(bytes: &mut Vec<u8>, rng: &mut impl Rng) {
    for _ in 0..rng.random_range(1..6) {
        if bytes.is_empty() {
            return;
        }
        // Headers and directories are at the ends, and more interesting than pixels.
        let near = bytes.len().min(160);
        let at = match rng.random_range(0..3) {
            0 => rng.random_range(0..near),
            1 => bytes.len() - 1 - rng.random_range(0..near),
            _ => rng.random_range(0..bytes.len()),
        };
        match rng.random_range(0..8) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            3 => {
                let end = bytes.len().min(at + 8);
                let value: u64 = [0, u64::MAX, 1 << 31, u64::from(u32::MAX), 1 << 63][rng.random_range(0..5)];
                let length = end - at;
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..length]);
            }
            4 => bytes.truncate(at),
            5 => {
                let end = bytes.len().min(at + rng.random_range(1..64));
                bytes.drain(at..end);
            }
            6 => {
                let end = bytes.len().min(at + rng.random_range(1..64));
                let copy = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => bytes[at] = b"0123456789-(),'{}<>|fiuOUV"[rng.random_range(0..26)],
        }
    }
}

fn input(rng: &mut impl Rng) -> Vec<u8> {
    let [mut images, mut metadata] = arrays(rng);
    let kind = rng.random_range(0..4);
    if kind & 1 != 0 {
        mutate(&mut images, rng);
    }
    if kind & 2 != 0 {
        mutate(&mut metadata, rng);
    }
    let mut bytes = zip(&[("images.npy", &images), ("metadata.npy", &metadata)], rng.random());
    if kind == 0 {
        mutate(&mut bytes, rng);
    }
    bytes
}

/// Peak resident memory in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn fuzzed_archives_neither_panic_nor_hang_nor_eat_memory() {
    let inputs: u64 = std::env::var("MTID_FUZZ_INPUTS").map_or(20_000, |text| text.parse().unwrap());
    let seed = std::env::var("MTID_FUZZ_SEED").map_or(1, |text| text.parse().unwrap());
    let (start, mut sound, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    for number in 0..inputs {
        let mut rng = shared::random::stream(seed, "prepare fuzz", &[number]);
        let bytes = input(&mut rng);
        let begun = Instant::now();
        sound += u64::from(read(&bytes));
        slowest = slowest.max(begun.elapsed());
        assert!(begun.elapsed() < SLOWEST, "input {number} of seed {seed} took {:?}", begun.elapsed());
    }
    let memory = peak();
    assert!(memory < MEMORY, "{memory} KiB resident");
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "{inputs} inputs, {sound} of them sound, in {seconds:.0} s; slowest {slowest:?}, peak {memory} KiB"
    );
}
