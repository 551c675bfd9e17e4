//! Second phase: decide for every row which split gets it, and how often.
//!
//! Per row the plan holds one byte, and 16 bytes of image digest while images are compared; everything else
//! is read again from the scan's records.

mod balance;
mod collisions;
mod repeats;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::config::Balance;
use shared::split::Split;

use crate::Error;
use crate::args::{BalanceScope, SplitBy};
use crate::records::{Record, RecordReader};
use crate::scan::{Scanned, choice_order, fingerprint};
use crate::settings::{Job, Settings};
use crate::summary::{BadFileEntry, ClassMix, Collisions, FileCounts, Mix, Preparation};

/// What becomes of a row, in one byte: split, label, whether it is used, and whether it has one more copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate(u8);

impl Fate {
    const UNUSED: u8 = 4;
    const EXTRA: u8 = 8;
    const MAIN: u8 = 16;

    fn new(split: Split, is_main_track: bool) -> Self {
        Self(split as u8 | (u8::from(is_main_track) * Self::MAIN))
    }

    /// From a byte of the fates' file.
    pub fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The split, if the row is used.
    pub fn split(self) -> Option<Split> {
        (self.0 & Self::UNUSED == 0).then(|| Split::ALL[usize::from(self.0 & 3).min(2)])
    }

    /// The label.
    pub fn is_main_track(self) -> bool {
        self.0 & Self::MAIN != 0
    }

    /// How often the row is written.
    pub fn copies(self, copies: &Copies) -> u64 {
        let Some(split) = self.split() else { return 0 };
        copies[split as usize][usize::from(self.is_main_track())] + u64::from(self.0 & Self::EXTRA != 0)
    }
}

/// How often each row of a split and class is written at least: `[split][class]`.
pub type Copies = [[u64; 2]; 3];

/// A file whose rows are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Source name
    pub source: String,
    /// Where it is
    pub path: PathBuf,
    /// CRC-32 of `images` and `metadata` when it was scanned
    pub crc: [u32; 2],
    /// Its rows
    pub rows: u64,
    /// Position of its first fate
    pub fates_at: u64,
    /// Rows to write, copies counted
    pub written: u64,
}

/// What to write.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this file's format
    pub schema_version: u32,
    /// Files in the order of their sources
    pub files: Vec<PlannedFile>,
    /// How often rows are written at least
    pub copies: Copies,
    /// How this came about
    pub preparation: Preparation,
}

/// A file with the records of its rows.
struct Input {
    file: Scanned,
    /// Index into the record files
    shard: usize,
    /// Rows that `--max-samples` takes
    take: u64,
    /// Position of its first fate
    fates_at: u64,
}

/// The chosen files, and the records of their rows.
struct Inputs<'a> {
    settings: &'a Settings,
    files: Vec<Input>,
    records: Vec<PathBuf>,
}

/// Decide the fate of every row of the scanned shards, whose records lie in `records`.
pub fn plan(job: &Job, scans: Vec<Vec<Scanned>>, records: Vec<PathBuf>) -> Result<(Plan, Vec<u8>), Error> {
    let settings = &job.settings;
    let mut files = Vec::new();
    for (shard, scan) in scans.into_iter().enumerate() {
        files.extend(scan.into_iter().map(|file| (shard, file)));
    }
    let mut preparation = describe(&files, settings);
    let inputs = Inputs::choose(files, settings, records);
    inputs.count(&mut preparation);

    let mut fates = inputs.split(&mut preparation)?;
    check_splits(&preparation, settings)?;
    if settings.compares_images() {
        let report = repeats::leave_out(&inputs, &mut fates, job.against.as_ref())?;
        preparation.duplicates = Some(report);
    }
    let without_repeats = mixes(&fates, &ONCE);
    let copies = inputs.balance(&mut fates, &without_repeats)?;
    note_mixes(&mut preparation, &without_repeats, &mixes(&fates, &copies))?;
    preparation.event_collisions = collisions::count(&inputs, &fates)?;
    let plan = Plan {
        schema_version: shared::SCHEMA_VERSION,
        files: inputs.planned(&fates, &copies),
        copies,
        preparation,
    };
    Ok((plan, fates))
}

const ONCE: Copies = [[1; 2]; 3];

