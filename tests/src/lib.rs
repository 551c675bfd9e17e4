//! Simulates clusters of trigger primitives, for tests, timings and a first try without real data.
//!
//! Neutrino interactions and radiological decays leave tracks of charge in liquid argon ([`Options`] says how
//! many); each wire plane reads them out as trigger primitives, which are clustered, cut at 2 MeV, drawn into
//! images and labelled. The physics is as simple as gives images, energies and class overlap like those of
//! real productions; every number is a named constant in the module that uses it.

#![expect(clippy::doc_markdown, reason = "MeV and GeV are units, not code")]

mod background;
mod cluster;
mod detector;
mod error;
mod file;
mod layout;
mod neutrino;
mod npz;
mod options;
mod plan;
mod rng;
mod transport;
mod vector;

use std::{
    fmt, fs,
    ops::{Add, AddAssign},
    time::{Duration, Instant},
};

use rayon::prelude::*;

pub use crate::{
    cluster::{ENERGY_CUT, HEIGHT},
    detector::Plane,
    error::Error,
    layout::Layout,
    options::{Compression, Options},
};
use crate::{error::IoContext as _, plan::Plan};

/// What a simulation wrote; displays as one line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// NPZ files, one for each source file and plane.
    pub files: usize,
    /// Clusters on all planes together.
    pub clusters: usize,
    /// Clusters with `is_main`.
    pub main_tracks: usize,
    /// Clusters with an identical image in one other file.
    pub repeated: usize,
    /// Wall-clock time, writing included.
    pub elapsed: Duration,
}

/// Simulates a production and writes it below `options.output`.
///
/// The bytes depend on everything in `options` but `threads`. Files of the same names are replaced; each
/// appears whole or not at all.
///
/// # Errors
/// [`Error::Option`] for a value out of range, [`Error::Io`] and [`Error::Archive`] where a file cannot be
/// written.
///
/// ```
/// let folder = std::env::temp_dir().join("simulator-example");
/// let summary = simulator::run(&simulator::Options {
///     output: folder.clone(),
///     files: Some(2),
///     events_per_file: 10,
///     ..simulator::Options::default()
/// })?;
/// assert_eq!(summary.files, 2);
/// std::fs::remove_dir_all(folder).ok();
/// # Ok::<(), simulator::Error>(())
/// ```
pub fn run(options: &Options) -> Result<Summary, Error> {
    let start = Instant::now();
    options.check()?;
    let plan = Plan::new(options);
    for kind in ["es", "cc"] {
        let folder = options.output.join(kind);
        fs::create_dir_all(&folder).at(&folder)?;
    }
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().map_err(Error::Threads)?;
    let summary = pool.install(|| {
        (0..plan.files)
            .into_par_iter()
            .map(|file| file::write(options, &plan, file))
            .try_reduce(Summary::default, |a, b| Ok(a + b))
    })?;
    Ok(Summary { elapsed: start.elapsed(), ..summary })
}

impl Add for Summary {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            clusters: self.clusters + other.clusters,
            main_tracks: self.main_tracks + other.main_tracks,
            repeated: self.repeated + other.repeated,
            elapsed: self.elapsed + other.elapsed,
        }
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: usize| 100.0 * part as f64 / self.clusters.max(1) as f64;
        let seconds = self.elapsed.as_secs_f64();
        write!(
            f,
            "wrote {} files with {} clusters ({:.1} % main tracks, {:.1} % repeated) in {seconds:.2} s: {:.0} clusters/s",
            self.files,
            self.clusters,
            percent(self.main_tracks),
            percent(self.repeated),
            self.clusters as f64 / seconds.max(1e-9),
        )
    }
}
