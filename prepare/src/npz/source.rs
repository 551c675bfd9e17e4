//! Where bytes come from: files on disks that may stutter, or memory.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Bytes that can be read from any offset.
pub trait ReadAt {
    /// Read at most `buffer.len()` bytes from `offset`; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Number of bytes.
    fn size(&self) -> u64;
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let rest = &self[start..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// A file, as long as it was when it was opened.
pub struct PlainFile {
    file: File,
    size: u64,
}

impl ReadAt for PlainFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// A file on a disk that may stutter.
pub type RetryingFile = WithRetries<PlainFile>;

impl RetryingFile {
    /// Open a file; a folder is an error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = with_retries(|| File::open(path))?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from(ErrorKind::IsADirectory));
        }
        Ok(Self(PlainFile { size: metadata.len(), file }))
    }
}

/// A source whose reads are tried up to five times.
pub struct WithRetries<R>(pub R);

impl<R: ReadAt> ReadAt for WithRetries<R> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        with_retries(|| self.0.read_at(offset, buffer))
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}

/// Pauses between the tries, in milliseconds: network disks come back after a moment, or not at all.
const PAUSES: [u64; 4] = [50, 200, 800, 2000];

fn with_retries<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for pause in PAUSES {
        match attempt() {
            Err(error) if may_pass(&error) => {
                tracing::debug!("{error}; trying again in {pause} ms");
                std::thread::sleep(Duration::from_millis(pause));
            }
            done => return done,
        }
    }
    attempt()
}

/// Whether an error may be gone the next time.
fn may_pass(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    let kinds = [
        ErrorKind::Interrupted,
        ErrorKind::TimedOut,
        ErrorKind::WouldBlock,
        ErrorKind::StaleNetworkFileHandle,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
        ErrorKind::NetworkDown,
        ErrorKind::ConnectionReset,
    ];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(EIO)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Stutters {
        failures: Cell<usize>,
        error: fn() -> io::Error,
    }

    impl ReadAt for Stutters {
        fn read_at(&self, _: u64, buffer: &mut [u8]) -> io::Result<usize> {
            if self.failures.get() == 0 {
                buffer.fill(7);
                return Ok(buffer.len());
            }
            self.failures.set(self.failures.get() - 1);
            Err((self.error)())
        }

        fn size(&self) -> u64 {
            4
        }
    }

    fn stutters(failures: usize, error: fn() -> io::Error) -> WithRetries<Stutters> {
        WithRetries(Stutters { failures: Cell::new(failures), error })
    }

    #[test]
    fn an_error_that_passes_is_tried_again() {
        let mut buffer = [0; 4];
        assert_eq!(stutters(2, || io::Error::from_raw_os_error(5)).read_at(0, &mut buffer).unwrap(), 4);
        assert_eq!(buffer, [7; 4]);
    }

    #[test]
    fn an_error_that_stays_is_reported_after_five_tries() {
        let source = stutters(99, || io::Error::from_raw_os_error(5));
        assert!(source.read_at(0, &mut [0; 4]).is_err());
        assert_eq!(source.0.failures.get(), 99 - 5);
    }

    #[test]
    fn an_error_that_cannot_pass_is_not_tried_again() {
        let source = stutters(99, || io::Error::from(ErrorKind::PermissionDenied));
        assert!(source.read_at(0, &mut [0; 4]).is_err());
        assert_eq!(source.0.failures.get(), 98);
    }
}
