//! Images straight from the pages of a Parquet column, without the general decoder of nested lists.
//!
//! `prepare` writes plain pages of whole images: levels that say that no pixel is missing, then the pixels. All that
//! such a page needs is to be decompressed; pages of another kind are left to `parquet`.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use parquet::basic::Encoding;
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

/// Bytes of a pixel.
const PIXEL: usize = 4;

/// The image column of a row group.
pub(super) struct ImagePages {
    reader: SerializedPageReader<File>,
    pixels: usize,
    /// The definition level of a pixel that is there
    level: usize,
    /// The newest page, and its bytes that were not handed out
    page: Option<(Page, Range<usize>)>,
}

/// What comes next in a column.
pub(super) enum Next<'a> {
    /// Whole images, f32 in little-endian bytes
    Images(&'a [u8]),
    /// A page of another kind
    Other,
    /// Nothing
    End,
}

impl ImagePages {
    /// - `pixels`: pixels of each image
    ///
    /// # Errors
    /// Those of `parquet`.
    pub fn new(
        file: Arc<File>,
        chunk: &ColumnChunkMetaData,
        rows: usize,
        pixels: usize,
    ) -> Result<Self, ParquetError> {
        let level = chunk.column_descr().max_def_level() as usize;
        Ok(Self { reader: SerializedPageReader::new(file, chunk, rows, None)?, pixels, level, page: None })
    }

    /// The next images of a page, at most `rows`.
    ///
    /// # Errors
    /// Those of `parquet`.
    pub fn next(&mut self, rows: usize) -> Result<Next<'_>, ParquetError> {
        while self.page.as_ref().is_none_or(|(_, left)| left.is_empty()) {
            let Some(page) = self.reader.get_next_page()? else { return Ok(Next::End) };
            let Some(first) = first_pixel(&page, self.pixels, self.level) else { return Ok(Next::Other) };
            let bytes = first..page.buffer().len();
            self.page = Some((page, bytes));
        }
        let Some((page, left)) = &mut self.page else { return Ok(Next::End) };
        let end = left.end.min(left.start + rows * self.pixels * PIXEL);
        let bytes = &page.buffer()[left.start..end];
        left.start = end;
        Ok(Next::Images(bytes))
    }
}

/// Where the pixels of a plain page of whole images start; `None` for another page.
fn first_pixel(page: &Page, pixels: usize, level: usize) -> Option<usize> {
    let Page::DataPage {
        buf,
        num_values,
        encoding: Encoding::PLAIN,
        def_level_encoding: Encoding::RLE,
        rep_level_encoding: Encoding::RLE,
        ..
    } = page
    else {
        return None;
    };
    let values = *num_values as usize;
    let (repetition, rest) = split_levels(buf)?;
    let (definition, plain) = split_levels(rest)?;
    // An image starts with 0, its other pixels continue it with 1.
    let is_whole = |at: usize, run: usize, value: usize| match value {
        0 => at.is_multiple_of(pixels) && (run == 1 || pixels == 1),
        _ => !at.is_multiple_of(pixels) && at % pixels + run <= pixels,
    };
    let is_plain = values.is_multiple_of(pixels)
        && plain.len() == values * PIXEL
        && all_runs(repetition, 1, values, is_whole)
        && all_runs(definition, usize::BITS - level.leading_zeros(), values, |_, _, value| value == level);
    is_plain.then_some(buf.len() - plain.len())
}

/// Levels, which their length precedes, and what follows them.
fn split_levels(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Whether a test holds for all runs of `values` levels in Parquet's hybrid of run lengths and packed bits.
///
/// - `width`: bits of a level, at most 8
/// - `test`: gets the place of a run, its length, and its level
fn all_runs(
    mut levels: &[u8],
    width: u32,
    values: usize,
    test: impl Fn(usize, usize, usize) -> bool,
) -> bool {
    let mut at = 0;
    while at < values {
        let Some(header) = varint(&mut levels) else { return false };
        let (packed, count) = (header & 1 == 1, header >> 1);
        if packed {
            // Groups of eight levels, the last of which may go on past the end.
            let Some((bits, rest)) = levels.split_at_checked(count.saturating_mul(width as usize)) else {
                return false;
            };
            let each = count.saturating_mul(8).min(values - at);
            if each == 0 || !(0..each).all(|i| test(at + i, 1, unpack(bits, i, width))) {
                return false;
            }
            (at, levels) = (at + each, rest);
        } else {
            let Some((&value, rest)) = levels.split_first() else { return false };
            if count == 0 || count > values - at || !test(at, count, usize::from(value)) {
                return false;
            }
            (at, levels) = (at + count, rest);
        }
    }
    true
}

/// The level `i` of packed ones of `width` bits, lowest bits first.
fn unpack(bits: &[u8], i: usize, width: u32) -> usize {
    let first = i * width as usize;
    (0..width as usize)
        .map(|bit| usize::from(bits[(first + bit) / 8] >> ((first + bit) % 8) & 1) << bit)
        .sum()
}

/// Take a number of seven bits a byte, lowest first.
fn varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of three images of four pixels with these levels, each after its length.
    fn page(repetition: &[u8], definition: &[u8], plain: &[u8]) -> Page {
        let mut bytes = Vec::new();
        for levels in [repetition, definition] {
            bytes.extend((levels.len() as u32).to_le_bytes());
            bytes.extend(levels);
        }
        bytes.extend(plain);
        Page::DataPage {
            buf: bytes.into(),
            num_values: 12,
            encoding: Encoding::PLAIN,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        }
    }

    #[test]
    fn levels_say_whether_a_page_is_whole_images() {
        let plain = [0; 48];
        let runs = [2, 0, 6, 1].repeat(3);
        let all_there = [24, 2];
        assert_eq!(first_pixel(&page(&runs, &all_there, &plain), 4, 2), Some(4 + 12 + 4 + 2));
        // Two groups of eight packed bits: 0111 0111, 0111 and what is past the end.
        let packed = [2 << 1 | 1, 0b1110_1110, 0b0000_1110];
        assert_eq!(first_pixel(&page(&packed, &all_there, &plain), 4, 2), Some(4 + 3 + 4 + 2));
        // Levels of two bits, packed: 2 is 10.
        let packed_there = [2 << 1 | 1, 0xaa, 0xaa, 0xaa, 0xaa];
        assert_eq!(first_pixel(&page(&runs, &packed_there, &plain), 4, 2), Some(4 + 12 + 4 + 5));

        for (why, other) in [
            ("an image that goes on from the page before", page(&[24, 1], &all_there, &plain)),
            ("images of six pixels", page(&[2, 0, 10, 1].repeat(2), &all_there, &plain)),
            ("a pixel that is not there", page(&runs, &[10, 2, 2, 1, 12, 2], &plain)),
            ("a value less", page(&runs, &all_there, &plain[4..])),
            ("levels that end early", page(&runs[..8], &all_there, &plain)),
            ("levels that go on too long", page(&runs, &[26, 2], &plain)),
            ("an empty run", page(&runs, &[0, 2, 24, 2], &plain)),
            ("an endless number", page(&runs, &[0xff; 9], &plain)),
            ("packed levels that are cut off", page(&[2 << 1 | 1, 0xee], &all_there, &plain)),
        ] {
            assert_eq!(first_pixel(&other, 4, 2), None, "{why}");
        }
    }
}
