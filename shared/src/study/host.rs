//! Which process a file belongs to, and whether that process is gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use super::litter;

/// A process: its machine, its number there and when it started.
///
/// The text is `machine.pid.start`; the machine is the hash of boot id and pid namespace, so that a container with
/// the same host name is another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    machine: String,
    pid: u32,
    start: String,
}

impl Process {
    /// This process; without `/proc` its machine is unique, so nobody takes it for gone.
    pub fn this() -> &'static Self {
        static THIS: OnceLock<Process> = OnceLock::new();
        THIS.get_or_init(|| {
            let pid = std::process::id();
            let machine = machine().unwrap_or_else(super::journal::unique);
            Self { machine, pid, start: start_of(pid).unwrap_or_else(|| "0".into()) }
        })
    }

    /// Read what [`Self::text`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (machine, pid, start) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        parts.next().is_none().then(|| Self { machine: machine.into(), pid, start: start.into() })
    }

    /// The process as text.
    pub fn text(&self) -> String {
        format!("{}.{}.{}", self.machine, self.pid, self.start)
    }

    /// Whether the process runs or ran on this machine.
    pub fn is_here(&self) -> bool {
        self.machine == Self::this().machine
    }

    /// Whether the process ran on this machine and no longer does; a process elsewhere is never known to be gone.
    pub fn has_ended(&self) -> bool {
        self.is_here() && start_of(self.pid).is_none_or(|start| start != self.start)
    }

    /// The file of this process beside a journal, as a path relative to the journal's folder.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub(super) fn file_of(journal: &Path) -> io::Result<PathBuf> {
        static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
        let relative = PathBuf::from(FOLDER).join(Self::this().text());
        let path = journal.with_file_name("").join(&relative);
        let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_known = made.contains(&path);
        if !is_known || !path.exists() {
            let folder = path.with_file_name("");
            fs::create_dir_all(&folder)?;
            fs::write(&path, "")?;
            if !is_known {
                let now = fs::metadata(&path)?.modified()?;
                litter::sweep_processes(&folder, now);
                litter::sweep(&journal.with_file_name(""), now);
                made.push(path);
            }
        }
        Ok(relative)
    }

    /// Whether the process that a lock's target belongs to is gone; none if that can't be known.
    pub(super) fn is_gone(target: &Path) -> Option<bool> {
        if target.parent()?.file_name()? != FOLDER {
            return None;
        }
        Some(Self::parse(target.file_name()?.to_str()?)?.has_ended())
    }
}

/// Folder of the processes' files, beside the journal.
const FOLDER: &str = ".workers";

/// Name of this machine for people.
pub fn name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}

fn machine() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    let text = format!("{}{}", boot.trim(), namespace.display());
    Some(crate::files::digest(text.as_bytes())[..12].to_owned())
}

/// Start of a process in clock ticks since boot; none if there is none, or only its remains.
fn start_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything; fields count from 3 behind it.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19).map(|start| (*start).to_owned())
}
