//! The journal's lock: Optuna's, so that its workers and ours exclude each other.
//!
//! The lock is held by whoever could make `journal.log.lock`, a symbolic link, or a plain file where links
//! can't be made. Whoever sees the same lock for [`GRACE`] breaks it. Ours points at a file that belongs to the
//! process ([`Process`]), so a lock whose holder is gone from this machine is broken at once, and one that a network
//! file system made although it said that it could not is known as ours.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::patiently;

use crate::study::host::Process;
use crate::study::litter;

/// How long a lock may stay untouched before it is broken; Optuna's 30 seconds.
pub const GRACE: Duration = Duration::from_secs(30);

/// Held until dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    identity: Identity,
    /// Given back after the lock
    _turn: Turn,
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
        let turn = Turn::take(&path);
        let target = patiently(|| Process::file_of(journal))?;
        let mut seen: Option<(Identity, Option<i64>)> = None;
        let mut since = Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            let is_made = match make(&target, &path) {
                Ok(()) => true,
                // On a network file system the answer to a request that was done may be lost or out of date; only one
                // thread of this process asks at a time, so a link to its own file is its lock.
                Err(error) if may_exist(&error) => fs::read_link(&path).is_ok_and(|found| found == target),
                Err(error) => return Err(error),
            };
            if is_made {
                let identity = patiently(|| identity(&path))?;
                return Ok(Self { path, identity, _turn: turn });
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

/// The right of one thread of this process to ask for a lock.
#[derive(Debug)]
struct Turn(PathBuf);

static TAKEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static GIVEN_BACK: Condvar = Condvar::new();

impl Turn {
    fn take(path: &Path) -> Self {
        // However the folder is spelled, it is the same one.
        let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
        let key = folder.map_or_else(|| path.to_owned(), |folder| folder.join("lock"));
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = GIVEN_BACK.wait_while(taken, |taken| taken.contains(&key));
        free.unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        Self(key)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        GIVEN_BACK.notify_all();
    }
}

/// Whether the lock may be there although it could not be made.
fn may_exist(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::StaleNetworkFileHandle)
}

fn make(target: &Path, path: &Path) -> io::Result<()> {
    match symlink(target, path) {
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
    if patiently(|| identity(path)).ok() != Some(expected) {
        return; // Broken by someone who waited too long: what is there now is not ours.
    }
    let aside = litter::temporary(path);
    if patiently(|| fs::rename(path, &aside)).is_ok() {
        let _ = patiently(|| fs::remove_file(&aside));
    }
}
