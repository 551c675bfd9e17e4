//! Whether the holder of a lease lives.
//!
//! A process of this machine that has ended is dead. Of any other one its silence tells, by the clock of the file
//! server alone: the age of a lease is the difference to a file just written. Where file systems write down the
//! clocks of their clients and these disagree, a lease looks old although it is touched, or comes from the future
//! although nobody touches it; so it is also watched for changes before its holder counts as dead.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::host::Process;
use super::journal::patiently;
use super::lease::{LeaseFile, path_in};

/// What is known of the holder of a lease; the text names host and process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// It touched the lease not long ago
    Lives(String),
    /// The lease is old, but was not watched long enough
    Doubtful(String),
    /// It left the lease behind
    Dead,
}

/// What this process saw of each lease.
#[derive(Debug, Default)]
pub(super) struct Sightings(Mutex<HashMap<PathBuf, Sighting>>);

/// The last change of a lease that was seen, and since when.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    touched: SystemTime,
    since: Instant,
    /// Whether the lease was seen before with another time: then its holder lived at `since`
    changed: bool,
}

impl Sightings {
    /// Judge the lease of a trial.
    ///
    /// - `limit`: silence after which a holder counts as dead
    /// - `probe`: a file to write beside the study, for the server's clock
    pub fn holder(&self, folder: &Path, limit: Duration, probe: &Path) -> Holder {
        let path = path_in(folder);
        let lease =
            match patiently(|| fs::read(&path)).map(|bytes| serde_json::from_slice::<LeaseFile>(&bytes)) {
                Ok(Ok(lease)) => lease,
                Ok(Err(_)) => return Holder::Dead,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Holder::Dead,
                Err(_) => return Holder::Lives("a worker whose lease can't be read now".into()),
            };
        if Process::parse(&lease.process).is_some_and(|process| process.has_ended()) {
            return Holder::Dead;
        }
        // Where nothing can be written, nobody is found dead either.
        let Ok((touched, now)) = patiently(|| times(&path, probe)) else {
            return Holder::Lives(lease.worker);
        };
        let seen = self.look(path, touched);
        let enough = match (now.duration_since(touched), touched.duration_since(now)) {
            (Ok(age), _) if age > limit => limit / 3,
            (_, Ok(ahead)) if ahead > limit => limit,
            _ => return Holder::Lives(lease.worker),
        };
        match (seen.changed, seen.since.elapsed()) {
            (true, quiet) if quiet <= limit => Holder::Lives(lease.worker),
            (false, quiet) if quiet < enough => Holder::Doubtful(lease.worker),
            _ => Holder::Dead,
        }
    }

    fn look(&self, path: PathBuf, touched: SystemTime) -> Sighting {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = Instant::now();
        let entry = seen.entry(path).or_insert(Sighting { touched, since, changed: false });
        if entry.touched != touched {
            *entry = Sighting { touched, since, changed: true };
        }
        *entry
    }
}

/// When a file was last written, and the present, both by the clock of the file server.
fn times(path: &Path, probe: &Path) -> io::Result<(SystemTime, SystemTime)> {
    let touched = File::open(path)?.metadata()?.modified()?;
    let mut file = File::create(probe)?;
    file.write_all(b".")?;
    file.sync_data()?;
    let now = file.metadata()?.modified()?;
    drop(file);
    fs::remove_file(probe)?;
    Ok((touched, now))
}
