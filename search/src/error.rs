//! What can go wrong in `search`.

use shared::cli::StageError;
use shared::config::ConfigError;
use shared::study::StudyError;

/// A command that could not be carried out.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Study(#[from] StudyError),
    #[error(transparent)]
    File(#[from] shared::files::FileError),
    #[error("can't make the Parquet table")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("can't make the table of trials")]
    Arrow(#[from] arrow::error::ArrowError),
}

impl StageError for Error {}
