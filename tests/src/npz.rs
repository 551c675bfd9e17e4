//! NPZ archives as `np.savez` and `np.savez_compressed` write them, whole or not at all.

use std::{
    ffi::OsString,
    fs,
    io::{Cursor, Write as _},
    path::Path,
};

use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use crate::error::{Error, IoContext as _};

/// A C-ordered array of f32.
#[derive(Debug)]
pub(crate) struct Array<'a> {
    pub(crate) name: &'static str,
    pub(crate) shape: &'a [usize],
    pub(crate) values: &'a [f32],
}

/// Writes `arrays` to `path` through a temporary neighbour.
///
/// The same arrays always give the same bytes: members carry no time of day.
pub(crate) fn write(path: &Path, arrays: &[Array], deflate: bool) -> Result<(), Error> {
    let bytes = archive(arrays, deflate).map_err(|source| Error::Archive { path: path.into(), source })?;
    let mut neighbour = OsString::from(path);
    neighbour.push(".tmp");
    fs::write(&neighbour, bytes).at(path)?;
    fs::rename(&neighbour, path).at(path)
}

fn archive(arrays: &[Array], deflate: bool) -> zip::result::ZipResult<Vec<u8>> {
    let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
    let level = deflate.then_some(1); // Images are mostly zeros: a higher level takes time and gains little.
    let options = SimpleFileOptions::default()
        .compression_method(method)
        .compression_level(level)
        .last_modified_time(DateTime::DEFAULT);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for array in arrays {
        zip.start_file(format!("{}.npy", array.name), options)?;
        zip.write_all(&header(array.shape))?;
        let bytes: Vec<u8> = array.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        zip.write_all(&bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// The npy 1.0 header of a C-ordered array of little-endian f32, padded to a multiple of 64 bytes.
fn header(shape: &[usize]) -> Vec<u8> {
    /// Magic number and version.
    const PREFIX: &[u8] = b"\x93NUMPY\x01\x00";
    let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sides.join(", "));
    let unpadded = PREFIX.len() + 2 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let mut header = PREFIX.to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}
