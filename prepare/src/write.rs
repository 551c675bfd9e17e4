//! Third phase: read the planned files once more and write their rows, part by part.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

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
        let mut waiting = files.iter();
        let mut begun = VecDeque::new();
        for file in files {
            while begun.len() < 2 * job.threads {
                let Some(next) = waiting.next() else { break };
                let fates = &fates;
                let copies = &plan.copies;
                begun.push_back(readers.submit(2, move |sender| read_file(next, settings, fates, copies, sender)));
            }
            let Some(messages) = begun.pop_front() else { break };
            for message in messages {
                stop_if_asked("writing", "scan and plan are kept")?;
                match message {
                    Message::Rows(rows) => {
                        bar.inc(rows.iter().map(|rows| rows.len() as u64).sum());
                        output.push(rows)?;
                    }
                    Message::End(Ok(digest, main_tracks)) => output.count(&digest, main_tracks),
                    Message::End(Err(error)) => return Err(failed(file, error)),
                }
            }
        }
        output.finish()
    })?;
    bar.finish_and_clear();
    Ok(written)
}
