//! Third phase: read the planned files once more and write their rows, part by part.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use indicatif::ProgressBar;
use parquet::file::writer::SerializedFileWriter;
use serde::{Deserialize, Serialize};
use shared::split::{Part, Split, SplitSummary};

use crate::Error;
use crate::args::Shard;
use crate::bad_file::BadFile;
use crate::clusters::{Block, ClusterFile};
use crate::digest::RowDigest;
use crate::encode::{Format, GROUP_ROWS, Group};
use crate::plan::{Copies, Fate, Plan, PlannedFile};
use crate::pool::Pool;
use crate::rows::Rows;
use crate::scan::stop_if_asked;
use crate::settings::{Job, Settings};

/// Rows of a part: a multiple of [`GROUP_ROWS`].
const PART_ROWS: u64 = 65_536;

/// What a shard has written.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Written {
    /// Version of this file's format
    pub schema_version: u32,
    /// Sum over the rows' digests
    pub digest: RowDigest,
    /// Rows and parts
    pub splits: BTreeMap<Split, SplitSummary>,
}

/// Write the rows of a shard into `folder/{split}/`.
pub fn write(job: &Job, plan: &Plan, fates: &Path, shard: Shard, folder: &Path) -> Result<Written, Error> {
    let files = share(&plan.files, shard);
    let fates = File::open(fates).map_err(|source| Error::Read { path: fates.to_owned(), source })?;
    let settings = &job.settings;
    let format = Format::new(settings.plane, settings.height, settings.width)?;
    for split in settings.splits() {
        let path = folder.join(split.name());
        fs::create_dir_all(&path).map_err(|source| Error::Write { path, source })?;
    }
    let bar = shared::progress::bar(files.iter().map(|file| file.written).sum(), "writing", "clusters");
    let written = std::thread::scope(|scope| {
        let readers = Pool::new(scope, job.threads);
        let encoders = Pool::new(scope, job.threads);
        let mut output = Output::new(&format, &encoders, job.threads, folder, shard);
        let begin = |file| {
            let (fates, copies) = (&fates, &plan.copies);
            readers.submit(2, move |sender| read_file(file, settings, fates, copies, sender))
        };
        let mut waiting = files.iter();
        let mut begun: VecDeque<_> = waiting.by_ref().take(2 * job.threads).map(begin).collect();
        for file in files {
            let Some(messages) = begun.pop_front() else { break };
            output.take(file, messages, &bar)?;
            begun.extend(waiting.next().map(begin));
        }
        output.finish()
    })?;
    bar.finish_and_clear();
    Ok(written)
}

/// The files of a shard: consecutive ones with about an equal share of the rows.
fn share(files: &[PlannedFile], shard: Shard) -> &[PlannedFile] {
    let total: u64 = files.iter().map(|file| file.written).sum();
    let mut before = 0;
    let mut owners = Vec::with_capacity(files.len());
    for file in files {
        owners.push(u128::from(before) * u128::from(shard.count) / u128::from(total.max(1)));
        before += file.written;
    }
    let start = owners.partition_point(|&owner| owner < u128::from(shard.index));
    let end = owners.partition_point(|&owner| owner <= u128::from(shard.index));
    &files[start..end]
}

fn failed(file: &PlannedFile, error: ReadError) -> Error {
    let path = file.path.clone();
    match error {
        ReadError::Fates(source) => Error::Read { path, source },
        ReadError::Bad(BadFile::Changed) => Error::Changed { path },
        ReadError::Bad(bad) => Error::Unsound { path, reason: bad.reason() },
        ReadError::Dropped(row) => {
            Error::Unsound { path, reason: format!("a flag or a pixel in row {row} is not finite") }
        }
    }
}

/// What a reader tells of a file: rows by split, then whether all went well.
enum Message {
    Rows([Rows; 3]),
    End(Result<(RowDigest, [u64; 3]), ReadError>),
}

enum ReadError {
    Fates(io::Error),
    Bad(BadFile),
    /// A row that the plan uses can't be used
    Dropped(u64),
}

