//! What is in split folders.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type, UInt32Type};
use shared::split::{Split, SplitError, SplitFolder, column};

use super::picture::Picture;
use super::{spread, table};
use crate::Error;
use crate::summary::Folder;

/// Rows read at a time.
const BATCH: usize = 1024;

/// The folder's summary, and a table of its splits.
pub fn describe(folder: &SplitFolder) -> Result<String, Error> {
    let heads =
        ["split", "parts", "rows", "main", "marley", "ES", "energy in MeV (least / median / greatest)"];
    let mut rows: Vec<Vec<String>> = vec![heads.map(str::to_owned).into()];
    for (&split, summary) in &folder.manifest().splits {
        let (mut flags, mut energies) = ([0; 3], Vec::new());
        let columns = [column::IS_MAIN_TRACK, column::IS_MARLEY, column::IS_ES, column::CLUSTER_ENERGY];
        for batch in folder.batches(split, &columns, BATCH)? {
            let batch = batch?;
            for (count, column) in flags.iter_mut().zip(batch.columns()) {
                *count += column.as_boolean_opt().map_or(0, arrow::array::BooleanArray::true_count);
            }
            if let Some(values) = batch.column(3).as_primitive_opt::<Float32Type>() {
                energies.extend_from_slice(values.values());
            }
        }
        let mut cells = vec![split.to_string(), summary.parts.len().to_string(), summary.rows.to_string()];
        cells.extend(flags.map(|n| n.to_string()));
        cells.push(spread(energies));
        rows.push(cells);
    }
    let manifest = folder.manifest().clone();
    let summary = Folder { path: folder.path().to_owned(), manifest };
    Ok(format!("{summary}\n{}", table(&rows)))
}

/// The cluster of a source and row, in whichever split it is.
pub fn picture(folder: &SplitFolder, row: u64, source: Option<&str>) -> Result<Picture, Error> {
    let mut found = Vec::new();
    for &split in folder.manifest().splits.keys() {
        search(folder, split, row, source, &mut found)?;
    }
    // Copies of an oversampled row are one cluster.
    found.dedup_by(|a, b| a.0 == b.0);
    let path = || folder.path().to_owned();
    match found.len() {
        0 => Err(Error::NoRow { path: path(), row }),
        1 => Ok(found.remove(0).1),
        count => Err(Error::WhichSource { path: path(), row, count, example: found.remove(0).0 }),
    }
}

fn search(
    folder: &SplitFolder,
    split: Split,
    row: u64,
    source: Option<&str>,
    found: &mut Vec<(String, Picture)>,
) -> Result<(), Error> {
    let columns = [column::IMAGE, column::IS_MAIN_TRACK, column::SOURCE, column::ROW, column::CLUSTER_ENERGY];
    for batch in folder.batches(split, &columns, BATCH)? {
        let batch = batch?;
        for at in 0..batch.num_rows() {
            if let Some((name, number)) = place(&batch, at)
                && u64::from(number) == row
                && source.is_none_or(|source| source == name)
            {
                let picture = picture_at(folder, &batch, at, &format!("{split}: {name} row {row}"));
                found.push((name.to_owned(), picture.ok_or_else(|| wrong(folder, split))?));
            }
        }
    }
    Ok(())
}

/// Source and row.
fn place(batch: &RecordBatch, at: usize) -> Option<(&str, u32)> {
    let sources = batch.column_by_name(column::SOURCE)?.as_dictionary_opt::<Int32Type>()?;
    let name = sources.values().as_string_opt::<i32>()?.value(sources.key(at)?);
    Some((name, batch.column_by_name(column::ROW)?.as_primitive_opt::<UInt32Type>()?.value(at)))
}

fn picture_at(folder: &SplitFolder, batch: &RecordBatch, at: usize, name: &str) -> Option<Picture> {
    let image = batch.column_by_name(column::IMAGE)?.as_fixed_size_list_opt()?.value(at);
    let is_main_track = batch.column_by_name(column::IS_MAIN_TRACK)?.as_boolean_opt()?.value(at);
    let energy = batch.column_by_name(column::CLUSTER_ENERGY)?.as_primitive_opt::<Float32Type>()?.value(at);
    let class = if is_main_track { "main track" } else { "background" };
    let adc = image.as_primitive_opt::<Float32Type>()?.values();
    let (height, width) = (folder.manifest().height, folder.manifest().width);
    Some(Picture::dense(adc, height, width, format!("{name}: {class}, {energy:.2} MeV")))
}

fn wrong(folder: &SplitFolder, split: Split) -> SplitError {
    let path = folder.path().join(split.name());
    SplitError::ColumnType { path, column: column::IMAGE, found: "not as the schema says".to_owned() }
}
