//! How a split folder came about: part of its manifest, and what `prepare` prints.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shared::split::{Manifest, Split};

use crate::settings::Settings;

/// How the rows came about; the manifest has it under `preparation`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preparation {
    /// Version of `prepare`
    pub program: String,
    /// What decided the rows
    pub settings: Settings,
    /// Digest of names, sizes and checksums of the input files
    pub fingerprint: String,
    /// Input files
    pub files: FileCounts,
    /// Files that were not usable
    pub bad_files: Vec<BadFileEntry>,
    /// Rows dropped since a flag or a pixel is not finite, by source
    pub dropped_rows: BTreeMap<String, u64>,
    /// Classes of each split, as chosen, without repeated images, and as written
    pub class_mix: BTreeMap<Split, ClassMix>,
    /// Repeated images; absent if images were not compared
    pub duplicates: Option<DuplicateReport>,
    /// Clusters of one event and true position in several sources: perhaps one event simulated twice
    pub event_collisions: Collisions,
}

/// Counts of input files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCounts {
    /// Files of the plane below the input folders
    pub found: u64,
    /// Files that rows come from
    pub used: u64,
    /// Rows of those files
    pub rows: u64,
    /// Rows beyond `--max-samples` in the last file
    pub cut: u64,
    /// Files by their number of metadata columns
    pub layouts: BTreeMap<usize, u64>,
    /// Files without event numbers, which a split by event keeps whole
    pub without_event: u64,
    /// Files with event numbers above 2^24, where f32 can't tell neighbours apart
    pub with_large_events: u64,
}

/// A file that was not usable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadFileEntry {
    /// Source name
    pub source: String,
    /// Why
    pub reason: String,
}

/// Rows and main tracks of one split along the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassMix {
    /// After the split
    pub chosen: Mix,
    /// After repeated images were left out
    pub without_repeats: Mix,
    /// After balancing
    pub written: Mix,
}

/// Rows, and how many of them are main tracks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    /// Rows
    pub rows: u64,
    /// Main tracks among them
    pub main_tracks: u64,
}

impl Mix {
    /// Count a row `times` times.
    pub fn add(&mut self, is_main_track: bool, times: u64) {
        self.rows += times;
        self.main_tracks += u64::from(is_main_track) * times;
    }

    fn share(self) -> f64 {
        100.0 * self.main_tracks as f64 / self.rows.max(1) as f64
    }
}

/// Repeated images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateReport {
    /// Distinct images
    pub images: u64,
    /// Rows whose image is in another row too
    pub repeated_rows: u64,
    /// Images that are a main track in one row and background in another
    pub conflicting_images: u64,
    /// Rows left out, by split
    pub left_out: BTreeMap<Split, u64>,
    /// Rows by their split and class, and by where else and as what their image is
    pub pairs: Vec<DuplicatePair>,
}

/// Rows of one split and class whose image is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicatePair {
    /// Where the rows are
    pub split: Split,
    /// Their class: `main_track` or `background`
    pub class: String,
    /// Where their image is too: a split, or `earlier_training` for `--against`
    pub also_in: String,
    /// As what: `main_track`, `background` or `both`
    pub as_class: String,
    /// How many
    pub rows: u64,
}

/// Equal (event, true position) in different sources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collisions {
    /// Distinct (event, true position) that several sources have
    pub positions: u64,
    /// Their rows
    pub rows: u64,
    /// Those of them that are in more than one split
    pub positions_across_splits: u64,
}

/// What `prepare` has done.
#[derive(Debug)]
pub enum Summary {
    /// A split folder was written
    Written(Box<Folder>),
    /// The folder was there already
    UpToDate(Box<Folder>),
    /// A phase is done
    Phase(String),
    /// What `inspect` found
    Inspected(String),
}

/// A finished split folder.
#[derive(Debug)]
pub struct Folder {
    /// Where it is
    pub path: PathBuf,
    /// Its manifest
    pub manifest: Manifest,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(folder) => write!(f, "wrote {folder}"),
            Self::UpToDate(folder) => write!(f, "up to date: {folder}"),
            Self::Phase(text) | Self::Inspected(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.manifest;
        let rows: u64 = m.splits.values().map(|split| split.rows).sum();
        write!(
            f,
            "{} ({rows} clusters of plane {}, {} × {})",
            self.path.display(),
            m.plane,
            m.height,
            m.width
        )?;
        for (split, summary) in &m.splits {
            let mix = Mix { rows: summary.rows, main_tracks: summary.main_tracks };
            let share = mix.share();
            write!(
                f,
                "\n  {split:<11}{:>10} rows {:>10} main tracks ({share:.1} %)",
                mix.rows, mix.main_tracks
            )?;
        }
        let preparation = serde_json::Value::Object(m.preparation.clone());
        match serde_json::from_value::<Preparation>(preparation) {
            Ok(preparation) => write!(f, "{preparation}"),
            Err(_) => Ok(()), // a folder of another version: the splits say enough
        }
    }
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = &self.files;
        write!(f, "\n  {} of {} files used", files.used, files.found)?;
        if files.without_event > 0 {
            write!(f, ", {} without event numbers, split as whole files", files.without_event)?;
        }
        if let Some(duplicates) = &self.duplicates {
            let left_out: u64 = duplicates.left_out.values().sum();
            write!(f, "\n  {} rows have repeated images; {left_out} left out", duplicates.repeated_rows)?;
            for (split, rows) in duplicates.left_out.iter().filter(|(_, rows)| **rows > 0) {
                let mix = &self.class_mix[split];
                let (before, after) = (mix.chosen.share(), mix.without_repeats.share());
                write!(f, "\n    {split}: {rows} (main tracks {before:.1} % → {after:.1} %)")?;
            }
        }
        let dropped: u64 = self.dropped_rows.values().sum();
        if dropped > 0 {
            write!(f, "\n  {dropped} rows dropped: a flag or a pixel is not finite")?;
        }
        if self.event_collisions.rows > 0 {
            let Collisions { positions, rows, .. } = self.event_collisions;
            write!(f, "\n  {rows} rows share {positions} (event, true position) across sources")?;
        }
        if !self.bad_files.is_empty() {
            write!(f, "\n  {} files not usable", self.bad_files.len())?;
        }
        for bad in self.bad_files.iter().take(20) {
            write!(f, "\n    {}: {}", bad.source, bad.reason)?;
        }
        if self.bad_files.len() > 20 {
            write!(f, "\n    … all in manifest.json")?;
        }
        Ok(())
    }
}