fn read_file(
    file: &PlannedFile,
    settings: &Settings,
    fates: &File,
    copies: &Copies,
    sender: &SyncSender<Message>,
) {
    let mut reader = FileReader {
        source: file.source.as_str().into(),
        settings,
        copies,
        fates: vec![0; file.rows as usize],
        digest: RowDigest::default(),
        main_tracks: [0; 3],
        scratch: Vec::new(),
    };
    let outcome = reader.read(file, fates, sender).map(|()| (reader.digest, reader.main_tracks));
    let _ = sender.send(Message::End(outcome));
}

struct FileReader<'a> {
    source: Arc<str>,
    settings: &'a Settings,
    copies: &'a Copies,
    fates: Vec<u8>,
    digest: RowDigest,
    main_tracks: [u64; 3],
    scratch: Vec<u8>,
}

impl FileReader<'_> {
    fn read(
        &mut self,
        file: &PlannedFile,
        fates: &File,
        sender: &SyncSender<Message>,
    ) -> Result<(), ReadError> {
        fates.read_exact_at(&mut self.fates, file.fates_at).map_err(ReadError::Fates)?;
        let clusters = ClusterFile::open(&file.path, self.settings).map_err(ReadError::Bad)?;
        if clusters.contents().crc != file.crc || clusters.contents().rows() != file.rows {
            return Err(ReadError::Bad(BadFile::Changed));
        }
        let mut dropped = None;
        let outcome = clusters.read(true, |block| match self.rows(&block) {
            Ok(rows) => match sender.send(Message::Rows(rows)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            },
            Err(row) => {
                dropped = Some(row);
                ControlFlow::Break(())
            }
        });
        outcome.map_err(ReadError::Bad)?;
        dropped.map_or(Ok(()), |row| Err(ReadError::Dropped(row)))
    }

    /// The rows of a block by split; the error is a row that is planned and dropped.
    fn rows(&mut self, block: &Block) -> Result<[Rows; 3], u64> {
        let mut rows = [(); 3].map(|()| Rows::default());
        let mut image = 0;
        for (truth, row) in block.truths.iter().zip(block.first..) {
            let fate = Fate::from_byte(self.fates[row as usize]);
            let copies = fate.copies(self.copies);
            let Some(truth) = truth else {
                if copies > 0 {
                    return Err(row);
                }
                continue;
            };
            let pixels = block.images.get(image);
            image += 1;
            let Some(split) = fate.split().filter(|_| copies > 0) else { continue };
            let energy = pixels.energy(self.settings.plane);
            for _ in 0..copies {
                rows[split as usize].push(pixels, &self.source, row as u32, *truth, energy);
            }
            let digest = pixels.digest(&mut self.scratch);
            self.digest.add_row(split, &self.source, row, &digest, truth.is_main_track, copies);
            self.main_tracks[split as usize] += u64::from(truth.is_main_track) * copies;
        }
        Ok(rows)
    }
}

/// Gathers rows into row groups and writes these in order.
struct Output<'a, 'env> {
    format: &'a Format,
    encoders: &'a Pool<'env>,
    in_flight: usize,
    groups: VecDeque<(Split, Receiver<parquet::errors::Result<Group>>)>,
    splits: [SplitOutput; 3],
    digest: RowDigest,
}

impl<'a, 'env> Output<'a, 'env> {
    fn new(
        format: &'a Format,
        encoders: &'a Pool<'env>,
        threads: usize,
        folder: &Path,
        shard: Shard,
    ) -> Self {
        let splits = Split::ALL.map(|split| SplitOutput {
            folder: folder.join(split.name()),
            shard: shard.index,
            ..SplitOutput::default()
        });
        let groups = VecDeque::new();
        Self { format, encoders, in_flight: 2 * threads, groups, splits, digest: RowDigest::default() }
    }

    /// Take what a reader tells of a file.
    fn take(
        &mut self,
        file: &PlannedFile,
        messages: Receiver<Message>,
        bar: &ProgressBar,
    ) -> Result<(), Error> {
        for message in messages {
            stop_if_asked("writing", "scan and plan are kept")?;
            match message {
                Message::Rows(rows) => {
                    bar.inc(rows.iter().map(|rows| rows.len() as u64).sum());
                    self.push(rows)?;
                }
                Message::End(Ok((digest, main_tracks))) => self.count(&digest, main_tracks),
                Message::End(Err(error)) => return Err(failed(file, error)),
            }
        }
        Ok(())
    }

