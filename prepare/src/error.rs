//! What can end `prepare`.

use std::io;
use std::path::PathBuf;

use shared::cli::StageError;
use shared::config::ConfigError;
use shared::files::FileError;
use shared::plane::Plane;
use shared::split::{Split, SplitError};

use crate::args::{Phase, Shard};

/// What can end `prepare`.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Error {
    #[error("`--config` is missing")]
    NoConfig,
    #[error("`--output` is missing")]
    NoOutput,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Split(#[from] SplitError),
    #[error("nothing to read: give `--input DIR`, or `data_directories` in the config")]
    NoInput,
    #[error("can't read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't write `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't write part `{}`", path.display())]
    Part {
        path: PathBuf,
        #[source]
        source: parquet::errors::ParquetError,
    },
    #[error("can't encode rows")]
    Encode(#[from] parquet::errors::ParquetError),
    #[error("can't put rows together")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("no files of plane {plane} in {inputs}; they are named `{pattern}` or lie in a folder `{plane}`")]
    NoFiles { plane: Plane, inputs: String, pattern: String },
    #[error("`{}` and `{}` both have the source name `{source_name}`; rename one", other.display(), path.display())]
    SameSource { source_name: String, path: PathBuf, other: PathBuf },
    #[error("can't use `{}`: {reason}; leave it out with `--on-bad-file skip`", path.display())]
    BadFile { path: PathBuf, reason: String },
    #[error("{count} files are not usable, more than `--max-bad {limit}`; the first is `{}`: {reason}", path.display())]
    TooManyBad { count: u64, limit: u64, path: PathBuf, reason: String },
    #[error("none of {count} files is usable; the first is `{}`: {reason}", path.display())]
    NothingUsable { count: u64, path: PathBuf, reason: String },
    #[error("the {files} files of plane {plane} hold no clusters")]
    NoClusters { files: usize, plane: Plane },
    #[error(
        "the {split} split is empty: {rows} clusters are too few to split by {by}; give more data, other fractions in the config, or `--split-by cluster`"
    )]
    EmptySplit { split: Split, rows: u64, by: &'static str },
    #[error(
        "all {rows} clusters of the {split} split are left out as repeated images; `--duplicates keep` keeps them"
    )]
    AllRepeated { split: Split, rows: u64 },
    #[error(
        "the {split} split has only {class} clusters, so it can't be balanced; give more data or `--balance none`"
    )]
    OneClass { split: Split, class: &'static str },
    #[error("`{}` changed while `prepare` ran; start it again", path.display())]
    Changed { path: PathBuf },
    #[error("`{}` was not usable when its rows were written: {reason}", path.display())]
    Unsound { path: PathBuf, reason: String },
    #[error("`{}` holds the result of another command: {difference}; replace it with `--overwrite`", path.display())]
    OtherOutput { path: PathBuf, difference: String },
    #[error("`{}` is there and no split folder; give another `--output`", path.display())]
    NotOurs { path: PathBuf },
    #[error("`{}` was begun by another command: {difference}; finish that, or start again with `--overwrite`", path.display())]
    OtherPhases { path: PathBuf, difference: String },
    #[error("process {pid} on `{host}` is at work there, says `{}`; wait for it, or give another `--output`", lock.display())]
    Busy { lock: PathBuf, host: String, pid: u32 },
    #[error("another process took `{}`, as this one gave no sign of life; start it again", path.display())]
    LostLock { path: PathBuf },
    #[error("shard {shard} of phase {} has not run: `{}` is missing", phase.name(), path.display())]
    MissingShard { phase: Phase, shard: Shard, path: PathBuf },
    #[error("phase {} has not run: `{}` is missing", phase.name(), path.display())]
    MissingPhase { phase: Phase, path: PathBuf },
    #[error("`--against {}` has images of plane {plane}, {height} × {width}, which is not what the config says", path.display())]
    AgainstOther { path: PathBuf, plane: Plane, height: usize, width: usize },
    #[error("by a signal while {doing}; {kept}; the same command goes on from there")]
    Stopped { doing: &'static str, kept: &'static str },
    #[error("`{}` is not usable: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("`{}` has no row {row} that could be drawn", path.display())]
    NoRow { path: PathBuf, row: u64 },
    #[error("`{}` has {count} clusters in row {row} of its sources; say which source with `--source NAME`, such as `{example}`", path.display())]
    WhichSource { path: PathBuf, row: u64, count: usize, example: String },
    #[error("`--row` draws one cluster of one path, {0} paths are given")]
    OnePicture(usize),
}

impl StageError for Error {
    fn is_resumable(&self) -> bool {
        matches!(self, Self::Stopped { .. })
    }
}
