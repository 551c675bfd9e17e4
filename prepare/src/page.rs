//! Data pages of the image column, made from occupied pixels.

use std::io;
use std::ops::Range;

use crate::image::SparseImages;
use crate::sequences::{Repeat, RepeatCompressor};

/// Most bytes of a page: zstd's tables are small below 256 KiB, and all stays in a core's cache.
const PAGE_BYTES: usize = 250_000;

/// A compressed page.
pub struct Packed {
    /// The bytes of the file
    pub bytes: Vec<u8>,
    /// Bytes before compression
    pub plain: usize,
}

/// Makes the pages of a column chunk, of version 1 and plain encoding.
pub struct Pages {
    pixels: usize,
    /// Definition level of a pixel that is there
    level: u8,
    compressor: RepeatCompressor,
    /// A page of empty images
    plain: Vec<u8>,
    /// Where the images start in it
    first: usize,
    repeats: Vec<Repeat>,
}

impl Pages {
    /// For images of so many pixels.
    pub fn new(pixels: usize, level: u8, zstd_level: i32) -> io::Result<Self> {
        let compressor = RepeatCompressor::new(zstd_level)?;
        Ok(Self { pixels, level, compressor, plain: Vec::new(), first: 0, repeats: Vec::new() })
    }

    /// Rows of a page.
    pub fn rows(&self) -> usize {
        (PAGE_BYTES / (self.pixels * 4)).max(1)
    }

    /// The page of some images.
    pub fn pack(&mut self, images: &SparseImages, rows: Range<usize>) -> io::Result<Packed> {
        if self.plain.len() != self.first + rows.len() * self.pixels * 4 {
            self.lay_out(rows.len());
        }
        self.repeats.truncate(1);
        let mut end = self.first;
        each_pixel(images, rows.clone(), self.first, self.pixels, |at, value| {
            self.plain[at..at + 4].copy_from_slice(&value.to_le_bytes());
            if at > end {
                // The low bytes of a whole number are zeros too.
                let zeros = value.to_bits().trailing_zeros() as usize / 8;
                self.repeats.push(Repeat::zeros(end..at + zeros));
            }
            end = at + 4;
        });
        if end < self.plain.len() {
            self.repeats.push(Repeat::zeros(end..self.plain.len()));
        }
        let bytes = self.compressor.compress(&self.plain, &self.repeats)?;
        each_pixel(images, rows, self.first, self.pixels, |at, _| self.plain[at..at + 4].fill(0));
        Ok(Packed { bytes, plain: self.plain.len() })
    }

    /// Make the page of empty images anew, for another number of them.
    fn lay_out(&mut self, rows: usize) {
        // Repetition levels: an image starts with 0, its other pixels continue it.
        let mut levels = Vec::with_capacity(8);
        push_run(&mut levels, 1, 0);
        push_run(&mut levels, self.pixels - 1, 1);
        let image = levels.len();
        self.plain.clear();
        push_levels(&mut self.plain, &levels.repeat(rows));
        let repeated = self.plain.len() - image * (rows - 1)..self.plain.len();
        self.repeats = vec![Repeat { bytes: repeated, distance: image }];
        // Definition levels: every pixel is there.
        levels.clear();
        push_run(&mut levels, rows * self.pixels, self.level);
        push_levels(&mut self.plain, &levels);
        self.first = self.plain.len();
        self.plain.resize(self.first + rows * self.pixels * 4, 0);
    }
}

/// Give the byte at which each occupied pixel starts, and its value, to `each`.
fn each_pixel(
    images: &SparseImages,
    rows: Range<usize>,
    first: usize,
    pixels: usize,
    mut each: impl FnMut(usize, f32),
) {
    for (image, first) in rows.map(|row| images.get(row)).zip((first..).step_by(pixels * 4)) {
        for (&position, &value) in image.positions.iter().zip(image.values) {
            each(first + position as usize * 4, value);
        }
    }
}

/// A run of equal levels of one bit, as Parquet's hybrid encoding has it.
fn push_run(levels: &mut Vec<u8>, count: usize, level: u8) {
    if count == 0 {
        return;
    }
    let mut header = count << 1;
    while header >= 0x80 {
        levels.push(header as u8 | 0x80);
        header >>= 7;
    }
    levels.extend([header as u8, level]);
}

fn push_levels(page: &mut Vec<u8>, levels: &[u8]) {
    page.extend((levels.len() as u32).to_le_bytes());
    page.extend(levels);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_its_images_and_the_next_starts_empty() {
        let mut images = SparseImages::default();
        for dense in [[1.0_f32, 0.0, 0.0, 2.5], [0.0; 4], [0.0, 0.0, 3.0, 0.0]] {
            let bytes: Vec<u8> = dense.iter().flat_map(|value| value.to_le_bytes()).collect();
            images.push_bytes(&bytes).unwrap();
        }
        let mut pages = Pages::new(4, 1, 1).unwrap();
        for (rows, expected) in [
            (0..2, &[1.0_f32, 0.0, 0.0, 2.5, 0.0, 0.0, 0.0, 0.0][..]),
            (1..3, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0]),
            (2..3, &[0.0, 0.0, 3.0, 0.0]),
        ] {
            let count = rows.len();
            let Packed { bytes, plain } = pages.pack(&images, rows).unwrap();
            let page = zstd::bulk::decompress(&bytes, plain).unwrap();
            // One pixel at the start of a list, three that continue it, for each image; then all of them there.
            let mut head = vec![4 * count as u8, 0, 0, 0];
            head.extend([2, 0, 6, 1].repeat(count));
            head.extend([2, 0, 0, 0, 8 * count as u8, 1]);
            assert_eq!(page[..head.len()], head);
            let values = page[head.len()..].chunks_exact(4);
            let values: Vec<f32> =
                values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            assert_eq!(values, expected);
        }
    }
}
