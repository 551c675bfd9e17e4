//! What can go wrong in `evaluate`.

use std::path::PathBuf;

use shared::cli::StageError;
use shared::files::FileError;
use shared::model::ModelError;
use shared::runtime::RuntimeError;
use shared::split::SplitError;

/// A report that can't be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Error {
    #[error("can't use model `{}`", path.display())]
    Card {
        path: PathBuf,
        #[source]
        source: ModelError,
    },
    #[error("can't load model `{}`", path.display())]
    Load {
        path: PathBuf,
        #[source]
        source: RuntimeError,
    },
    #[error("model `{}`: {what}, expected {expected}", path.display())]
    Contract { path: PathBuf, what: String, expected: String },
    #[error(
        "model `{}` is for images of {model_shape}, but `{}` has {data_shape}; prepare the data as for the training",
        path.display(), data.display()
    )]
    Shape { path: PathBuf, data: PathBuf, model_shape: String, data_shape: String },
    #[error("model `{}` failed on a batch", path.display())]
    Inference {
        path: PathBuf,
        #[source]
        source: ort::Error,
    },
    #[error(
        "model `{}` gives {whole} for row {row} on its whole image, but {sites} at the image's active sites; the scores must be the same to {tolerance}: give `--whole-images`, and report it",
        path.display(), tolerance = crate::model::TOLERANCE
    )]
    Differs { path: PathBuf, row: usize, whole: f32, sites: f32 },
    #[error("model `{}` gives {score} for row {row} of `{source_name}`; a probability is from 0 to 1", path.display())]
    Score { path: PathBuf, score: f32, source_name: String, row: u32 },
    #[error(
        "model `{}` has no `threshold` in its metadata, and there is no validation split to choose one on; give `--threshold 0.5` or `--validation DIR`",
        path.display()
    )]
    NoThreshold { path: PathBuf },
    #[error("`--threshold {rule}` is chosen on validation data, and `{}` is not there; give `--validation DIR` or a number", validation.display())]
    NoValidation { rule: String, validation: PathBuf },
    #[error("no threshold on `{}` reaches `{rule}`; the best there is {best:.4}", validation.display())]
    Unreachable { rule: String, validation: PathBuf, best: f64 },
    #[error("the validation split `{}` has no main tracks; no threshold can be chosen on it", validation.display())]
    NoMainTracks { validation: PathBuf },
    #[error("split `{}` has no rows; there is nothing to report on", path.display())]
    Empty { path: PathBuf },
    #[error("`{}` has a column `{column}` of another type than `prepare` writes: {found}", path.display())]
    Column { path: PathBuf, column: &'static str, found: String },
    #[error("`{}` holds another report (of {found}); give `--overwrite` or another `--output`", path.display())]
    OtherReport { path: PathBuf, found: String },
    #[error("`{}` holds `{name}`, which is no part of a report; give an empty or new folder as `--output`", path.display())]
    OtherFolder { path: PathBuf, name: String },
    #[error("`{}` is no report: it has no `report.json`; make one with `evaluate --model M --data DIR/test --output {}`", path.display(), path.display())]
    NoReport { path: PathBuf },
    #[error("`{}` is no version to look back at; give the folder of a report, of a study with a `best.onnx`, or of a trial in its study", path.display())]
    NoVersion { path: PathBuf },
    #[error("reports `{}` and `{}` are about different clusters; evaluate both models on the same test split", a.display(), b.display())]
    OtherRows { a: PathBuf, b: PathBuf },
    #[error("`{}` {what}", path.display())]
    Npz { path: PathBuf, what: String },
    #[error("`{}` is there already; give `--overwrite` or another `--output`", path.display())]
    Exists { path: PathBuf },
    #[error("model `{}` says nothing about `{key}`", path.display())]
    NoKey { path: PathBuf, key: String },
    #[error(transparent)]
    Split(#[from] SplitError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("can't read `{}`; make the report again with `--overwrite`", path.display())]
    Parquet {
        path: PathBuf,
        #[source]
        source: parquet::errors::ParquetError,
    },
    #[error("can't draw figure `{name}`: {reason}")]
    Figure { name: &'static str, reason: String },
    #[error("can't fill the report page")]
    Page(#[source] askama::Error),
    #[error("stopped by a signal; the same command line starts again")]
    Stopped,
}

impl StageError for Error {
    fn is_resumable(&self) -> bool {
        matches!(self, Self::Stopped)
    }
}
