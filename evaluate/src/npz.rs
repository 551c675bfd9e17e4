//! The images of an NPZ file; everything else in it is left alone.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use ndarray::Array3;
use ndarray_npy::{ReadNpyError, ReadNpyExt};
use shared::files::FileError;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::Error;

/// Member with the images.
const MEMBER: &str = "images.npy";

/// Read `images`, f32 `[N, H, W]` in C order.
///
/// # Errors
/// [`Error::File`], [`Error::Npz`]
pub fn images(path: &Path) -> Result<Array3<f32>, Error> {
    let file = File::open(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let bad = |what: String| Error::Npz { path: path.to_owned(), what };
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|e| bad(format!("is no NPZ file: {e}")))?;
    let member = match archive.by_name(MEMBER) {
        Ok(member) => member,
        Err(ZipError::FileNotFound) => {
            return Err(bad("has no array `images`".into()));
        }
        Err(e) => return Err(bad(format!("can't be unpacked: {e}"))),
    };
    let images = Array3::<f32>::read_npy(member).map_err(|e| bad(said(&e)))?;
    if images.is_standard_layout() { Ok(images) } else { Err(bad("has `images` in Fortran order".into())) }
}

fn said(error: &ReadNpyError) -> String {
    match error {
        ReadNpyError::WrongNdim(_, found) => format!("has `images` with {found} axes, expected 3: N, H, W"),
        ReadNpyError::WrongDescriptor(found) => format!("has `images` of type {found}, expected f32 ('<f4')"),
        other => format!("has an array `images` that can't be read: {other}"),
    }
}