/// What is known before rows are looked at.
fn describe(files: &[(usize, Scanned)], settings: &Settings) -> Preparation {
    let bad = |file: &Scanned| {
        let reason = file.found.bad.clone()?;
        Some(BadFileEntry { source: file.found.source.clone(), reason })
    };
    let all: Vec<Scanned> = files.iter().map(|(_, file)| file.clone()).collect();
    Preparation {
        program: format!("prepare {}", env!("CARGO_PKG_VERSION")),
        settings: settings.clone(),
        fingerprint: fingerprint(&all, settings),
        files: FileCounts { found: files.len() as u64, ..FileCounts::default() },
        bad_files: all.iter().filter_map(bad).collect(),
        dropped_rows: BTreeMap::new(),
        class_mix: settings.splits().into_iter().map(|split| (split, ClassMix::default())).collect(),
        duplicates: None,
        event_collisions: Collisions::default(),
    }
}

/// Rows and main tracks of each split.
fn mixes(fates: &[u8], copies: &Copies) -> [Mix; 3] {
    let mut mixes = [Mix::default(); 3];
    for fate in fates.iter().copied().map(Fate) {
        if let Some(split) = fate.split() {
            mixes[split as usize].add(fate.is_main_track(), fate.copies(copies));
        }
    }
    mixes
}

/// Write down the class mix after each step; a split of which nothing is left is an error.
fn note_mixes(
    preparation: &mut Preparation,
    without_repeats: &[Mix; 3],
    written: &[Mix; 3],
) -> Result<(), Error> {
    for (&split, mix) in &mut preparation.class_mix {
        mix.without_repeats = without_repeats[split as usize];
        mix.written = written[split as usize];
        if mix.written.rows == 0 {
            return Err(Error::AllRepeated { split, rows: mix.chosen.rows });
        }
    }
    Ok(())
}

fn check_splits(preparation: &Preparation, settings: &Settings) -> Result<(), Error> {
    let rows = preparation.class_mix.values().map(|mix| mix.chosen.rows).sum();
    let by = match settings.split_by {
        SplitBy::Event => "event",
        SplitBy::File => "file",
        SplitBy::Cluster => "cluster",
    };
    let empty = preparation.class_mix.iter().find(|(_, mix)| mix.chosen.rows == 0);
    empty.map_or(Ok(()), |(&split, _)| Err(Error::EmptySplit { split, rows, by }))
}

impl<'a> Inputs<'a> {
    /// Usable files in the order of their sources, cut at `--max-samples`.
    fn choose(files: Vec<(usize, Scanned)>, settings: &'a Settings, records: Vec<PathBuf>) -> Self {
        let all: Vec<Scanned> = files.iter().map(|(_, file)| file.clone()).collect();
        let mut takes = vec![0; all.len()];
        let mut left = settings.max_samples.unwrap_or(u64::MAX);
        for index in choice_order(&all, settings) {
            if let Some(rows) = all[index].rows() {
                takes[index] = rows.min(left);
                left -= takes[index];
            }
        }
        let mut fates_at = 0;
        let mut chosen = Vec::new();
        for ((shard, file), take) in files.into_iter().zip(takes) {
            let rows = file.rows().unwrap_or(0);
            if take > 0 {
                chosen.push(Input { file, shard, take, fates_at });
                fates_at += rows;
            }
        }
        Self { settings, files: chosen, records }
    }

    fn count(&self, preparation: &mut Preparation) {
        let counts = &mut preparation.files;
        for Input { file, take, .. } in &self.files {
            let Some(probe) = file.probe else { continue };
            counts.used += 1;
            counts.rows += probe.rows;
            counts.cut += probe.rows - take;
            *counts.layouts.entry(probe.columns).or_default() += 1;
            counts.without_event += u64::from(!probe.has_event);
            counts.with_large_events += u64::from(file.has_large_events);
            if file.dropped > 0 {
                preparation.dropped_rows.insert(file.found.source.clone(), file.dropped);
            }
        }
    }

