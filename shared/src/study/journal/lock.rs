//! The journal's lock: Optuna's, so that its workers and ours exclude each other.
//!
//! The lock is held by whoever could make `journal.log.lock`, a symbolic link, or a plain file where links
//! can't be made. Whoever sees the same lock for [`GRACE`] breaks it. Ours points at a file that belongs to the
//! process ([`Process`]), so a lock whose holder is gone from this machine is broken at once.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::study::host::Process;

/// How long a lock may stay untouched before it is broken; Optuna's 30 seconds.
pub const GRACE: Duration = Duration::from_secs(30);

/// Held until dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    identity: Identity,
}

/// Inode and the time of its last change: another lock under the same name has others.
type Identity = (u64, i64, i64);

impl Lock {
    /// Wait for the lock of a journal.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub fn acquire(journal: &Path) -> io::Result<Self> {
        let mut name = OsString::from(journal);
        name.push(".lock");
        let path = PathBuf::from(name);
        let mut seen: Option<(Identity, Option<i64>)> = None;
        let mut since = Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            match make(journal, &path) {
                Ok(()) => {
                    let identity = identity(&path)?;
                    return Ok(Self { path, identity });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            let Ok(identity) = identity(&path) else { continue };
            // As in Optuna, a touched target keeps the lock alive.
            let touched = fs::metadata(&path).ok().map(|meta| meta.mtime_nsec() ^ meta.mtime());
            if seen != Some((identity, touched)) {
                seen = Some((identity, touched));
                since = Instant::now();
            }
            let is_stale = since.elapsed() > GRACE;
            if is_stale || holder_is_gone(&path) {
                tracing::warn!("breaking the lock `{}`, which its holder left behind", path.display());
                remove(&path, identity);
                seen = None;
                continue;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        remove(&self.path, self.identity);
    }
}

fn make(journal: &Path, path: &Path) -> io::Result<()> {
    let target = Process::file_of(journal)?;
    match symlink(&target, path) {
        Err(error) if matches!(error.raw_os_error(), Some(1 | 38 | 95)) => {
            // No links here (EPERM, ENOSYS, EOPNOTSUPP): Optuna's other lock.
            OpenOptions::new().write(true).create_new(true).open(path).map(drop)
        }
        outcome => outcome,
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

fn holder_is_gone(path: &Path) -> bool {
    fs::read_link(path).ok().and_then(|target| Process::is_gone(&target)).unwrap_or(false)
}

/// Rename first, as Optuna does: of several that try, one succeeds.
fn remove(path: &Path, expected: Identity) {
    if identity(path).ok() != Some(expected) {
        return; // Broken by someone who waited too long: what is there now is not ours.
    }
    let mut aside = OsString::from(path);
    aside.push(format!("{}.rename", super::unique()));
    if fs::rename(path, &aside).is_ok() {
        let _ = fs::remove_file(&aside);
    }
}
