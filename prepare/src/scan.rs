//! First phase: look into every file, and write down what a plan needs of every row.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::SyncSender;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use shared::files;

use crate::Error;
use crate::bad_file::BadFile;
use crate::clusters::{Block, ClusterFile};
use crate::discover::Found;
use crate::layout::Truth;
use crate::pool::Pool;
use crate::records::{Record, RecordWriter};
use crate::settings::{Job, Settings};

/// What the directory and the headers of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Clusters
    pub rows: u64,
    /// Metadata columns
    pub columns: usize,
    /// CRC-32 of `images` and `metadata`
    pub crc: [u32; 2],
    /// Whether the rows name their event
    pub has_event: bool,
}

/// A file and what is known of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scanned {
    /// Where it is
    #[serde(flatten)]
    pub found: Found,
    /// What its headers say; `None` where it was not looked at or could not be
    pub probe: Option<Probe>,
    /// Number of its first record; `None` where its rows were not needed
    pub records_at: Option<u64>,
    /// Rows dropped since a flag or a pixel is not finite
    pub dropped: u64,
    /// Whether an event number is beyond what f32 can tell apart
    pub has_large_events: bool,
}

impl Scanned {
    fn new(found: Found) -> Self {
        Self { found, probe: None, records_at: None, dropped: 0, has_large_events: false }
    }

    /// Rows, if the file is usable as far as is known.
    pub fn rows(&self) -> Option<u64> {
        self.probe.filter(|_| self.found.bad.is_none()).map(|probe| probe.rows)
    }
}

/// The result of scanning a shard.
#[derive(Debug, Serialize, Deserialize)]
pub struct Scan {
    /// Version of this file's format
    pub schema_version: u32,
    /// Whether images were read, so that all flaws are known
    pub with_images: bool,
    /// Files in the order of their sources
    pub files: Vec<Scanned>,
}

/// Files in the order in which `--max-samples` takes them: that of a seeded hash of their stems.
pub fn choice_order(files: &[Scanned], settings: &Settings) -> Vec<usize> {
    let hash =
        |file: &Scanned| shared::random::hash(settings.seed, "prepare choose", file.found.stem.as_bytes());
    let mut order: Vec<usize> = (0..files.len()).collect();
    if settings.max_samples.is_some() {
        order.sort_by_cached_key(|&index| (hash(&files[index]), files[index].found.source.clone()));
    }
    order
}

/// Look at the headers of all files, or of as many as `--max-samples` needs.
pub fn probe(found: Vec<Found>, job: &Job) -> Result<Vec<Scanned>, Error> {
    let mut files: Vec<_> = found.into_iter().map(Scanned::new).collect();
    extend_probes(&mut files, job)?;
    Ok(files)
}

/// Probe further files until the usable ones have enough rows.
fn extend_probes(files: &mut [Scanned], job: &Job) -> Result<(), Error> {
    const WINDOW: usize = 64;
    let settings = &job.settings;
    let is_waiting = |&index: &usize| files[index].probe.is_none() && files[index].found.bad.is_none();
    let order: Vec<usize> = choice_order(files, settings).into_iter().filter(is_waiting).collect();
    let mut rows: u64 = files.iter().filter_map(Scanned::rows).sum();
    let is_enough = |rows| settings.max_samples.is_some_and(|limit| rows >= limit);
    std::thread::scope(|scope| {
        let pool = Pool::new(scope, job.threads.max(8)); // a network disk answers many at once
        for window in order.chunks(WINDOW) {
            stop_if_asked("looking at the files", "nothing is kept")?;
            if is_enough(rows) {
                break;
            }
            for (index, outcome) in probe_window(&pool, files, window, settings) {
                // Probes past the limit are forgotten, so that the result does not depend on the window.
                if is_enough(rows) {
                    break;
                }
                match outcome {
                    Ok(probe) => {
                        files[index].probe = Some(probe);
                        rows += probe.rows;
                    }
                    Err(bad) => files[index].found.bad = Some(bad.reason()),
                }
            }
        }
        Ok(())
    })
}

