//! What an online trigger chooses by: the efficiency for main tracks at a fixed share of background let through.

use serde::{Deserialize, Serialize};
use shared::metrics::Ranking;
use shared::plane::Plane;

use crate::bins::{ENERGY_EDGES, cut};
use crate::interval::{Interval, wilson};
use crate::numbers::Judged;
use crate::rows::Rows;

/// Shares of the background that are let through.
pub const BACKGROUND_RATES: [f64; 2] = [0.01, 0.001];

/// Efficiencies of all classifiers in one group of clusters at one background rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// `all`, a plane, or a bin of cluster energy in MeV
    pub group: String,
    /// Share of the group's background that may be called main track
    pub background_rate: f64,
    /// Background clusters of the group
    pub background: u64,
    /// Main tracks of the group
    pub main_tracks: u64,
    /// One for each classifier of the report, in its order; null where the group has too little background to tell
    pub points: Vec<Option<Point>>,
}

/// One classifier at its cut.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Score, or MeV, at or above which the rate is kept in this group
    pub threshold: f32,
    /// Share of the group's background above it
    pub background_rate: f64,
    /// Share of the group's main tracks above it
    pub efficiency: f64,
    /// Its 95 % Wilson interval; the choice of the cut on the same clusters is not in it
    pub efficiency_interval: Interval,
}

/// Operating points of all clusters together, of each plane, and of each bin of cluster energy.
pub fn points(rows: &Rows, judged: &[&Judged]) -> Vec<OperatingPoint> {
    let everything: Vec<usize> = (0..rows.len()).collect();
    let mut groups = vec![("all".to_owned(), everything)];
    let planes: Vec<Plane> = Plane::ALL.into_iter().filter(|plane| rows.plane.contains(plane)).collect();
    // The only plane of a set is the whole set.
    for plane in planes.iter().filter(|_| planes.len() > 1) {
        groups.push((format!("plane {plane}"), members(rows, |row| rows.plane[row] == *plane)));
    }
    let energies: Vec<f64> = rows.cluster_energy.iter().map(|&mev| f64::from(mev)).collect();
    let (bins, names) = cut(&energies, &ENERGY_EDGES);
    for (bin, (name, ..)) in names.iter().enumerate() {
        let rows = members(rows, |row| bins[row] == Some(bin));
        if !rows.is_empty() {
            groups.push((format!("{name} MeV"), rows));
        }
    }
    let at = |(name, members): &(String, Vec<usize>)| group_points(name, members, judged);
    groups.iter().flat_map(at).collect()
}

fn members(rows: &Rows, is_member: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..rows.len()).filter(|&row| is_member(row)).collect()
}

fn group_points(name: &str, members: &[usize], judged: &[&Judged]) -> Vec<OperatingPoint> {
    let labels: Vec<bool> = members.iter().map(|&row| judged[0].labels[row]).collect();
    let (background, main_tracks) = shared::metrics::class_counts(&labels);
    let rankings: Vec<Option<Ranking>> = judged
        .iter()
        .map(|judged| {
            let scores: Vec<f32> = members.iter().map(|&row| judged.scores[row]).collect();
            Ranking::new(&scores, &labels)
        })
        .collect();
    let at_rate = |rate: f64| OperatingPoint {
        group: name.to_owned(),
        background_rate: rate,
        background,
        main_tracks,
        points: rankings
            .iter()
            // With fewer than one expected background cluster above the cut, the cut is chance.
            .map(|ranking| ranking.as_ref().filter(|_| background as f64 * rate >= 1.0))
            .map(|ranking| point(ranking?, rate))
            .collect(),
    };
    BACKGROUND_RATES.map(at_rate).into()
}

fn point(ranking: &Ranking, rate: f64) -> Option<Point> {
    let point = ranking.cut_for_background_rate(rate)?;
    let c = point.confusion;
    Some(Point {
        threshold: point.threshold,
        background_rate: c.false_positive_rate(),
        efficiency: c.main_track().recall,
        efficiency_interval: wilson(c.true_positive, c.positives())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_percent_of_two_hundred_background_clusters_is_two() {
        let labels: Vec<bool> = (0..210).map(|row| row >= 200).collect();
        let rows = Rows {
            label: labels.clone(),
            plane: vec![Plane::X; 210],
            cluster_energy: vec![5.0; 210],
            ..Rows::default()
        };
        // Background 0 … 199; main tracks between and above: 5 at 196.5, 5 at 300.
        let scores: Vec<f32> = (0..210)
            .map(|row| {
                if row < 200 {
                    row as f32
                } else if row < 205 {
                    196.5
                } else {
                    300.0
                }
            })
            .collect();
        let judged = Judged::model(&scores, &labels, 0.5);
        let points = points(&rows, &[&judged]);
        assert_eq!(points.len(), 4, "all and one energy bin at two rates");
        let point = points[0].points[0].unwrap();
        assert!((point.efficiency - 0.5).abs() < 1e-12 && (point.background_rate - 0.01).abs() < 1e-12);
        assert!((point.threshold - 197.5).abs() < 1e-3);
        assert_eq!(points[1].points[0], None, "0.1 % of 200 is less than one");
    }
}
