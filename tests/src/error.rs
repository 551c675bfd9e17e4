//! What can go wrong in a simulation.

use std::{io, path::Path, path::PathBuf};

/// A failed simulation.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Error {
    #[error("`{}` cannot be written", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("archive `{}` cannot be packed", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: zip::result::ZipError,
    },
    #[error("the thread pool cannot start")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    #[error("`{name}` is {value}, expected {expected}")]
    Option { name: &'static str, value: String, expected: &'static str },
}

/// Names the path in an I/O error.
pub(crate) trait IoContext<T> {
    /// Wraps the error, if any, with `path`.
    fn at(self, path: &Path) -> Result<T, Error>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { path: path.into(), source })
    }
}