fn probe_window<'env>(
    pool: &Pool<'env>,
    files: &[Scanned],
    window: &[usize],
    settings: &'env Settings,
) -> Vec<(usize, Result<Probe, BadFile>)> {
    let begin = |&index: &usize| {
        let path = files[index].found.path.clone();
        let receiver = pool.submit(1, move |sender: &SyncSender<_>| {
            let _ = sender.send(ClusterFile::open(&path, settings).map(|file| probe_of(&file)));
        });
        (index, receiver)
    };
    let begun: Vec<_> = window.iter().map(begin).collect();
    begun.into_iter().filter_map(|(index, receiver)| Some((index, receiver.recv().ok()?))).collect()
}

/// What the headers of an opened file say.
pub fn probe_of<R: crate::npz::ReadAt>(file: &ClusterFile<R>) -> Probe {
    let contents = file.contents();
    Probe {
        rows: contents.rows(),
        columns: file.layout().columns,
        crc: contents.crc,
        has_event: file.layout().has_event(),
    }
}

/// Digest of what the files hold: names and sizes of all, and rows and checksums of those that are chosen.
///
/// It depends neither on where the files are nor on when they were written.
pub fn fingerprint(files: &[Scanned], settings: &Settings) -> String {
    let mut text = String::new();
    for file in files {
        let _ = writeln!(text, "{}\t{}", file.found.source, file.found.size);
    }
    let mut rows = 0;
    for index in choice_order(files, settings) {
        if settings.max_samples.is_some_and(|limit| rows >= limit) {
            break;
        }
        if let Some(probe) = files[index].probe {
            let _ = writeln!(text, "{}\t{}\t{:?}", files[index].found.source, probe.rows, probe.crc);
            rows += probe.rows;
        }
    }
    files::digest(text.as_bytes())
}

/// Read the rows of all chosen files and write their records.
///
/// Where a chosen file turns out bad and `--max-samples` is short by its rows, further files are chosen.
pub fn scan(mut files: Vec<Scanned>, job: &Job, with_images: bool, records: &Path) -> Result<Scan, Error> {
    let write_error = |source| Error::Write { path: records.to_owned(), source };
    let mut writer = RecordWriter::create(records).map_err(write_error)?;
    let total = files.iter().filter_map(Scanned::rows).sum();
    let bar = shared::progress::bar(
        job.settings.max_samples.map_or(total, |n| total.min(n)),
        "scanning",
        "clusters",
    );
    loop {
        let chosen = chosen(&files, &job.settings);
        let new: Vec<_> = chosen.into_iter().filter(|&index| files[index].records_at.is_none()).collect();
        if new.is_empty() {
            break;
        }
        scan_files(&mut files, &new, job, with_images, &mut writer, &bar)?;
        extend_probes(&mut files, job)?;
    }
    bar.finish_and_clear();
    writer.finish().map_err(write_error)?;
    Ok(Scan { schema_version: shared::SCHEMA_VERSION, with_images, files })
}

/// Usable files up to `--max-samples`, in the order of their sources.
fn chosen(files: &[Scanned], settings: &Settings) -> BTreeSet<usize> {
    let mut rows = 0;
    let mut chosen = BTreeSet::new();
    for index in choice_order(files, settings) {
        if settings.max_samples.is_some_and(|limit| rows >= limit) {
            break;
        }
        if let Some(n) = files[index].rows() {
            rows += n;
            chosen.insert(index);
        }
    }
    chosen
}

/// What a worker tells of a file: blocks of records, then whether the file is sound.
enum Message {
    Records(Vec<Record>),
    End(Result<(), BadFile>),
}

