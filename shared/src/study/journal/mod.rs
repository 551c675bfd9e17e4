//! The journal: an append-only file of JSON lines in the format of Optuna's `JournalFileBackend`.
//!
//! Readers take no lock; a line that its writer has not finished is not looked at. Writers hold [`lock::Lock`]
//! while they read to the end, decide, and append, so that what they decide on is still true.

pub mod line;
pub mod lock;
pub mod replay;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::lock::Lock;
use self::replay::{LineError, Replay};

/// How much of a journal is read at once. The system hands out fresh memory slowly, so a few MB that are used again beat
/// one buffer for the whole file; and glibc keeps twice as much for this process from then on, so that a sampler which
/// needs 2 MB for every trial doesn't get them from the system each time.
const PIECE: u64 = 4 << 20;

/// A journal and what was read of it so far.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    replay: Replay,
    /// Bytes and lines read, up to the last whole line
    read: u64,
    lines: u64,
    /// Offset and length of half lines that stand before a whole one
    torn: Vec<(u64, u64)>,
}

/// A journal that can't be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum JournalError {
    #[error("can't read journal `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't write journal `{}`; nothing was added to it", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("line {line} of journal `{}` is broken: {reason}", path.display())]
    Broken { path: PathBuf, line: u64, reason: String },
    #[error(
        "line {line} of journal `{}` has operation {op}, which this program does not know; use a newer program",
        path.display()
    )]
    Newer { path: PathBuf, line: u64, op: u64 },
}

/// Whether an append must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In the file system's cache; a killed process loses nothing
    Cached,
    /// On the disk
    Synced,
}

impl Journal {
    /// A journal of which nothing was read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, replay: Replay::default(), read: 0, lines: 0, torn: Vec::new() }
    }

    /// Read what was added since the last time.
    ///
    /// # Errors
    /// [`JournalError`] names the line.
    pub fn sync(&mut self) -> Result<&Replay, JournalError> {
        let mut most = PIECE;
        loop {
            let (bytes, length) = self.unread(most)?;
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            for line in bytes[..whole].split_inclusive(|&byte| byte == b'\n') {
                self.apply(line)?;
            }
            let tail = (bytes.len() - whole) as u64;
            if self.read + tail >= length {
                return Ok(&self.replay);
            }
            if whole == 0 {
                most *= 2; // The line is longer than what was read of it.
            }
        }
    }

    /// What was read so far.
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// Under the lock: read to the end, let `decide` choose the lines to add, add them, read them back.
    ///
    /// # Errors
    /// Those of `decide`, and [`JournalError`].
    pub fn transact<T, E: From<JournalError>>(
        &mut self,
        durability: Durability,
        decide: impl FnOnce(&Replay) -> Result<(Vec<String>, T), E>,
    ) -> Result<T, E> {
        let lock = Lock::acquire(&self.path).map_err(|source| self.write_error(source))?;
        self.mend()?;
        let (lines, outcome) = decide(&self.replay)?;
        if !lines.is_empty() {
            self.append(&lines, durability).map_err(|source| self.write_error(source))?;
            self.sync()?;
        }
        drop(lock);
        Ok(outcome)
    }

    fn write_error(&self, source: io::Error) -> JournalError {
        JournalError::Write { path: self.path.clone(), source }
    }

    /// Bytes after those read so far, `most` at most, and how many bytes the file has.
    fn unread(&mut self, most: u64) -> Result<(Vec<u8>, u64), JournalError> {
        let attempt = || -> io::Result<(Vec<u8>, u64, u64)> {
            let mut file = match File::open(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0, 0)),
                file => file?,
            };
            let length = file.metadata()?.len();
            // A file that became shorter is another file: read it from the start.
            let from = if length < self.read { 0 } else { self.read };
            file.seek(SeekFrom::Start(from))?;
            let count = most.min(length - from);
            let mut bytes = Vec::with_capacity(count as usize);
            file.take(count).read_to_end(&mut bytes)?;
            Ok((bytes, from, length))
        };
        let (bytes, from, length) =
            patiently(attempt).map_err(|source| JournalError::Read { path: self.path.clone(), source })?;
        if from < self.read {
            *self = Self::new(self.path.clone());
        }
        Ok((bytes, length))
    }

    fn apply(&mut self, line: &[u8]) -> Result<(), JournalError> {
        let (path, number) = (&self.path, self.lines + 1);
        let broken = |reason: String| JournalError::Broken { path: path.clone(), line: number, reason };
        let text = std::str::from_utf8(line).map_err(|error| broken(error.to_string()))?;
        let mut outcome = self.replay.apply(text);
        // A writer died in the middle of a line and another one went on behind it.
        let tail = || text.rfind("{\"op_code\"").filter(|&at| !text[..at].trim_start_matches(' ').is_empty());
        if outcome.is_err()
            && let Some(at) = tail()
            && self.replay.apply(&text[at..]).is_ok()
        {
            self.torn.push((self.read, at as u64));
            outcome = Ok(());
        }
        match outcome {
            Ok(()) => {}
            Err(LineError::Broken(reason)) => return Err(broken(reason)),
            Err(LineError::Newer(op)) => {
                return Err(JournalError::Newer { path: path.clone(), line: number, op });
            }
        }
        self.read += line.len() as u64;
        self.lines = number;
        Ok(())
    }

    /// Blank what writers left that died within a line, so that the next line can follow it.
    ///
    /// Blanks before a JSON object are legal, no offset moves, and every reader goes on.
    fn mend(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        let (tail, length) = self.unread(u64::MAX)?;
        if tail.iter().any(|&byte| byte != b' ') {
            self.torn.push((length - tail.len() as u64, tail.len() as u64));
        }
        if self.torn.is_empty() {
            return Ok(());
        }
        tracing::warn!("mending the journal `{}`: a writer died within a line", self.path.display());
        let blank = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).open(&self.path)?;
            for &(offset, length) in &self.torn {
                file.seek(SeekFrom::Start(offset))?;
                file.write_all(&vec![b' '; length as usize])?;
            }
            Ok(())
        };
        blank().map_err(|source| self.write_error(source))?;
        self.torn.clear();
        Ok(())
    }

    fn append(&self, lines: &[String], durability: Durability) -> io::Result<()> {
        let mut text = lines.join("\n");
        text.push('\n');
        let open = || {
            let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (mut file, length) = patiently(open)?;
        let outcome = file.write_all(text.as_bytes()).and_then(|()| match durability {
            Durability::Synced => file.sync_data(),
            Durability::Cached => Ok(()),
        });
        if outcome.is_err() {
            let _ = file.set_len(length); // A full disk: half lines would only be in the way.
        }
        outcome
    }
}

/// Try again for a while what a network file system could not do since the file was another one by then (ESTALE).
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..25 {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
    attempt()
}

/// A text that no other process has, for names and worker ids.
pub fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let mut noise = [0_u8; 16];
    // Without a source of noise, time, process and count still differ.
    let _ = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut noise));
    let text = format!("{noise:?} {now} {} {count}", std::process::id());
    crate::files::digest(text.as_bytes())[..16].to_owned()
}

/// A path's journal.
pub fn path_in(study: &Path) -> PathBuf {
    study.join("journal.log")
}
