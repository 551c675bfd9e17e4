//! First stage: NPZ clusters become Parquet splits without leaks.

mod args;
mod bad_file;
mod clusters;
mod digest;
mod discover;
mod encode;
mod error;
mod folder;
#[cfg(test)]
mod fuzz;
mod image;
mod inspect;
mod layout;
mod lock;
pub mod npz;
mod page;
mod plan;
mod pool;
mod records;
mod rows;
mod scan;
mod sequences;
mod settings;
mod summary;
mod write;

use std::fs;

use shared::files;
use shared::split::{Manifest, Split};

pub use args::{
    Args, BalanceArg, BalanceScope, Command, Duplicates, InspectArgs, OnBadFile, Phase, PrepareArgs, Shard,
    SplitBy,
};
pub use error::Error;
pub use summary::{
    BadFileEntry, ClassMix, Collisions, DuplicatePair, DuplicateReport, FileCounts, Folder, Mix, Preparation,
    Summary,
};

use folder::{Purpose, Workplace};
use lock::Lock;
use plan::Plan;
use scan::{Scan, Scanned};
use settings::Job;
use write::Written;

/// Do what the command line says.
///
/// # Errors
/// [`Error`]; an output folder is then absent, or as it was before.
pub fn run(args: &Args) -> Result<Summary, Error> {
    shared::signal::watch();
    if let Some(Command::Inspect(inspect)) = &args.command {
        return inspect::inspect(inspect).map(Summary::Inspected);
    }
    let job = Job::new(&args.prepare)?;
    let stage = Stage { workplace: Workplace::new(&job.output), job, args: &args.prepare };
    match args.prepare.phase {
        None => stage.all(),
        Some(Phase::Scan) => stage.scan_phase(),
        Some(Phase::Plan) => stage.plan_phase(),
        Some(Phase::Write) => stage.write_phase(),
    }
}

/// A run with its command line.
struct Stage<'a> {
    job: Job,
    args: &'a PrepareArgs,
    workplace: Workplace,
}

