//! Split folders: Parquet parts of train, validation and test clusters under one manifest.

mod batches;
mod blocks;
mod images;
mod manifest;
mod pages;
mod part;
mod read;
mod schema;

pub use batches::Batches;
pub use blocks::{Block, Blocks, RowGroups};
pub use images::{Images, MOST_PIXELS};
pub use manifest::{MANIFEST, Manifest, Part, Split, SplitSummary};
pub use read::{Clusters, SplitFolder};
pub use schema::{column, schema};

use std::path::PathBuf;

use crate::files::FileError;

/// A split folder that can't be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum SplitError {
    #[error("`{}` is no finished split folder: it has no `{MANIFEST}`; make one with `prepare --config C --output {}`", path.display(), path.display())]
    Unfinished { path: PathBuf },
    #[error("`{}` is one split of a folder; give `{}` itself", path.display(), folder.display())]
    OneSplit { path: PathBuf, folder: PathBuf },
    #[error("`{}` is no split; give a folder named train, validation or test in one that `prepare` made", path.display())]
    NoSplit { path: PathBuf },
    #[error("`{}` has no {split} split; its `{MANIFEST}` lists {found}", path.display())]
    Missing { path: PathBuf, split: Split, found: String },
    #[error("images of {height} x {width} in `{}` are too large; at most {MOST_PIXELS} pixels fit", path.display())]
    TooLarge { path: PathBuf, height: usize, width: usize },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("can't open part `{}`", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("can't read part `{}`; make the folder again with `prepare --overwrite`", path.display())]
    Parquet {
        path: PathBuf,
        #[source]
        source: parquet::errors::ParquetError,
    },
    #[error("can't read rows of part `{}`; make the folder again with `prepare --overwrite`", path.display())]
    Rows {
        path: PathBuf,
        #[source]
        source: arrow::error::ArrowError,
    },
    #[error("part `{}` has {found} rows, the manifest says {expected}; make the folder again with `prepare --overwrite`", path.display())]
    RowCount { path: PathBuf, found: u64, expected: u64 },
    #[error("part `{}` has no column `{column}`", path.display())]
    NoColumn { path: PathBuf, column: String },
    #[error("part `{}` has a column `{column}` of another type: {found}", path.display())]
    ColumnType { path: PathBuf, column: &'static str, found: String },
}
