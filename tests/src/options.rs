//! Command line of `simulate`, which is also how other crates' tests call the simulator.

use std::path::PathBuf;

use clap::{
    Parser, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser as _},
};

use crate::{detector::Plane, error::Error, layout::Layout};

/// Simulate clusters of trigger primitives in a liquid-argon TPC, as NPZ files
///
/// Writes OUT/es/prod_es_NNNN_bg_matched_planeP.npz and OUT/cc/prod_cc_NNNN_bg_matched_planeP.npz, each with
/// the arrays `images` (f32, [N, 128, width], ADC) and `metadata` (f32, [N, columns]). The planes of an event
/// share the file number and the event number. The same options give the same bytes, whatever the number of
/// threads.
#[derive(Clone, Debug, Parser)]
#[command(name = "simulate", version)]
pub struct Options {
    /// Folder to write to; created if it is not there
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,

    /// Clusters per plane, roughly: as many whole files as come closest from above
    #[arg(long, value_name = "N", default_value_t = defaults::CLUSTERS)]
    pub clusters: usize,

    /// Files per plane, in place of --clusters
    #[arg(long, value_name = "N", conflicts_with = "clusters")]
    pub files: Option<usize>,

    /// Neutrino interactions per file; each brings about seven clusters, most of them background
    #[arg(long, value_name = "N", default_value_t = defaults::EVENTS_PER_FILE)]
    pub events_per_file: usize,

    /// Planes to write; with a single one there are no matches, so every match id is -1
    #[arg(
        long,
        value_name = "P,…",
        value_enum,
        ignore_case = true,
        value_delimiter = ',',
        default_value = "X"
    )]
    pub planes: Vec<Plane>,

    /// Metadata layout, named by its number of columns
    #[arg(long, value_enum, default_value_t = defaults::COLUMNS)]
    pub columns: Layout,

    /// Channels of an image
    #[arg(long, default_value_t = defaults::WIDTH,
          value_parser = PossibleValuesParser::new(["16", "32"]).try_map(|text| text.parse::<usize>()))]
    pub width: usize,

    /// How the arrays lie in the archive
    #[arg(long, value_enum, default_value_t = defaults::COMPRESS)]
    pub compress: Compression,

    /// Seed of everything random
    #[arg(long, default_value_t = defaults::SEED)]
    pub seed: u64,

    /// Share of the clusters (all of them background) whose image also lies in one other file
    ///
    /// One file alone has no other and repeats nothing.
    #[arg(long, value_name = "SHARE", default_value_t = defaults::REPEAT_SHARE)]
    pub repeat_share: f64,

    /// Share of the clusters in plane X that are main tracks
    #[arg(long, value_name = "SHARE", default_value_t = defaults::MAIN_SHARE)]
    pub main_share: f64,

    /// Share of the files that hold elastic scattering; the others hold charged current
    #[arg(long, value_name = "SHARE", default_value_t = defaults::ES_SHARE)]
    pub es_share: f64,

    /// Worker threads; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = defaults::THREADS)]
    pub threads: usize,
}

/// How the arrays lie in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// As `np.savez`
    None,
    /// As `np.savez_compressed`
    Deflate,
    /// Every other file deflated
    Mixed,
}

mod defaults {
    use super::{Compression, Layout};

    pub(super) const CLUSTERS: usize = 10_000;
    pub(super) const EVENTS_PER_FILE: usize = 30;
    pub(super) const COLUMNS: Layout = Layout::C14;
    pub(super) const WIDTH: usize = 16;
    pub(super) const COMPRESS: Compression = Compression::None;
    pub(super) const SEED: u64 = 42;
    pub(super) const REPEAT_SHARE: f64 = 0.33;
    pub(super) const MAIN_SHARE: f64 = 0.14;
    pub(super) const ES_SHARE: f64 = 0.5;
    pub(super) const THREADS: usize = 0;
}

impl Default for Options {
    /// The command line's defaults, with the folder `simulated`.
    fn default() -> Self {
        Self {
            output: PathBuf::from("simulated"),
            clusters: defaults::CLUSTERS,
            files: None,
            events_per_file: defaults::EVENTS_PER_FILE,
            planes: vec![Plane::X],
            columns: defaults::COLUMNS,
            width: defaults::WIDTH,
            compress: defaults::COMPRESS,
            seed: defaults::SEED,
            repeat_share: defaults::REPEAT_SHARE,
            main_share: defaults::MAIN_SHARE,
            es_share: defaults::ES_SHARE,
            threads: defaults::THREADS,
        }
    }
}

impl Options {
    /// Refuses values that no simulation can honour.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |name, value: String, expected| Err(Error::Option { name, value, expected });
        for (name, share) in [("repeat-share", self.repeat_share), ("es-share", self.es_share)] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(name, share.to_string(), "a share from 0 to 1");
            }
        }
        if !(0.01..=0.5).contains(&self.main_share) {
            return refuse("main-share", self.main_share.to_string(), "a share from 0.01 to 0.5");
        }
        if !(1..=128).contains(&self.width) {
            return refuse("width", self.width.to_string(), "16 or 32");
        }
        if self.events_per_file == 0 {
            return refuse("events-per-file", "0".into(), "at least 1");
        }
        if self.planes.is_empty() {
            return refuse("planes", "empty".into(), "U, V or X");
        }
        Ok(())
    }
}
