//! One job at a time: lock files beside the work in progress, with the holder's process and a sign of life.
//!
//! A run of all phases holds `OUT.partial.lock`, a job of one phase `OUT.partial.lock-PHASE-IIII-of-NNNN`; the first
//! excludes every other, the second only the first and its like. No `flock`, which network disks don't all have:
//! a lock appears by a hard link and is broken by a rename, both of which only one process can do.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use shared::study::host::{self, Process};

use crate::Error;
use crate::scan::stop_if_asked;

/// Pause between signs of life.
const BEAT: Duration = Duration::from_secs(10);
/// A holder on another machine that gives no sign of life for so long is taken for dead.
const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(500);

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    /// The process as [`Process::text`] has it
    process: String,
}

/// A lock, given back when it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    text: String,
    /// Ends the signs of life when it is dropped
    _beat: Sender<()>,
}

impl Lock {
    /// Lock the work in `partial` for all phases, or for one share of a phase by its name.
    ///
    /// A holder on another machine gets time for a sign of life.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process is at work.
    pub fn take(partial: &Path, share: Option<&str>) -> Result<Self, Error> {
        let all = lock_path(partial, None);
        let path = lock_path(partial, share);
        let folder = partial.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let lock = Self::create(path)?;
        if share.is_some() {
            clear(&all, &lock.path)?;
        } else {
            for other in others(folder, &all)? {
                clear(&other, &lock.path)?;
            }
        }
        Ok(lock)
    }

    /// The lock of a run of all phases.
    pub fn path(partial: &Path) -> PathBuf {
        lock_path(partial, None)
    }

    fn create(path: PathBuf) -> Result<Self, Error> {
        let process = Process::this().text();
        let temporary = suffixed(&path, &format!(".{process}.tmp"));
        let holder = Holder { host: host::name(), pid: std::process::id(), process };
        let text = serde_json::to_string(&holder).unwrap_or_default();
        let attempt = |path: &Path| -> io::Result<()> {
            fs::write(&temporary, &text)?;
            let outcome = link(&temporary, path, &text);
            fs::remove_file(&temporary)?;
            outcome
        };
        loop {
            match attempt(&path) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => clear(&path, &path)?,
                Err(source) => return Err(Error::Write { path, source }),
            }
        }
        Ok(Self { _beat: beat(path.clone(), text.clone()), path, text })
    }

    /// Check that nobody took this process for dead.
    pub fn check(&self) -> Result<(), Error> {
        match fs::read_to_string(&self.path) {
            Ok(text) if text == self.text => Ok(()),
            _ => Err(Error::LostLock { path: self.path.clone() }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.check().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn lock_path(partial: &Path, share: Option<&str>) -> PathBuf {
    suffixed(partial, &share.map_or_else(|| ".lock".to_owned(), |share| format!(".lock-{share}")))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// Let a finished file appear under a name that nobody has; where the disk knows no links, make the file there.
fn link(temporary: &Path, path: &Path, text: &str) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            fs::File::create_new(path)?.write_all(text.as_bytes())
        }
        outcome => outcome,
    }
}

/// Write the lock's text again and again until the sender is dropped.
fn beat(path: PathBuf, text: String) -> Sender<()> {
    let (sender, end) = channel();
    std::thread::spawn(move || {
        while end.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
            // The text is rewritten and not just its time set, so that the time is the disk's own.
            let is_ours = fs::read_to_string(&path).is_ok_and(|found| found == text);
            let again =
                |file: io::Result<fs::File>| file.and_then(|mut file| file.write_all(text.as_bytes()));
            if is_ours && let Err(error) = again(fs::OpenOptions::new().write(true).open(&path)) {
                tracing::warn!("can't renew `{}`: {error}", path.display());
            }
        }
    });
    sender
}

/// Locks of one share of a phase, and what killed processes left of making one.
fn others(folder: &Path, all: &Path) -> Result<Vec<PathBuf>, Error> {
    let read_error = |source| Error::Read { path: folder.to_owned(), source };
    let prefix = all.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut locks = Vec::new();
    for entry in fs::read_dir(folder).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&prefix) else { continue };
        if let Some(rest) = rest.strip_suffix(".tmp") {
            let process = rest.rsplitn(4, '.').take(3).collect::<Vec<_>>();
            let process = process.into_iter().rev().collect::<Vec<_>>().join(".");
            if Process::parse(&process).is_some_and(|process| process.has_ended()) {
                let _ = fs::remove_file(entry.path());
            }
        } else if rest.starts_with('-') {
            locks.push(entry.path());
        }
    }
    Ok(locks)
}

