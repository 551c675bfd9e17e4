//! Clusters of trigger primitives: grouping, energy cut, and drawing into an image.

use rand::Rng;

use crate::{
    detector::{MAX_DRIFT, Plane, Primitive, read_out},
    transport::{Deposit, Track},
};

/// Ticks of an image, 0.512 µs each.
pub const HEIGHT: usize = 128;

/// Clusters below this energy are not kept, MeV.
pub const ENERGY_CUT: f64 = 2.0;

/// Deposits no farther apart than this (channels, ticks) belong to one cluster.
const REACH: (f64, f64) = (2.1, 18.0);

/// Groups with less true energy are not read out: noise never lifts them over the cut, MeV.
const HOPELESS: f64 = 1.7;

/// A cluster on one plane.
#[derive(Debug)]
pub(crate) struct Cluster {
    primitives: Vec<Primitive>,
    /// Of all primitives, those outside the image too, MeV.
    pub(crate) energy: f64,
    /// Index of the track with the largest energy.
    pub(crate) lead: usize,
}

/// The clusters of some tracks on `plane`, in the order of their first track.
pub(crate) fn find(plane: Plane, tracks: &[Track], rng: &mut impl Rng) -> Vec<Cluster> {
    let mut clusters = Vec::new();
    for members in groups(plane, tracks) {
        let energy: f64 = members.iter().map(|&i| tracks[i].energy).sum();
        if energy < HOPELESS {
            continue;
        }
        let lead =
            members.iter().copied().reduce(|a, b| if tracks[b].energy > tracks[a].energy { b } else { a });
        let Some(lead) = lead else { continue };
        let deposits: Vec<Deposit> = members.iter().flat_map(|&i| &tracks[i].deposits).copied().collect();
        let drift = MAX_DRIFT - tracks[lead].deposits[0].position[0].abs();
        let primitives = read_out(plane, &deposits, drift, rng);
        let sum: f64 = primitives.iter().flat_map(|p| &p.samples).map(|&adc| f64::from(adc)).sum();
        let energy = sum / plane.gain();
        if energy >= ENERGY_CUT {
            clusters.push(Cluster { primitives, energy, lead });
        }
    }
    clusters
}

/// Groups tracks that come within reach of each other on the plane.
fn groups(plane: Plane, tracks: &[Track]) -> Vec<Vec<usize>> {
    let points: Vec<Vec<(f64, f64)>> = tracks
        .iter()
        .map(|track| track.deposits.iter().map(|deposit| plane.project(deposit)).collect())
        .collect();
    let boxes: Vec<[f64; 4]> = points.iter().map(|points| bounds(points)).collect();
    let mut group: Vec<usize> = (0..tracks.len()).collect();
    for b in 1..tracks.len() {
        for a in 0..b {
            if group[a] != group[b] && near(&boxes[a], &boxes[b]) && touch(&points[a], &points[b]) {
                let (kept, merged) = (group[a].min(group[b]), group[a].max(group[b]));
                group.iter_mut().filter(|g| **g == merged).for_each(|g| *g = kept);
            }
        }
    }
    let mut members = vec![Vec::new(); tracks.len()];
    for (track, group) in group.into_iter().enumerate() {
        members[group].push(track);
    }
    members.retain(|group| !group.is_empty());
    members
}

/// Smallest channel and tick, largest channel and tick.
fn bounds(points: &[(f64, f64)]) -> [f64; 4] {
    points.iter().fold([f64::MAX, f64::MAX, f64::MIN, f64::MIN], |[c0, t0, c1, t1], &(c, t)| {
        [c0.min(c), t0.min(t), c1.max(c), t1.max(t)]
    })
}

fn near(a: &[f64; 4], b: &[f64; 4]) -> bool {
    let gap = |low: usize| (a[low] - b[low + 2]).max(b[low] - a[low + 2]);
    gap(0) <= REACH.0 && gap(1) <= REACH.1
}

fn touch(a: &[(f64, f64)], b: &[(f64, f64)]) -> bool {
    a.iter().any(|p| b.iter().any(|q| (p.0 - q.0).abs() <= REACH.0 && (p.1 - q.1).abs() <= REACH.1))
}

impl Cluster {
    /// Draws the cluster centred into `image` (zeros, `[HEIGHT, width]`); what lies outside is cut off.
    ///
    /// Returns the energy inside the image, MeV.
    pub(crate) fn draw(&self, plane: Plane, image: &mut [f32], width: usize) -> f64 {
        let (first_channel, first_tick) = self.corner(width as i32);
        let mut sum = 0.0;
        for primitive in &self.primitives {
            let Some(column) = inside(primitive.channel - first_channel, width) else { continue };
            for (offset, &adc) in primitive.samples.iter().enumerate() {
                if let Some(row) = inside(primitive.start - first_tick + offset as i32, HEIGHT) {
                    image[row * width + column] = adc;
                    sum += f64::from(adc);
                }
            }
        }
        sum / plane.gain()
    }

    /// The channel and tick of the image's first column and row: the cluster's bounding box is centred.
    fn corner(&self, width: i32) -> (i32, i32) {
        let channels = span(self.primitives.iter().map(|p| (p.channel, p.channel)));
        let ticks = span(self.primitives.iter().map(|p| (p.start, p.end)));
        let left = (width - 1) / 2 - (channels.1 - channels.0) / 2;
        let top = (HEIGHT as i32 - 1) / 2 - (ticks.1 - ticks.0) / 2;
        (channels.0 - left, ticks.0 - top)
    }
}

fn span(pairs: impl Iterator<Item = (i32, i32)>) -> (i32, i32) {
    pairs.fold((i32::MAX, i32::MIN), |(low, high), (a, b)| (low.min(a), high.max(b)))
}

fn inside(index: i32, size: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|index| *index < size)
}
