//! The folder of a report: whose it is, and that it appears as a whole.

use std::fs;
use std::path::Path;

use shared::files::{self, FileError};

use crate::error::Error;
use crate::report::{REPORT, Report};

/// What a report folder may hold besides report.json.
const PARTS: [&str; 6] = ["report.txt", "report.html", "predictions.parquet", "figures", "tables", REPORT];

/// What stands at the place of the report.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or an unfinished report
    Free,
    /// The very report that is asked for, complete
    UpToDate(Box<Report>),
}

/// Look at the folder; without `overwrite` another's content is refused.
///
/// # Errors
/// [`Error::OtherReport`], [`Error::OtherFolder`], [`Error::File`]
pub fn inspect(folder: &Path, inputs: &str, overwrite: bool) -> Result<Found, Error> {
    let read = |source| FileError::Read { path: folder.to_owned(), source };
    if !folder.exists() {
        return Ok(Found::Free);
    }
    for entry in fs::read_dir(folder).map_err(read)? {
        let name = entry.map_err(read)?.file_name().to_string_lossy().into_owned();
        // A killed run may have left a temporary neighbour.
        let temporary = is_temporary(&name);
        if !temporary && !PARTS.contains(&name.as_str()) {
            return Err(Error::OtherFolder { path: folder.to_owned(), name });
        }
    }
    let path = folder.join(REPORT);
    if overwrite || !path.exists() {
        return Ok(Found::Free);
    }
    let report: Report = files::read_json(&path)?;
    if report.inputs != inputs {
        let found = format!("model `{}` on `{}`", report.model.path, report.data.path);
        return Err(Error::OtherReport { path: folder.to_owned(), found });
    }
    if report.files.iter().all(|file| folder.join(file).is_file()) {
        return Ok(Found::UpToDate(Box::new(report)));
    }
    Ok(Found::Free)
}

/// Take away what makes an old report complete, before its parts are replaced; sweep up what a killed run left.
///
/// # Errors
/// [`Error::File`]
pub fn begin(folder: &Path) -> Result<(), Error> {
    let write = |source| FileError::Write { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(write)?;
    for entry in fs::read_dir(folder).map_err(write)? {
        let entry = entry.map_err(write)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == REPORT || is_temporary(&name) {
            fs::remove_file(entry.path()).map_err(write)?;
        }
    }
    Ok(())
}

/// Whether a killed run may have left this file: `.NAME.PROCESS.RANDOM.tmp`.
fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && Path::new(name).extension().is_some_and(|extension| extension == "tmp")
}