    fn push(&mut self, rows: [Rows; 3]) -> Result<(), Error> {
        for (split, rows) in Split::ALL.into_iter().zip(rows) {
            let mut next = 0;
            while next < rows.len() {
                let pending = &mut self.splits[split as usize].pending;
                next += pending.append(&rows, next, GROUP_ROWS);
                if pending.len() == GROUP_ROWS {
                    self.encode(split)?;
                }
            }
        }
        Ok(())
    }

    fn encode(&mut self, split: Split) -> Result<(), Error> {
        let rows = std::mem::take(&mut self.splits[split as usize].pending);
        let format = self.format.clone();
        let receiver = self.encoders.submit(1, move |sender| {
            let _ = sender.send(format.encode(&rows));
        });
        self.groups.push_back((split, receiver));
        if self.groups.len() > self.in_flight { self.write_next() } else { Ok(()) }
    }

    fn write_next(&mut self) -> Result<(), Error> {
        let Some((split, receiver)) = self.groups.pop_front() else { return Ok(()) };
        // A worker that panicked takes the whole program along when the scope ends.
        let Ok(group) = receiver.recv() else { return Ok(()) };
        self.splits[split as usize].write(group?, self.format)
    }

    fn count(&mut self, digest: &RowDigest, main_tracks: [u64; 3]) {
        self.digest.add(digest);
        for (split, main_tracks) in self.splits.iter_mut().zip(main_tracks) {
            split.summary.main_tracks += main_tracks;
        }
    }

    fn finish(mut self) -> Result<Written, Error> {
        for split in Split::ALL {
            if self.splits[split as usize].pending.len() > 0 {
                self.encode(split)?;
            }
        }
        while !self.groups.is_empty() {
            self.write_next()?;
        }
        let mut written =
            Written { schema_version: shared::SCHEMA_VERSION, digest: self.digest, splits: BTreeMap::new() };
        for (split, mut output) in Split::ALL.into_iter().zip(self.splits) {
            output.close()?;
            written.splits.insert(split, output.summary);
        }
        Ok(written)
    }
}

/// The parts of one split.
#[derive(Default)]
struct SplitOutput {
    folder: PathBuf,
    shard: u32,
    pending: Rows,
    part: Option<OpenPart>,
    summary: SplitSummary,
}

struct OpenPart {
    path: PathBuf,
    rows: u64,
    writer: SerializedFileWriter<BufWriter<File>>,
}

impl SplitOutput {
    fn write(&mut self, group: Group, format: &Format) -> Result<(), Error> {
        let rows = group.rows;
        let part = if let Some(part) = &mut self.part {
            part
        } else {
            let part = OpenPart::create(&self.folder, self.shard, self.summary.parts.len(), format)?;
            self.part.insert(part)
        };
        group.append(&mut part.writer).map_err(|source| Error::Part { path: part.path.clone(), source })?;
        part.rows += rows;
        self.summary.rows += rows;
        if part.rows >= PART_ROWS { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(OpenPart { path, rows, writer }) = self.part.take() else { return Ok(()) };
        let sync = || -> parquet::errors::Result<()> {
            let file = writer.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            Ok(file.sync_data()?)
        };
        sync().map_err(|source| Error::Part { path: path.clone(), source })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.summary.parts.push(Part { name, rows });
        Ok(())
    }
}

impl OpenPart {
    fn create(folder: &Path, shard: u32, number: usize, format: &Format) -> Result<Self, Error> {
        let path = folder.join(format!("part-{shard:04}-{number:04}.parquet"));
        let file = File::create(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        let writer = format
            .writer(BufWriter::with_capacity(1 << 20, file))
            .map_err(|source| Error::Part { path: path.clone(), source })?;
        Ok(Self { path, rows: 0, writer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_all_files_in_order() {
        let file = |written: u64| PlannedFile {
            source: written.to_string(),
            path: PathBuf::new(),
            crc: [0; 2],
            rows: written,
            fates_at: 0,
            written,
        };
        let files: Vec<_> = [5, 1, 900, 3, 3, 3, 40].map(file).into();
        for count in 1..9 {
            let shares = (0..count).flat_map(|index| share(&files, Shard { index, count }));
            let together: Vec<_> = shares.map(|file| file.source.clone()).collect();
            assert_eq!(together, ["5", "1", "900", "3", "3", "3", "40"], "{count} shards");
        }
    }
}
