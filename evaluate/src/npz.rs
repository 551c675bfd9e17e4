//! The images of an NPZ file, some rows at a time; everything else in it is left alone.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use ndarray_npy::npy::header::{Header, Layout};
use shared::files::FileError;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::Error;

/// Member with the images.
const MEMBER: &str = "images.npy";
/// NumPy's name of little-endian f32, as the header spells it.
const F32: &str = "'<f4'";

/// Read `images`, f32 `[N, H, W]` in C order, `chunk` rows at a time.
///
/// - `begin`: is told `(N, H, W)` before the first rows
/// - `take`: is given `[rows, H, W]`, in order
///
/// # Errors
/// [`Error::File`], [`Error::Npz`], and those of `begin` and `take`
pub fn each_chunk<T>(
    path: &Path,
    chunk: usize,
    begin: impl FnOnce((usize, usize, usize)) -> Result<T, Error>,
    mut take: impl FnMut(&mut T, &[f32]) -> Result<(), Error>,
) -> Result<T, Error> {
    let file = File::open(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let bad = |what: String| Error::Npz { path: path.to_owned(), what };
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|e| bad(format!("is no NPZ file: {e}")))?;
    let mut member = match archive.by_name(MEMBER) {
        Ok(member) => member,
        Err(ZipError::FileNotFound) => return Err(bad("has no array `images`".into())),
        Err(e) => return Err(bad(format!("can't be unpacked: {e}"))),
    };
    let unreadable =
        |e: &dyn std::fmt::Display| bad(format!("has an array `images` that can't be read: {e}"));
    let header = Header::from_reader(&mut member).map_err(|e| unreadable(&e))?;
    let (n, height, width) = shape(&header).map_err(bad)?;
    let mut state = begin((n, height, width))?;
    let (mut bytes, mut images) = (Vec::new(), Vec::new());
    let mut left = n;
    while left > 0 {
        let rows = left.min(chunk);
        bytes.resize(4 * rows * height * width, 0);
        member.read_exact(&mut bytes).map_err(|e| unreadable(&e))?;
        images.clear();
        images.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        take(&mut state, &images)?;
        left -= rows;
    }
    // The checksum is looked at where the member ends.
    match member.read(&mut [0]) {
        Ok(0) => Ok(state),
        Ok(_) => Err(bad("has more bytes in `images` than its header says".into())),
        Err(e) => Err(unreadable(&e)),
    }
}

/// `(N, H, W)`, or what is wrong with the array.
fn shape(header: &Header) -> Result<(usize, usize, usize), String> {
    let found = header.type_descriptor.to_string();
    if found != F32 {
        return Err(format!("has `images` of type {found}, expected f32 ({F32})"));
    }
    if header.layout == Layout::Fortran {
        return Err("has `images` in Fortran order".into());
    }
    match header.shape[..] {
        [n, height, width] if height > 0 && width > 0 => {
            let bytes = n.checked_mul(height).and_then(|p| p.checked_mul(width)?.checked_mul(4));
            bytes.map(|_| (n, height, width)).ok_or_else(|| "has `images` of an impossible size".into())
        }
        [_, height, width] => Err(format!("has `images` of {height} x {width}")),
        _ => Err(format!("has `images` with {} axes, expected 3: N, H, W", header.shape.len())),
    }
}
