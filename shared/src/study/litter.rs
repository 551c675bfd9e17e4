//! What killed processes leave in a study: temporary files that never got their name.
//!
//! A temporary file is called `.NAME.PROCESS.NOISE.tmp`. That of a process of this machine which has ended is removed at
//! once; of any other one only its age tells, by the clock of the file server, since its writer may live elsewhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::host::Process;
use super::journal;

/// Age from which on a temporary file has no writer any more; the files of a study are written within seconds.
const OLD: Duration = Duration::from_hours(1);
/// Age from which on the file of a process elsewhere is removed; it makes a new one if it still lives.
const OLD_PROCESS: Duration = Duration::from_hours(7 * 24);

/// A temporary neighbour of a file, named after this process.
pub(in crate::study) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.{}.tmp", Process::this().text(), journal::unique()))
}

/// Remove the temporary files in a folder whose writers are gone; not those in folders below.
///
/// - `now`: the present by the clock of the file server
pub(super) fn sweep(folder: &Path, now: SystemTime) {
    remove_if(folder, now, |name| {
        // Optuna moves its locks aside under such a name.
        let of_optuna = name.starts_with("journal.log.lock") && name.ends_with(".rename");
        let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
        (of_optuna || inner.is_some()).then(|| (inner.and_then(writer), OLD))
    });
}

/// Remove the files that stand for processes which have ended.
pub(super) fn sweep_processes(folder: &Path, now: SystemTime) {
    remove_if(folder, now, |name| match name.strip_suffix(".probe") {
        Some(process) => Some((Process::parse(process), OLD)),
        None => Process::parse(name).map(|process| (Some(process), OLD_PROCESS)),
    });
}

/// The process in `NAME.PROCESS.NOISE`; none in names that carry no process.
fn writer(name: &str) -> Option<Process> {
    let mut parts = name.rsplitn(5, '.').skip(1);
    let (start, pid, machine) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next()?;
    Process::parse(&format!("{machine}.{pid}.{start}"))
}

/// Remove the files that `judge` knows, by their process or by their age.
fn remove_if(folder: &Path, now: SystemTime, judge: impl Fn(&str) -> Option<(Option<Process>, Duration)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((process, limit)) = name.to_str().and_then(&judge) else { continue };
        let ended = process.is_some_and(|process| process.has_ended());
        let age = |path: &Path| -> io::Result<Duration> {
            let touched = fs::symlink_metadata(path)?.modified()?;
            Ok(now.duration_since(touched).unwrap_or_default())
        };
        if ended || age(&entry.path()).is_ok_and(|age| age > limit) {
            let _ = fs::remove_file(entry.path()); // Another process may have been faster.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn make(folder: &Path, name: &str, age: u64) {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    /// A process of this machine that has ended.
    fn ended() -> String {
        let this = Process::this().text();
        format!("{}.{}.1", this.split('.').next().unwrap(), std::process::id())
    }

    #[test]
    fn only_files_without_a_writer_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (this, elsewhere) = (Process::this().text(), "0123456789ab.7.99");
        make(folder.path(), &format!(".checkpoint.safetensors.{}.abc.tmp", ended()), 0);
        make(folder.path(), &format!(".model.onnx.{elsewhere}.old.tmp"), 3700);
        make(folder.path(), ".history.csv.X1y2Z3.tmp", 3700);
        make(folder.path(), "journal.log.lock0d1e.rename", 3700);
        let kept = [
            format!(".checkpoint.safetensors.{this}.abc.tmp"),
            ".history.csv.A1y2Z3.tmp".to_owned(),
            format!(".model.onnx.{elsewhere}.new.tmp"),
            "checkpoint.safetensors".to_owned(),
            "notes.tmp".to_owned(),
        ];
        for (name, age) in kept.iter().zip([0, 60, 60, 9_000, 9_000]) {
            make(folder.path(), name, age);
        }
        sweep(folder.path(), SystemTime::now());
        assert_eq!(names(folder.path()), kept);
    }

    #[test]
    fn processes_elsewhere_are_forgotten_after_a_week() {
        let folder = tempfile::tempdir().unwrap();
        let week = 7 * 24 * 3600;
        make(folder.path(), &ended(), 0);
        make(folder.path(), &format!("{}.probe", ended()), 0);
        make(folder.path(), "0123456789ab.7.98", week + 60);
        make(folder.path(), "0123456789ab.7.98.probe", 3700);
        let mut kept = [Process::this().text(), "0123456789ab.7.99".into(), "0123456789ab.7.99.probe".into()];
        for (name, age) in kept.iter().zip([week - 60, week - 60, 60]) {
            make(folder.path(), name, age);
        }
        kept.sort();
        sweep_processes(folder.path(), SystemTime::now());
        assert_eq!(names(folder.path()), kept);
    }

    #[test]
    fn a_temporary_name_tells_its_process() {
        let path = temporary(Path::new("trials/0001/result.json"));
        let name = path.file_name().unwrap().to_str().unwrap();
        let inner = name.strip_prefix('.').unwrap().strip_suffix(".tmp").unwrap();
        assert_eq!(writer(inner).as_ref(), Some(Process::this()));
        assert_eq!(path.parent(), Some(Path::new("trials/0001")));
    }
}
