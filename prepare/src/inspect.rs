//! `prepare inspect`: what is in NPZ files and split folders.

mod files;
mod picture;
mod splits;

use std::path::{Path, PathBuf};

use shared::split::{MANIFEST, SplitFolder};

use crate::Error;
use crate::args::InspectArgs;
use picture::Picture;

/// Describe the paths, or draw one cluster.
pub fn inspect(args: &InspectArgs) -> Result<String, Error> {
    if let Some(row) = args.row {
        let [path] = args.paths.as_slice() else { return Err(Error::OnePicture(args.paths.len())) };
        return draw(&find(path, row, args.source.as_deref())?, args.png.as_deref());
    }
    let mut parts = Vec::new();
    for path in &args.paths {
        parts.push(match kind(path) {
            Kind::Splits(folder) => splits::describe(&SplitFolder::open(&folder)?)?,
            Kind::Files => files::describe(path)?,
        });
    }
    Ok(parts.join("\n\n"))
}

/// What a path is.
enum Kind {
    /// A split folder, or one split of it
    Splits(PathBuf),
    /// An NPZ file, or a folder of such
    Files,
}

fn kind(path: &Path) -> Kind {
    if path.join(MANIFEST).is_file() {
        return Kind::Splits(path.to_owned());
    }
    match SplitFolder::open_split(path) {
        Ok((folder, _)) => Kind::Splits(folder.path().to_owned()),
        Err(_) => Kind::Files,
    }
}

fn find(path: &Path, row: u64, source: Option<&str>) -> Result<Picture, Error> {
    match kind(path) {
        Kind::Splits(folder) => splits::picture(&SplitFolder::open(&folder)?, row, source),
        Kind::Files => files::picture(path, row),
    }
}

fn draw(picture: &Picture, png: Option<&Path>) -> Result<String, Error> {
    let Some(path) = png else { return Ok(picture.text()) };
    shared::files::write_bytes(path, &picture.png())?;
    Ok(format!("wrote {}: {}", path.display(), picture.caption))
}

/// Least, median and greatest value, such as `2.0 / 4.6 / 58.4`.
fn spread(mut values: Vec<f32>) -> String {
    values.sort_unstable_by(f32::total_cmp);
    match (values.first(), values.get(values.len() / 2), values.last()) {
        (Some(least), Some(median), Some(greatest)) => format!("{least:.1} / {median:.1} / {greatest:.1}"),
        _ => "–".to_owned(),
    }
}

/// Rows of cells with aligned columns: the first to the left, the others to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