    /// Give every row with its file and fate's position to `each`.
    fn each_row(&self, mut each: impl FnMut(&Input, u64, usize, Record)) -> Result<(), Error> {
        let mut open: Option<(usize, RecordReader)> = None;
        for input in &self.files {
            let path = &self.records[input.shard];
            let read_error = |source: io::Error| Error::Read { path: path.clone(), source };
            let reader = match &mut open {
                Some((shard, reader)) if *shard == input.shard => reader,
                _ => &mut open.insert((input.shard, RecordReader::open(path).map_err(read_error)?)).1,
            };
            reader.seek(input.file.records_at.unwrap_or(0)).map_err(read_error)?;
            for row in 0..input.take {
                let record = reader.next().map_err(read_error)?;
                each(input, row, (input.fates_at + row) as usize, record);
            }
        }
        Ok(())
    }

    /// Choose a split for every row by a seeded hash of what stays together.
    fn split(&self, preparation: &mut Preparation) -> Result<Vec<u8>, Error> {
        let rows = self.files.last().map_or(0, |last| last.fates_at + last.file.rows().unwrap_or(0));
        let mut fates = vec![Fate::UNUSED; rows as usize];
        let mut last: Option<(Vec<u8>, Split)> = None;
        self.each_row(|input, row, at, record| {
            if record.is_dropped {
                return;
            }
            let key = self.key(input, row, &record);
            let split = match &last {
                Some((last, split)) if *last == key => *split,
                _ => split_of(&key, self.settings),
            };
            last = Some((key, split));
            let fate = Fate::new(split, record.is_main_track);
            fates[at] = fate.0;
            if let Some(mix) = preparation.class_mix.get_mut(&split) {
                mix.chosen.add(fate.is_main_track(), 1);
            }
        })?;
        Ok(fates)
    }

    /// What decides a row's split.
    fn key(&self, input: &Input, row: u64, record: &Record) -> Vec<u8> {
        let named = |name: &str, number: Option<[u8; 8]>| {
            let mut key = name.as_bytes().to_vec();
            key.push(0);
            key.extend(number.iter().flatten());
            key
        };
        let found = &input.file.found;
        match self.settings.split_by {
            SplitBy::Event => named(&found.stem, record.event.map(i64::to_le_bytes)),
            SplitBy::File => named(&found.stem, None),
            SplitBy::Cluster => named(&found.source, Some(row.to_le_bytes())),
        }
    }

    fn balance(&self, fates: &mut [u8], mixes: &[Mix; 3]) -> Result<Copies, Error> {
        let mut copies = ONCE;
        if self.settings.balance == Balance::None {
            return Ok(copies);
        }
        for split in self.settings.splits() {
            if split == Split::Train || self.settings.balance_scope == BalanceScope::All {
                let mix = mixes[split as usize];
                copies[split as usize] = balance::balance(self, fates, split, mix)?;
            }
        }
        Ok(copies)
    }

    fn planned(&self, fates: &[u8], copies: &Copies) -> Vec<PlannedFile> {
        let planned = |input: &Input| {
            let probe = input.file.probe?;
            let start = input.fates_at as usize;
            let fates = &fates[start..start + probe.rows as usize];
            Some(PlannedFile {
                source: input.file.found.source.clone(),
                path: input.file.found.path.clone(),
                crc: probe.crc,
                rows: probe.rows,
                fates_at: input.fates_at,
                written: fates.iter().map(|&fate| Fate(fate).copies(copies)).sum(),
            })
        };
        self.files.iter().filter_map(planned).filter(|file| file.written > 0).collect()
    }
}

/// The split of a key: a number in [0, 1) from its hash, against the fractions one after the other.
fn split_of(key: &[u8], settings: &Settings) -> Split {
    if let Some(only) = settings.only {
        return only;
    }
    let hash = shared::random::hash(settings.seed, "prepare split", key);
    let total: f64 = settings.fractions.iter().sum();
    let mut left = (hash >> 11) as f64 / (1_u64 << 53) as f64 * total;
    let mut chosen = Split::Train;
    for (split, fraction) in Split::ALL.into_iter().zip(settings.fractions) {
        if fraction > 0.0 {
            chosen = split;
            if left < fraction {
                break;
            }
        }
        left -= fraction;
    }
    chosen
}

/// Read a plan and check that its fates are all there.
pub fn read(plan: &Path) -> Result<Plan, Error> {
    Ok(shared::files::read_json(plan)?)
}