fn scan_files(
    files: &mut [Scanned],
    indices: &[usize],
    job: &Job,
    with_images: bool,
    writer: &mut RecordWriter,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let paths: Vec<_> = indices.iter().map(|&index| files[index].found.path.clone()).collect();
    let settings = &job.settings;
    std::thread::scope(|scope| {
        let pool = Pool::new(scope, job.threads);
        let mut waiting = paths.iter();
        let mut begun = VecDeque::new();
        for &index in indices {
            while begun.len() < 2 * job.threads {
                let Some(path) = waiting.next() else { break };
                begun.push_back(pool.submit(4, move |sender| scan_file(path, settings, with_images, sender)));
            }
            let Some(messages) = begun.pop_front() else { break };
            let file = &mut files[index];
            let first = writer.count;
            file.records_at = Some(first);
            for message in messages {
                stop_if_asked("scanning", "nothing of the scan is kept")?;
                match message {
                    Message::Records(records) => {
                        bar.inc(records.len() as u64);
                        file.note(&records);
                        push(writer, &records, file)?;
                    }
                    Message::End(Ok(())) => {}
                    Message::End(Err(bad)) => file.refuse(&bad, first, writer)?,
                }
            }
        }
        Ok(())
    })
}

fn push(writer: &mut RecordWriter, records: &[Record], file: &Scanned) -> Result<(), Error> {
    let path = || Path::new("records of the scan").join(&file.found.source);
    writer.push(records).map_err(|source: io::Error| Error::Write { path: path(), source })
}

impl Scanned {
    fn note(&mut self, records: &[Record]) {
        const F32_INTEGERS: u64 = 1 << 24;
        self.dropped += records.iter().filter(|record| record.is_dropped).count() as u64;
        let is_large =
            |record: &Record| record.event.is_some_and(|event| event.unsigned_abs() > F32_INTEGERS);
        self.has_large_events |= records.iter().any(is_large);
    }

    /// Take back what was noted and written of a file that turns out bad, from its first record on.
    fn refuse(&mut self, bad: &BadFile, first: u64, writer: &mut RecordWriter) -> Result<(), Error> {
        self.found.bad = Some(bad.reason());
        (self.dropped, self.has_large_events) = (0, false);
        writer.truncate(first).map_err(|source| Error::Write { path: self.found.path.clone(), source })
    }
}

fn scan_file(path: &Path, settings: &Settings, with_images: bool, sender: &SyncSender<Message>) {
    let mut scratch = Vec::new();
    let outcome = ClusterFile::open(path, settings).and_then(|file| {
        file.read(with_images, |block| {
            match sender.send(Message::Records(records(&block, with_images, &mut scratch))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })
    });
    let _ = sender.send(Message::End(outcome));
}

fn records(block: &Block, with_images: bool, scratch: &mut Vec<u8>) -> Vec<Record> {
    let mut image = 0;
    let mut record = |truth: &Option<Truth>| {
        let Some(truth) = truth else { return Record { is_dropped: true, ..Record::default() } };
        let digest = if with_images { block.images.get(image).digest(scratch) } else { [0; 16] };
        image += 1;
        Record {
            is_dropped: false,
            is_main_track: truth.is_main_track,
            event: truth.event,
            image: digest,
            truth: truth_digest(truth),
        }
    };
    block.truths.iter().map(&mut record).collect()
}

/// A digest of event and true position: two clusters of one particle have the same, also if simulated twice.
fn truth_digest(truth: &Truth) -> Option<[u8; 12]> {
    let event = truth.event?;
    let [Some(x), Some(y), Some(z)] = truth.position else { return None };
    if [x, y, z].iter().all(|component| component.abs() == 0.0) {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&event.to_le_bytes());
    for component in [x, y, z] {
        hasher.update(&component.to_le_bytes());
    }
    Some(hasher.finalize().as_bytes()[..12].try_into().expect("a hash has 32 bytes"))
}

/// End here if a signal asked for it.
pub fn stop_if_asked(doing: &'static str, kept: &'static str) -> Result<(), Error> {
    if shared::signal::stop_requested() { Err(Error::Stopped { doing, kept }) } else { Ok(()) }
}
