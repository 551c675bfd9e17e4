//! Zstandard frames of pages whose repeats are known, without a search for them.
//!
//! The search is what takes most of the time of the fast levels; everything else is left to zstd. Its interface for
//! that, `ZSTD_compressSequences`, has no safe wrapper: the only unsafe code of this crate is here.

#![expect(unsafe_code, reason = "`zstd-sys` is the bare C library")]

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use zstd_sys::{
    ZSTD_CCtx, ZSTD_CCtx_setParameter, ZSTD_Sequence, ZSTD_cParameter, ZSTD_compressBound,
    ZSTD_compressSequences, ZSTD_createCCtx, ZSTD_freeCCtx, ZSTD_getErrorName, ZSTD_isError,
};

/// The shortest repeat that zstd can write.
const SHORTEST: usize = 3;

/// Bytes of a page that are equal to those `distance` before.
pub struct Repeat {
    /// Where they are
    pub bytes: Range<usize>,
    /// At least 1
    pub distance: usize,
}

impl Repeat {
    /// A run of zeros: all but the first repeat the byte before.
    pub fn zeros(bytes: Range<usize>) -> Self {
        Self { bytes: bytes.start + 1..bytes.end, distance: 1 }
    }
}

/// A compressor for pages with known repeats.
pub struct RepeatCompressor {
    context: NonNull<ZSTD_CCtx>,
    sequences: Vec<ZSTD_Sequence>,
}

impl RepeatCompressor {
    /// A compressor whose entropy coder works as at this level.
    pub fn new(level: i32) -> io::Result<Self> {
        // SAFETY: it takes nothing, and gives a context or null.
        let context = NonNull::new(unsafe { ZSTD_createCCtx() })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let compressor = Self { context, sequences: Vec::new() };
        let validate = ZSTD_cParameter::ZSTD_c_experimentalParam12; // ZSTD_c_validateSequences
        for (parameter, value) in [
            (ZSTD_cParameter::ZSTD_c_compressionLevel, level),
            (ZSTD_cParameter::ZSTD_c_minMatch, SHORTEST as c_int),
            (validate, 1),
        ] {
            // SAFETY: the context is alive and nobody else's.
            check(unsafe { ZSTD_CCtx_setParameter(compressor.context.as_ptr(), parameter, value) })?;
        }
        Ok(compressor)
    }

    /// Compress a page as one frame; the repeats are in ascending order and do not overlap.
    pub fn compress(&mut self, page: &[u8], repeats: &[Repeat]) -> io::Result<Vec<u8>> {
        self.list(repeats, page.len());
        // SAFETY: takes the page's length and gives a number.
        let mut frame: Vec<u8> = Vec::with_capacity(unsafe { ZSTD_compressBound(page.len()) });
        // SAFETY: pointers and lengths are those of living buffers, and `zstd` checks the sequences against the page.
        let length = check(unsafe {
            ZSTD_compressSequences(
                self.context.as_ptr(),
                frame.as_mut_ptr().cast::<c_void>(),
                frame.capacity(),
                self.sequences.as_ptr(),
                self.sequences.len(),
                page.as_ptr().cast::<c_void>(),
                page.len(),
            )
        })?;
        // SAFETY: `zstd` has written so many bytes, within the capacity.
        unsafe { frame.set_len(length) };
        Ok(frame)
    }

    /// The repeats as zstd wants them: how many bytes are written out before each, and how many repeat.
    fn list(&mut self, repeats: &[Repeat], length: usize) {
        self.sequences.clear();
        let mut covered = 0;
        for &Repeat { ref bytes, distance } in repeats {
            if bytes.len() < SHORTEST {
                continue;
            }
            let is_valid = covered <= bytes.start && bytes.end <= length;
            assert!(is_valid && (1..=bytes.start).contains(&distance), "a repeat lies in its page");
            self.sequences.push(ZSTD_Sequence {
                offset: distance as u32,
                litLength: (bytes.start - covered) as u32,
                matchLength: bytes.len() as u32,
                rep: 0,
            });
            covered = bytes.end;
        }
    }
}

impl Drop for RepeatCompressor {
    fn drop(&mut self) {
        // SAFETY: the context came from `ZSTD_createCCtx` and is freed once.
        unsafe { ZSTD_freeCCtx(self.context.as_ptr()) };
    }
}

/// What a function of `zstd` returned, as a size or an error.
fn check(code: usize) -> io::Result<usize> {
    // SAFETY: takes any number.
    if unsafe { ZSTD_isError(code) } == 0 {
        return Ok(code);
    }
    // SAFETY: takes any number, and gives a text that lives as long as the program.
    let name = unsafe { CStr::from_ptr(ZSTD_getErrorName(code)) };
    Err(io::Error::other(format!("zstd: {}", name.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs of zeros of a page, found by looking.
    fn zeros(page: &[u8]) -> Vec<Repeat> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (at, _) in page.iter().enumerate().filter(|&(_, &byte)| byte == 0) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs.into_iter().map(Repeat::zeros).collect()
    }

    fn assert_comes_back(page: &[u8]) -> usize {
        let frame = RepeatCompressor::new(1).unwrap().compress(page, &zeros(page)).unwrap();
        assert!(zstd::bulk::decompress(&frame, page.len()).unwrap() == page, "{} bytes", page.len());
        frame.len()
    }

    #[test]
    fn pages_of_all_kinds_come_back() {
        assert_comes_back(&[]);
        assert_comes_back(&[0]);
        assert_comes_back(&[0; 5]);
        assert_comes_back(&[7; 5]);
        // Longer than a block of zstd, which is 128 KiB.
        assert!(assert_comes_back(&vec![0; 1_000_000]) < 100);
        let noise: Vec<u8> =
            (0..400_000_u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        assert_comes_back(&noise);
        let sparse: Vec<u8> = noise.iter().map(|&byte| if byte < 250 { 0 } else { byte }).collect();
        assert!(assert_comes_back(&sparse) < 40_000);
    }

    #[test]
    fn a_pattern_repeats() {
        let page = [1, 2, 3, 4, 5].repeat(100);
        let repeat = Repeat { bytes: 5..500, distance: 5 };
        let frame = RepeatCompressor::new(1).unwrap().compress(&page, &[repeat]).unwrap();
        assert!(frame.len() < 30);
        assert_eq!(zstd::bulk::decompress(&frame, 500).unwrap(), page);
    }

    #[test]
    #[should_panic(expected = "a repeat lies in its page")]
    fn a_repeat_past_the_page_is_refused() {
        let _ = RepeatCompressor::new(1).unwrap().compress(&[0; 8], &[Repeat::zeros(2..90)]);
    }

    proptest! {
        #[test]
        fn random_pages_come_back(runs in prop::collection::vec((0_usize..40_000, 0_usize..300, any::<u8>()), 0..40)) {
            let mut page = Vec::new();
            for (empty, full, byte) in runs {
                page.resize(page.len() + empty, 0);
                page.extend((0..full).map(|i| byte.wrapping_add((i * i) as u8)));
            }
            assert_comes_back(&page);
        }
    }
}
