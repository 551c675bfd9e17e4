//! How many files, events and backgrounds a production has, and which files share backgrounds.

use rand::seq::SliceRandom as _;

use crate::{
    options::Options,
    rng::{Purpose, stream},
};

/// What an interaction and a background unit leave in plane X on average, measured with the physics as it is.
#[derive(Clone, Copy, Debug)]
struct Yield {
    /// Main tracks per interaction; below 1, since some stay below the energy cut.
    main: f64,
    /// Clusters per interaction, the main track included.
    all: f64,
}

const ES: Yield = Yield { main: 0.92, all: 1.24 };
const CC: Yield = Yield { main: 0.998, all: 1.72 };

/// Clusters per background unit in plane X.
const BACKGROUND: f64 = 0.68;

/// The layout of a production.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) files: usize,
    /// Backgrounds that each pool holds; every file draws on two pools.
    pub(crate) pool_size: usize,
    /// Mean number of an event's own backgrounds, for charged current and for elastic scattering.
    own: [f64; 2],
    /// Place of each file in the ring.
    ring: Vec<usize>,
    es_share: f64,
}

impl Plan {
    /// Works out the plan from the shares and sizes that `options` ask for.
    pub(crate) fn new(options: &Options) -> Self {
        let events = options.events_per_file as f64;
        let clusters = |y: Yield| y.main / options.main_share;
        let backgrounds = |y: Yield| ((clusters(y) - y.all) / BACKGROUND).max(0.0);
        let mean = |of: &dyn Fn(Yield) -> f64| options.es_share * of(ES) + (1.0 - options.es_share) * of(CC);
        let per_file = events * mean(&clusters);
        let files = options.files.unwrap_or((options.clusters as f64 / per_file).ceil() as usize);
        let wanted = options.repeat_share * mean(&clusters) / BACKGROUND;
        let possible = backgrounds(CC).min(backgrounds(ES));
        let repeated = if files > 1 { wanted.min(possible) } else { 0.0 };
        let pool_size = (events * repeated / 2.0).round() as usize;
        let shared = 2.0 * pool_size as f64 / events;
        let own = [CC, ES].map(|y| (backgrounds(y) - shared).max(0.0));
        let mut ring: Vec<usize> = (0..files).collect();
        ring.shuffle(&mut stream(options.seed, Purpose::Ring, 0, 0));
        Self { files, pool_size, own, ring, es_share: options.es_share }
    }

    /// Whether file `file` (from 0) holds elastic scattering; spreads them evenly over the numbers.
    pub(crate) fn is_es(&self, file: usize) -> bool {
        let before = |file: usize| (file as f64 * self.es_share).round() as usize;
        before(file + 1) > before(file)
    }

    /// Mean number of an event's own backgrounds.
    pub(crate) fn own_backgrounds(&self, is_es: bool) -> f64 {
        self.own[usize::from(is_es)]
    }

    /// The two pools of a file. Files stand in a ring in random order; each pool lies between two neighbours,
    /// so that every background of a pool occurs in exactly two files.
    pub(crate) fn pools(&self, file: usize) -> [usize; 2] {
        let place = self.ring[file];
        [place, (place + 1) % self.files]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pool_belongs_to_two_files() {
        let plan = Plan::new(&Options { files: Some(7), ..Options::default() });
        let mut uses = [0; 7];
        (0..7).flat_map(|file| plan.pools(file)).for_each(|pool| uses[pool] += 1);
        assert_eq!(uses, [2; 7]);
    }

    #[test]
    fn elastic_scattering_has_its_share_of_the_files() {
        for (share, expected) in [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)] {
            let plan = Plan::new(&Options { files: Some(20), es_share: share, ..Options::default() });
            assert_eq!((0..20).filter(|file| plan.is_es(*file)).count(), expected);
        }
    }
}