/// Wait until a lock is free or known to be held; break it if its holder is dead.
///
/// `own` is the file for which this process wants it, to name the output in a message.
fn clear(path: &Path, own: &Path) -> Result<(), Error> {
    let began = SystemTime::now();
    let mut first = None;
    loop {
        let Some((text, touched)) = look(path)? else { return Ok(()) };
        let holder = serde_json::from_str::<Holder>(&text).ok();
        let process = holder.as_ref().and_then(|holder| Process::parse(&holder.process));
        let is_here = process.as_ref().is_some_and(Process::is_here);
        let has_ended = process.as_ref().is_some_and(Process::has_ended);
        let waited = began.elapsed().unwrap_or_default();
        if has_ended || (!is_here && waited >= PATIENCE) {
            return break_lock(path, &text);
        }
        if is_here || *first.get_or_insert(touched) != touched {
            let (host, pid) = holder.map_or(("unknown".into(), 0), |holder| (holder.host, holder.pid));
            return Err(Error::Busy { lock: path.to_owned(), host, pid });
        }
        if waited < POLL {
            tracing::info!("`{}` is held on another machine; waiting for a sign of life", own.display());
        }
        stop_if_asked("waiting for a lock", "nothing is lost")?;
        std::thread::sleep(POLL);
    }
}

/// A lock's text and when it was last written; none if there is no lock.
fn look(path: &Path) -> Result<Option<(String, SystemTime)>, Error> {
    let read = || -> io::Result<_> { Ok((fs::read_to_string(path)?, fs::metadata(path)?.modified()?)) };
    match read() {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Remove a dead process's lock, unless somebody else has done so and holds it now.
fn break_lock(path: &Path, dead: &str) -> Result<(), Error> {
    let aside = suffixed(path, &format!(".{}.tmp", Process::this().text()));
    let attempt = || -> io::Result<()> {
        fs::rename(path, &aside)?;
        if fs::read_to_string(&aside)? != dead {
            fs::hard_link(&aside, path)?;
        }
        fs::remove_file(&aside)
    };
    match attempt() {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
            Err(Error::Write { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, process: &str) {
        let holder = Holder { host: "elsewhere".into(), pid: 7, process: process.into() };
        fs::write(path, serde_json::to_string(&holder).unwrap()).unwrap();
    }

    #[test]
    fn a_run_excludes_all_and_shards_only_their_like() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("out.partial");
        let first = Lock::take(&partial, Some("scan-0000-of-0002")).unwrap();
        let second = Lock::take(&partial, Some("scan-0001-of-0002")).unwrap();
        assert!(matches!(Lock::take(&partial, Some("scan-0000-of-0002")), Err(Error::Busy { .. })));
        assert!(matches!(Lock::take(&partial, None), Err(Error::Busy { .. })));
        drop(first);
        assert!(matches!(Lock::take(&partial, None), Err(Error::Busy { .. })));
        drop(second);
        let whole = Lock::take(&partial, None).unwrap();
        let outcome = Lock::take(&partial, Some("write-0000-of-0001"));
        let message = outcome.unwrap_err().to_string();
        let lock = dir.path().join("out.partial.lock");
        let (pid, host) = (std::process::id(), host::name());
        assert_eq!(
            message,
            format!(
                "process {pid} on `{host}` is at work there, says `{}`; wait for it, or give another `--output`",
                lock.display()
            )
        );
        whole.check().unwrap();
        drop(whole);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_lock_of_a_process_that_has_ended_here_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("out.partial");
        let this = Process::this().text();
        let machine = this.split('.').next().unwrap();
        write(&lock_path(&partial, None), &format!("{machine}.4194305.1")); // beyond the largest pid
        write(
            &lock_path(&partial, Some("scan-0000-of-0001")),
            &format!("{machine}.{}.1", std::process::id()),
        );
        let litter = suffixed(&lock_path(&partial, None), &format!(".{machine}.4194305.1.tmp"));
        fs::write(litter, "").unwrap();
        drop(Lock::take(&partial, None).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_sign_of_life_from_elsewhere_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("out.partial");
        let path = lock_path(&partial, None);
        write(&path, "000000000000.7.1");
        let other = std::thread::spawn({
            let path = path.clone();
            move || {
                std::thread::sleep(Duration::from_millis(300));
                write(&path, "000000000000.7.1");
            }
        });
        let message = Lock::take(&partial, None).unwrap_err().to_string();
        other.join().unwrap();
        assert!(message.starts_with("process 7 on `elsewhere` is at work there, says "), "{message}");
        assert!(path.exists());
    }

    #[test]
    fn a_lock_that_another_has_taken_is_lost_and_stays_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("out.partial");
        let lock = Lock::take(&partial, None).unwrap();
        let path = lock_path(&partial, None);
        write(&path, "000000000000.7.1");
        let message = lock.check().unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "another process took `{}`, as this one gave no sign of life; start it again",
                path.display()
            )
        );
        drop(lock);
        assert!(path.exists());
    }

    #[test]
    fn breaking_a_lock_that_is_not_dead_any_more_puts_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.partial.lock");
        fs::write(&path, "living").unwrap();
        break_lock(&path, "dead").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "living");
        break_lock(&path, "living").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
