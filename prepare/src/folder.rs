//! Where results lie: work in progress in a neighbour of the output, which is renamed when it is complete.
//!
//! `OUT.partial/` has `job.json`, `scan-IIII-of-NNNN.{json,rows}`, `plan.json`, `plan.fates`,
//! `written-IIII-of-NNNN.json`, and the future output in `data/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::files::{self, FileError};
use shared::split::{MANIFEST, Manifest, Split};

use crate::Error;
use crate::args::{Phase, Shard};
use crate::lock::Lock;
use crate::settings::Settings;
use crate::summary::Preparation;

/// What a folder in progress is for; phases of other commands stay out of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Purpose {
    /// Version of this file's format
    pub schema_version: u32,
    /// What decides the rows
    pub settings: Settings,
    /// Digest of names and sizes of the input files
    pub inputs: String,
}

/// The output folder and its work in progress.
#[derive(Debug)]
pub struct Workplace {
    /// The folder to write
    pub output: PathBuf,
    partial: PathBuf,
}

impl Workplace {
    /// For an output folder.
    pub fn new(output: &Path) -> Self {
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        Self { output: output.to_owned(), partial: output.with_file_name(name) }
    }

    /// The manifest of a finished output.
    ///
    /// # Errors
    /// [`Error::NotOurs`] if something else is there.
    pub fn finished(&self) -> Result<Option<Manifest>, Error> {
        let manifest = self.output.join(MANIFEST);
        if manifest.is_file() {
            return Ok(Some(files::read_json(&manifest)?));
        }
        match fs::read_dir(&self.output).map(Iterator::count) {
            Ok(0) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(_) => Err(Error::NotOurs { path: self.output.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(Error::NotOurs { path: self.output.clone() })
            }
            Err(source) => Err(Error::Read { path: self.output.clone(), source }),
        }
    }

    /// Keep other jobs out, for all phases or for a shard of one.
    ///
    /// # Errors
    /// [`Error::Busy`]
    pub fn lock(&self, share: Option<(Phase, Shard)>) -> Result<Lock, Error> {
        let share = share.map(|(phase, shard)| format!("{}-{}", phase.name(), number(shard)));
        Lock::take(&self.partial, share.as_deref())
    }

    /// Whether work is in progress.
    pub fn is_begun(&self) -> bool {
        self.partial.join("job.json").is_file()
    }

    /// Begin, or go on if the work in progress has the same purpose; other work is thrown away.
    pub fn begin(&self, purpose: &Purpose) -> Result<(), Error> {
        if self.purpose().ok().as_ref() != Some(purpose) {
            self.forget()?;
            tracing::debug!("starting in `{}`", self.partial.display());
        }
        files::write_json(&self.partial.join("job.json"), purpose)?;
        Ok(())
    }

    /// Begin, or go on; other work in progress is an error.
    pub fn join(&self, purpose: &Purpose) -> Result<(), Error> {
        if !self.is_begun() {
            self.begin_together(purpose)?;
        }
        let begun = self.purpose()?;
        let difference = difference(&begun.settings, &purpose.settings)
            .or_else(|| (begun.inputs != purpose.inputs).then(|| "the input files differ".to_owned()));
        match difference {
            Some(difference) => Err(Error::OtherPhases { path: self.partial.clone(), difference }),
            None => Ok(()),
        }
    }

    /// Begin while other shards may be doing the same: a folder that has its purpose is put in place in one step, so
    /// the first wins and none removes what another has written.
    fn begin_together(&self, purpose: &Purpose) -> Result<(), Error> {
        let write_error = |source| Error::Write { path: self.partial.clone(), source };
        let beside = self.partial.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(beside).map_err(write_error)?;
        let name = self.partial.file_name().unwrap_or_default().to_string_lossy();
        let fresh = beside.join(format!(".{name}.{}.tmp", shared::study::journal::unique()));
        files::write_json(&fresh.join("job.json"), purpose)?;
        match fs::rename(&fresh, &self.partial) {
            Ok(()) => Ok(()),
            Err(_) if self.is_begun() => remove(&fresh),
            // A kill left a folder without its purpose.
            Err(_) => remove(&fresh).and_then(|()| self.begin(purpose)),
        }
    }

    /// Whether work in progress or a lock lies beside the output.
    pub fn has_leftovers(&self) -> bool {
        self.partial.exists() || Lock::path(&self.partial).exists()
    }

    /// Throw away what a kill left of the work behind a finished output.
    pub fn clean(&self, purpose: &Purpose) -> Result<(), Error> {
        let is_left = self.partial.is_dir() && !self.is_begun();
        if is_left || self.purpose().ok().as_ref() == Some(purpose) { self.forget() } else { Ok(()) }
    }

    fn purpose(&self) -> Result<Purpose, FileError> {
        files::read_json(&self.partial.join("job.json"))
    }

    /// Throw away the work in progress.
    pub fn forget(&self) -> Result<(), Error> {
        self.close()?;
        remove(&self.partial)
    }

    /// Forget what the work in progress is for, so that nobody goes on with what is left of it.
    fn close(&self) -> Result<(), Error> {
        remove(&self.partial.join("job.json"))
    }

    /// A scan's files: what it says of files, and the records of rows.
    pub fn scan(&self, shard: Shard) -> [PathBuf; 2] {
        ["json", "rows"].map(|end| self.partial.join(format!("scan-{}.{end}", number(shard))))
    }

    /// The plan, and the fates of its rows.
    pub fn plan(&self) -> [PathBuf; 2] {
        ["plan.json", "plan.fates"].map(|name| self.partial.join(name))
    }

    /// What a shard has written.
    pub fn written(&self, shard: Shard) -> PathBuf {
        self.partial.join(format!("written-{}.json", number(shard)))
    }

    /// The future output.
    pub fn data(&self) -> PathBuf {
        self.partial.join("data")
    }

    /// The number of shards of a phase that was begun: the least for which all are there, else any.
    pub fn shard_count(&self, phase: Phase) -> Result<u32, Error> {
        let name =
            |shard| if phase == Phase::Scan { self.scan(shard)[0].clone() } else { self.written(shard) };
        let all = |count| (0..count).map(move |index| Shard { index, count });
        let mut counts = self.counts(if phase == Phase::Scan { "scan-" } else { "written-" });
        counts.sort_unstable();
        counts.dedup();
        let complete = counts.iter().copied().find(|&count| all(count).all(|shard| name(shard).is_file()));
        let Some(count) = complete.or(counts.last().copied()) else {
            return Err(Error::MissingPhase { phase, path: name(Shard::WHOLE) });
        };
        match all(count).find(|&shard| !name(shard).is_file()) {
            Some(shard) => Err(Error::MissingShard { phase, shard, path: name(shard) }),
            None => Ok(count),
        }
    }

    fn counts(&self, prefix: &str) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(&self.partial) else { return Vec::new() };
        let count = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix(prefix)?.strip_suffix(".json")?.split_once("-of-")?.1.parse().ok()
        };
        entries.filter_map(count).collect()
    }

    /// Write the manifest into the future output and put that in the output's place.
    pub fn publish(&self, manifest: &Manifest) -> Result<(), Error> {
        let data = self.data();
        self.remove_strays(manifest)?;
        let write_error = |source| Error::Write { path: self.output.clone(), source };
        // Written outside: a temporary file that a kill leaves behind must not become part of the output.
        let outside = self.partial.join(MANIFEST);
        files::write_json(&outside, manifest)?;
        fs::rename(&outside, data.join(MANIFEST)).map_err(write_error)?;
        // From here on there is nothing to go on with: what a kill leaves is complete or is thrown away. Of several jobs
        // that end together, the one that removes the purpose publishes; the others fail here and find the output.
        fs::remove_file(self.partial.join("job.json")).map_err(write_error)?;
        let old = self.partial.join("replaced");
        if self.output.exists() {
            remove(&old)?;
            fs::rename(&self.output, &old).map_err(write_error)?;
        }
        fs::rename(&data, &self.output).map_err(write_error)?;
        self.forget()
    }

    /// Remove parts of an attempt with another number of shards.
    fn remove_strays(&self, manifest: &Manifest) -> Result<(), Error> {
        for split in Split::ALL {
            let folder = self.data().join(split.name());
            let Some(summary) = manifest.splits.get(&split) else {
                remove(&folder)?;
                continue;
            };
            let entries =
                fs::read_dir(&folder).map_err(|source| Error::Read { path: folder.clone(), source })?;
            for entry in entries.flatten() {
                if !summary.parts.iter().any(|part| entry.file_name() == *part.name) {
                    remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

fn number(shard: Shard) -> String {
    format!("{:04}-of-{:04}", shard.index, shard.count)
}

fn remove(path: &Path) -> Result<(), Error> {
    let outcome = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Write { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// In what a finished folder differs from what is asked for; `None` if in nothing.
pub fn difference_of(manifest: &Manifest, settings: &Settings, fingerprint: &str) -> Option<String> {
    let value = serde_json::Value::Object(manifest.preparation.clone());
    let Ok(preparation) = serde_json::from_value::<Preparation>(value) else {
        return Some("its manifest is of another version".to_owned());
    };
    difference(&preparation.settings, settings)
        .or_else(|| (preparation.fingerprint != fingerprint).then(|| "the input files differ".to_owned()))
}

/// The first setting that differs, and how.
fn difference(found: &Settings, wanted: &Settings) -> Option<String> {
    let object = |settings: &Settings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => serde_json::Map::new(),
    };
    let (found, wanted) = (object(found), object(wanted));
    let key = wanted.keys().find(|key| found.get(*key) != wanted.get(*key))?;
    let text = |object: &serde_json::Map<_, serde_json::Value>| {
        object.get(key).map_or_else(|| "absent".to_owned(), serde_json::Value::to_string)
    };
    Some(format!("`{key}` is {}, asked for is {}", text(&found), text(&wanted)))
}
