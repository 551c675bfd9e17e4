//! One source file of a production: its events on every plane, written as NPZ.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Poisson};

use crate::{
    Summary, background,
    cluster::{Cluster, HEIGHT, find},
    detector::Plane,
    error::Error,
    layout::Row,
    neutrino::{self, Truth},
    npz,
    options::{Compression, Options},
    plan::Plan,
    rng::{Purpose, noise, part, stream},
    transport::Track,
};

/// A neutrino interaction or a background: what is clustered together.
struct Unit {
    truth: Option<Truth>,
    tracks: Vec<Track>,
    /// The state from which each plane's noise stream is taken.
    physics: ChaCha8Rng,
    repeated: bool,
}

impl Unit {
    fn neutrino(is_es: bool, mut physics: ChaCha8Rng) -> Self {
        let (truth, tracks) = neutrino::interact(is_es, &mut physics);
        Self { truth: Some(truth), tracks, physics, repeated: false }
    }

    fn background(mut physics: ChaCha8Rng, repeated: bool) -> Self {
        let tracks = background::decay(&mut physics);
        Self { truth: None, tracks, physics, repeated }
    }
}

/// The arrays of one plane, row by row.
#[derive(Default)]
struct Arrays {
    images: Vec<f32>,
    metadata: Vec<f32>,
    rows: usize,
}

/// Simulates file number `file` (from 0) and writes it, one archive a plane.
pub(crate) fn write(options: &Options, plan: &Plan, file: usize) -> Result<Summary, Error> {
    let is_es = plan.is_es(file);
    let mut summary = Summary::default();
    let mut planes: Vec<Arrays> = options.planes.iter().map(|_| Arrays::default()).collect();
    let mut next_match = 0;
    for (index, units) in events(options, plan, file, is_es).into_iter().enumerate() {
        let event = event_number(options, file, index);
        for unit in units {
            summary += append(options, event, &unit, &mut planes, &mut next_match);
        }
    }
    let kind = if is_es { "es" } else { "cc" };
    let deflate = match options.compress {
        Compression::None => false,
        Compression::Deflate => true,
        Compression::Mixed => file % 2 == 1,
    };
    for (plane, arrays) in options.planes.iter().zip(&planes) {
        let name = format!("prod_{kind}_{:04}_bg_matched_plane{}.npz", file + 1, plane.letter());
        let images = [arrays.rows, HEIGHT, options.width];
        let metadata = [arrays.rows, options.columns.columns()];
        let arrays = [
            npz::Array { name: "images", shape: &images, values: &arrays.images },
            npz::Array { name: "metadata", shape: &metadata, values: &arrays.metadata },
        ];
        npz::write(&options.output.join(kind).join(name), &arrays, deflate)?;
        summary.files += 1;
    }
    Ok(summary)
}

/// The event's number, from 1; exact as f32 for up to 2^24 events, after which numbers start again.
fn event_number(options: &Options, file: usize, index: usize) -> u64 {
    ((file * options.events_per_file + index) % (1 << 24)) as u64 + 1
}

/// The units of each event of a file: the interaction, its own backgrounds, its share of the repeated ones.
fn events(options: &Options, plan: &Plan, file: usize, is_es: bool) -> Vec<Vec<Unit>> {
    let seed = options.seed;
    let count = Poisson::new(plan.own_backgrounds(is_es));
    let mut events: Vec<Vec<Unit>> = (0..options.events_per_file as u64)
        .map(|event| {
            let interaction = Unit::neutrino(is_es, stream(seed, Purpose::Neutrino, file as u64, event));
            let mut rng = stream(seed, Purpose::Background, file as u64, event);
            // No distribution has the mean 0: then there are none.
            let own = count.as_ref().map_or(0, |count| count.sample(&mut rng) as u64);
            let own = (0..own).map(|k| Unit::background(part(&rng, k), false));
            std::iter::once(interaction).chain(own).collect()
        })
        .collect();
    let mut placement = stream(seed, Purpose::Placement, file as u64, 0);
    for pool in plan.pools(file) {
        for position in 0..plan.pool_size {
            let event = placement.random_range(0..events.len());
            let physics = stream(seed, Purpose::Pool, pool as u64, position as u64);
            events[event].push(Unit::background(physics, true));
        }
    }
    events
}

/// Reads a unit out on every plane and appends its clusters.
fn append(
    options: &Options,
    event: u64,
    unit: &Unit,
    planes: &mut [Arrays],
    next_match: &mut u32,
) -> Summary {
    let clusters: Vec<Vec<Cluster>> = options
        .planes
        .iter()
        .map(|plane| find(*plane, &unit.tracks, &mut noise(&unit.physics, plane.number())))
        .collect();
    let matches = match_planes(&clusters, next_match);
    let mut summary = Summary::default();
    for ((&plane, clusters), arrays) in options.planes.iter().zip(&clusters).zip(planes) {
        let main = main_track(unit, clusters);
        for (index, cluster) in clusters.iter().enumerate() {
            let is_main = main == Some(index);
            arrays.push(options, plane, cluster, |image_energy| Row {
                event,
                plane,
                is_main,
                match_id: matches.get(&cluster.lead).copied(),
                truth: unit.truth.as_ref(),
                momentum: unit.truth.as_ref().map_or([0.0; 3], |_| unit.tracks[cluster.lead].momentum),
                image_energy,
                energy: cluster.energy,
            });
            summary.clusters += 1;
            summary.main_tracks += usize::from(is_main);
            summary.repeated += usize::from(unit.repeated);
        }
    }
    summary
}

/// The label rule: of the neutrino's clusters on a plane, the most energetic one.
fn main_track(unit: &Unit, clusters: &[Cluster]) -> Option<usize> {
    unit.truth.as_ref()?;
    (0..clusters.len()).max_by(|&a, &b| clusters[a].energy.total_cmp(&clusters[b].energy))
}

/// A new match id for every track that leads a cluster on two planes or more.
fn match_planes(planes: &[Vec<Cluster>], next_match: &mut u32) -> BTreeMap<usize, u32> {
    let mut seen: BTreeMap<usize, u32> = BTreeMap::new();
    for cluster in planes.iter().flatten() {
        *seen.entry(cluster.lead).or_default() += 1;
    }
    seen.retain(|_, planes| *planes > 1);
    for id in seen.values_mut() {
        *id = *next_match;
        *next_match += 1;
    }
    seen
}

impl Arrays {
    /// Draws a cluster and appends its row, which `row` makes from the energy inside the image.
    fn push<'a>(
        &mut self,
        options: &Options,
        plane: Plane,
        cluster: &Cluster,
        row: impl FnOnce(f64) -> Row<'a>,
    ) {
        let start = self.images.len();
        self.images.resize(start + HEIGHT * options.width, 0.0);
        let image_energy = cluster.draw(plane, &mut self.images[start..], options.width);
        options.columns.push(&row(image_energy), &mut self.metadata);
        self.rows += 1;
    }
}