impl Stage<'_> {
    /// All phases in one go.
    fn all(&self) -> Result<Summary, Error> {
        let finished = self.workplace.finished()?;
        let files = self.files()?;
        let purpose = self.purpose(&files);
        let files = scan::probe(files, &self.job)?;
        if let Some(summary) = self.compare(finished, &files)? {
            // Another run may be replacing the output; what it has is its own.
            if self.workplace.has_leftovers()
                && let Ok(_lock) = self.workplace.lock(None)
            {
                self.workplace.clean(&purpose)?;
            }
            return Ok(summary);
        }
        let lock = self.workplace.lock(None)?;
        // Another run may have ended since.
        if let Some(summary) = self.compare(self.workplace.finished()?, &files)? {
            return Ok(summary);
        }
        self.workplace.begin(&purpose)?;
        let with_images = self.job.settings.compares_images();
        match self.write_all(files.clone(), with_images, &lock) {
            Err(Error::Unsound { path, reason }) if !with_images => {
                tracing::warn!("`{}`: {reason}; checking all images before they are written", path.display());
                self.workplace.forget()?;
                self.workplace.begin(&purpose)?;
                self.write_all(files, true, &lock)
            }
            outcome => outcome,
        }
    }

    /// Whether a finished output is what is asked for; another one is an error unless it may be replaced.
    fn compare(&self, finished: Option<Manifest>, files: &[Scanned]) -> Result<Option<Summary>, Error> {
        let Some(manifest) = finished else { return Ok(None) };
        let fingerprint = scan::fingerprint(files, &self.job.settings);
        match self.difference(&manifest, &fingerprint) {
            None => Ok(Some(Summary::UpToDate(self.folder(manifest)))),
            Some(_) if self.args.overwrite => Ok(None),
            Some(difference) => Err(Error::OtherOutput { path: self.workplace.output.clone(), difference }),
        }
    }

    fn write_all(&self, files: Vec<Scanned>, with_images: bool, lock: &Lock) -> Result<Summary, Error> {
        self.scan(files, with_images, Shard::WHOLE)?;
        self.plan(1)?;
        self.write(Shard::WHOLE)?;
        lock.check()?;
        Ok(Summary::Written(self.publish(1)?))
    }

    fn scan_phase(&self) -> Result<Summary, Error> {
        if let Some(summary) = self.up_to_date()? {
            return Ok(summary);
        }
        let _lock = self.workplace.lock(Some((Phase::Scan, self.args.shard)))?;
        let mut files = self.files()?;
        let purpose = self.purpose(&files);
        self.workplace.join(&purpose)?;
        let mine = self.args.shard.range(files.len());
        let files: Vec<_> = files.drain(mine).collect();
        let count = files.len();
        let files = scan::probe(files, &self.job)?;
        self.scan(files, true, self.args.shard)?;
        Ok(Summary::Phase(format!("scanned shard {} ({count} files)", self.args.shard)))
    }

    fn plan_phase(&self) -> Result<Summary, Error> {
        if let Some(summary) = self.up_to_date()? {
            return Ok(summary);
        }
        let _lock = self.workplace.lock(Some((Phase::Plan, Shard::WHOLE)))?;
        self.workplace.join(&self.purpose(&self.files()?))?;
        self.plan(self.workplace.shard_count(Phase::Scan)?)?;
        let plan = plan::read(&self.workplace.plan()[0])?;
        let rows: u64 = plan.files.iter().map(|file| file.written).sum();
        Ok(Summary::Phase(format!("planned {rows} rows of {} files", plan.files.len())))
    }

    fn write_phase(&self) -> Result<Summary, Error> {
        if let Some(summary) = self.up_to_date()? {
            return Ok(summary);
        }
        let lock = self.workplace.lock(Some((Phase::Write, self.args.shard)))?;
        let [plan, _] = self.workplace.plan();
        if !plan.is_file() {
            return Err(Error::MissingPhase { phase: Phase::Plan, path: plan });
        }
        let shard = self.args.shard;
        self.write(shard)?;
        lock.check()?;
        let mut others = (0..shard.count).map(|index| Shard { index, count: shard.count });
        if let Some(missing) = others.find(|&other| !self.workplace.written(other).is_file()) {
            return Ok(Summary::Phase(format!("wrote shard {shard}; shard {missing} is still to come")));
        }
        match self.publish(shard.count) {
            Err(error) => {
                self.published_by_another().map_or(Err(error), |folder| Ok(Summary::Written(folder)))
            }
            Ok(folder) => Ok(Summary::Written(folder)),
        }
    }

    /// The output, if another shard that ended at the same time was faster; it may still be at it.
    fn published_by_another(&self) -> Option<Box<Folder>> {
        let attempts = 20;
        (0..attempts).find_map(|attempt| {
            if attempt > 0 {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            let manifest = self.workplace.finished().ok()??;
            Some(self.folder(manifest))
        })
    }

    /// For phases: whether the output is there, made with the same settings.
    fn up_to_date(&self) -> Result<Option<Summary>, Error> {
        let Some(manifest) = self.workplace.finished()? else { return Ok(None) };
        let fingerprint = manifest.preparation.get("fingerprint").and_then(|value| value.as_str());
        let fingerprint = fingerprint.unwrap_or_default().to_owned();
        match self.difference(&manifest, &fingerprint) {
            None if !self.args.overwrite => Ok(Some(Summary::UpToDate(self.folder(manifest)))),
            Some(difference) if !self.args.overwrite => {
                Err(Error::OtherOutput { path: self.workplace.output.clone(), difference })
            }
            _ => Ok(None),
        }
    }

    /// In what a finished folder differs from what is asked for.
    fn difference(&self, manifest: &Manifest, fingerprint: &str) -> Option<String> {
        let lacks = |split: &Split, name: &str| !self.job.output.join(split.name()).join(name).is_file();
        let parts =
            manifest.splits.iter().flat_map(|(split, all)| all.parts.iter().map(move |part| (split, part)));
        let lost = parts
            .filter(|(split, part)| lacks(split, &part.name))
            .map(|(split, part)| format!("part `{split}/{}` is missing", part.name));
        folder::difference_of(manifest, &self.job.settings, fingerprint).or_else(|| lost.into_iter().next())
    }

    fn files(&self) -> Result<Vec<discover::Found>, Error> {
        let found = discover::discover(&self.job.inputs, &self.job.settings)?;
        if found.is_empty() {
            let inputs: Vec<_> = self.job.inputs.iter().map(|path| format!("`{}`", path.display())).collect();
            let settings = &self.job.settings;
            return Err(Error::NoFiles {
                plane: settings.plane,
                inputs: inputs.join(", "),
                pattern: settings.batch_pattern.replace("{plane}", settings.plane.letter()),
            });
        }
        Ok(found)
    }

    fn purpose(&self, files: &[discover::Found]) -> Purpose {
        let names: Vec<_> = files.iter().map(|file| format!("{}\t{}\n", file.source, file.size)).collect();
        Purpose {
            schema_version: shared::SCHEMA_VERSION,
            settings: self.job.settings.clone(),
            inputs: files::digest(names.concat().as_bytes()),
        }
    }

    fn scan(&self, files: Vec<Scanned>, with_images: bool, shard: Shard) -> Result<(), Error> {
        let [summary, records] = self.workplace.scan(shard);
        if let Ok(done) = files::read_json::<Scan>(&summary)
            && (done.with_images || !with_images)
            && same_files(&done.files, &files)
        {
            tracing::info!("shard {shard} is scanned already");
            return Ok(());
        }
        let scan = scan::scan(files, &self.job, with_images, &records)?;
        files::write_json(&summary, &scan)?;
        Ok(())
    }

    fn plan(&self, shards: u32) -> Result<(), Error> {
        let (mut scans, mut records) = (Vec::new(), Vec::new());
        for index in 0..shards {
            let [summary, rows] = self.workplace.scan(Shard { index, count: shards });
            scans.push(files::read_json::<Scan>(&summary)?.files);
            records.push(rows);
        }
        let all: Vec<&Scanned> = scans.iter().flatten().collect();
        self.check_files(&all)?;
        let (plan, fates) = plan::plan(&self.job, scans, records)?;
        let [plan_path, fates_path] = self.workplace.plan();
        files::write_bytes(&fates_path, &fates)?;
        files::write_json(&plan_path, &plan)?;
        Ok(())
    }

    /// Apply the policy on bad files, and say what is odd.
    fn check_files(&self, files: &[&Scanned]) -> Result<(), Error> {
        let bad: Vec<_> = files
            .iter()
            .filter_map(|file| Some((file.found.path.clone(), file.found.bad.clone()?)))
            .collect();
        for (path, reason) in &bad {
            tracing::debug!("skipped `{}`: {reason}", path.display());
        }
        let count = bad.len() as u64;
        if let Some((path, reason)) = bad.into_iter().next() {
            if self.args.on_bad_file == OnBadFile::Fail {
                return Err(Error::BadFile { path, reason });
            }
            if let Some(limit) = self.args.max_bad.filter(|&limit| count > limit) {
                return Err(Error::TooManyBad { count, limit, path, reason });
            }
            if files.iter().all(|file| file.rows().is_none()) {
                return Err(Error::NothingUsable { count, path, reason });
            }
        }
        if files.iter().filter_map(|file| file.rows()).sum::<u64>() == 0 {
            return Err(Error::NoClusters { files: files.len(), plane: self.job.settings.plane });
        }
        self.warn(files);
        Ok(())
    }

    fn warn(&self, files: &[&Scanned]) {
        let without =
            |file: &&&Scanned| file.rows().is_some() && file.probe.is_some_and(|probe| !probe.has_event);
        let without_event = files.iter().filter(without).count();
        if without_event > 0 && self.job.settings.split_by == SplitBy::Event {
            tracing::warn!(
                "{without_event} files have no event numbers; each goes into one split as a whole"
            );
        }
        for file in files.iter().filter(|file| file.has_large_events) {
            tracing::warn!(
                "`{}` has event numbers above 2^24, where f32 can't tell neighbours apart",
                file.found.source
            );
        }
    }

    fn write(&self, shard: Shard) -> Result<(), Error> {
        let done = self.workplace.written(shard);
        if done.is_file() {
            tracing::info!("shard {shard} is written already");
            return Ok(());
        }
        let [plan, fates] = self.workplace.plan();
        let plan: Plan = plan::read(&plan)?;
        let data = self.workplace.data();
        fs::create_dir_all(&data).map_err(|source| Error::Write { path: data.clone(), source })?;
        let written = write::write(&self.job, &plan, &fates, shard, &data)?;
        files::write_json(&done, &written)?;
        Ok(())
    }

    /// Put the shards together under a manifest, in the output's place.
    fn publish(&self, shards: u32) -> Result<Box<Folder>, Error> {
        let plan: Plan = plan::read(&self.workplace.plan()[0])?;
        let mut all = Written::default();
        for index in 0..shards {
            let written: Written = files::read_json(&self.workplace.written(Shard { index, count: shards }))?;
            all.digest.add(&written.digest);
            for (split, summary) in written.splits {
                let total = all.splits.entry(split).or_default();
                total.rows += summary.rows;
                total.main_tracks += summary.main_tracks;
                total.parts.extend(summary.parts);
            }
        }
        let settings = &self.job.settings;
        all.splits.retain(|split, _| settings.splits().contains(split));
        let manifest = Manifest {
            schema_version: shared::SCHEMA_VERSION,
            plane: settings.plane,
            height: settings.height,
            width: settings.width,
            digest: all.digest.finish(settings.height, settings.width),
            seed: settings.seed,
            splits: all.splits,
            preparation: to_map(&plan.preparation),
        };
        self.workplace.publish(&manifest)?;
        Ok(self.folder(manifest))
    }

    fn folder(&self, manifest: Manifest) -> Box<Folder> {
        let shown = self.args.output.clone().unwrap_or_default();
        Box::new(Folder { path: shown, manifest })
    }
}

fn to_map(preparation: &Preparation) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(preparation) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    }
}

/// Whether a scan was made of these very files.
fn same_files(done: &[Scanned], files: &[Scanned]) -> bool {
    let probed = |file: &Scanned| (file.found.source.clone(), file.found.size, file.probe);
    done.len() == files.len()
        && done
            .iter()
            .zip(files)
            .all(|(a, b)| probed(a) == probed(b) || (b.probe.is_none() && a.found == b.found))
}
