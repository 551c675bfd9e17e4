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
}

impl StageError for Error {}
