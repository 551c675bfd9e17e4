//! Efficiency, purity and F1 in bins of what is known of a cluster, for every classifier side by side.

use serde::{Deserialize, Serialize};
use shared::metrics::Confusion;
use shared::plane::Plane;

use crate::interval::{Interval, wilson};
use crate::numbers::Judged;
use crate::rows::Rows;

/// Edges in MeV of the bins of cluster energy.
pub const ENERGY_EDGES: [f64; 11] = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 70.0];
/// Edges in MeV of the bins of neutrino energy.
const NEUTRINO_EDGES: [f64; 9] = [0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 70.0];
/// Edges in channels of the bins of track length.
const CHANNEL_EDGES: [f64; 8] = [0.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0];
/// Bins along each axis of the detector.
const POSITION_BINS: usize = 6;

/// Rates by one quantity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BinTable {
    /// What is binned, such as `cluster energy`
    pub quantity: String,
    /// Its unit; empty for classes
    pub unit: String,
    /// The bins in order, without the empty ones
    pub bins: Vec<Bin>,
}

/// One bin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Its name, such as `2–4` or `ES`
    pub name: String,
    /// Lower edge, included; null for a class
    pub low: Option<f64>,
    /// Upper edge; null for a class or an open bin
    pub high: Option<f64>,
    /// Clusters in it
    pub n: u64,
    /// Main tracks among them
    pub main_tracks: u64,
    /// A row for each classifier of the report, in its order
    pub rates: Vec<Rates>,
}

/// Rates of one classifier in one bin; null where there is nothing to divide by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Share of the main tracks that are found
    pub efficiency: Option<f64>,
    /// Its 95 % Wilson interval
    pub efficiency_interval: Option<Interval>,
    /// Share of what is called main track that is one; null in a bin without background
    pub purity: Option<f64>,
    /// Its 95 % Wilson interval
    pub purity_interval: Option<Interval>,
    /// F1 of the main-track class; null in a bin without background or without main tracks
    pub f1: Option<f64>,
}

/// All tables of a report.
///
/// - `judged`: the classifiers of the report in its order
pub fn tables(rows: &Rows, judged: &[&Judged]) -> Vec<BinTable> {
    let real = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
    let by = |quantity: &str, unit: &str, values: &[f64], edges: &[f64]| {
        let (at, names) = cut(values, edges);
        table(quantity, unit, &at, names, judged)
    };
    let channels: Vec<f64> = rows.channels.iter().map(|&n| f64::from(n)).collect();
    let mut tables = vec![
        by("cluster energy", "MeV", &real(&rows.cluster_energy), &ENERGY_EDGES),
        by("neutrino energy", "MeV", &real(&rows.neutrino_energy), &NEUTRINO_EDGES),
        by("track length", "channels", &channels, &CHANNEL_EDGES),
    ];
    let interactions = rows.is_es.iter().map(|&es| Some(usize::from(!es))).collect::<Vec<_>>();
    tables.push(table("interaction", "", &interactions, classes(&["ES", "CC"]), judged));
    let planes = rows.plane.iter().map(|&plane| Some(plane as usize)).collect::<Vec<_>>();
    tables.push(table("plane", "", &planes, classes(&Plane::ALL.map(Plane::letter)), judged));
    for (axis, values) in ["x", "y", "z"].into_iter().zip(&rows.position) {
        let values = real(values);
        tables.push(by(&format!("position {axis}"), "cm", &values, &even_edges(&values)));
    }
    tables.retain(|table| !table.bins.is_empty());
    tables
}

/// Name and edges of a bin.
type Named = (String, Option<f64>, Option<f64>);

fn classes(names: &[&str]) -> Vec<Named> {
    names.iter().map(|&name| (name.to_owned(), None, None)).collect()
}

/// The bin of each value (none for NaN and below the first edge), and the bins; the last one is open.
pub fn cut(values: &[f64], edges: &[f64]) -> (Vec<Option<usize>>, Vec<Named>) {
    let at =
        values.iter().map(|&value| edges.partition_point(|&edge| edge <= value).checked_sub(1)).collect();
    let named = |i: usize| match edges.get(i + 1) {
        Some(&high) => (format!("{}–{high}", edges[i]), Some(edges[i]), Some(high)),
        None => (format!("≥ {}", edges[i]), Some(edges[i]), None),
    };
    (at, (0..edges.len()).map(named).collect())
}

/// Round edges of even bins over all finite values.
fn even_edges(values: &[f64]) -> Vec<f64> {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return vec![0.0];
    }
    let step = ((high - low) / POSITION_BINS as f64).max(1.0);
    let magnitude = 10_f64.powf(step.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|&s| s >= step).unwrap_or(step);
    let first = (low / step).floor();
    let bins = ((high / step).floor() - first) as usize + 1;
    (0..bins).map(|i| (first + i as f64) * step).collect()
}

fn table(
    quantity: &str,
    unit: &str,
    at: &[Option<usize>],
    names: Vec<Named>,
    judged: &[&Judged],
) -> BinTable {
    let counts: Vec<Vec<Confusion>> = judged.iter().map(|j| confusions(j, at, names.len())).collect();
    let bin = |(i, (name, low, high)): (usize, Named)| {
        let first = counts[0][i];
        Bin {
            name,
            low,
            high,
            n: first.total() as u64,
            main_tracks: first.positives() as u64,
            rates: counts.iter().map(|confusions| rates(&confusions[i])).collect(),
        }
    };
    let bins = names.into_iter().enumerate().map(bin).filter(|bin| bin.n > 0).collect();
    BinTable { quantity: quantity.into(), unit: unit.into(), bins }
}

fn confusions(judged: &Judged, at: &[Option<usize>], bins: usize) -> Vec<Confusion> {
    let mut cells = vec![[[0_u64; 2]; 2]; bins];
    for ((&score, &label), at) in judged.scores.iter().zip(judged.labels).zip(at) {
        if let Some(at) = at {
            cells[*at][usize::from(label)][usize::from(score >= judged.threshold)] += 1;
        }
    }
    cells.iter().map(|c| Confusion::from_counts(c[1][1], c[0][1], c[1][0], c[0][0])).collect()
}

fn rates(c: &Confusion) -> Rates {
    let called = c.true_positive + c.false_positive;
    let efficient = c.positives() > 0.0;
    let pure = c.negatives() > 0.0 && called > 0.0;
    Rates {
        efficiency: efficient.then(|| c.main_track().recall),
        efficiency_interval: wilson(c.true_positive, c.positives()),
        purity: pure.then(|| c.main_track().precision),
        purity_interval: wilson(c.true_positive, called).filter(|_| pure),
        f1: (efficient && c.negatives() > 0.0).then(|| c.f1()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bin_with_their_lower_edge_and_the_last_is_open() {
        let (at, names) = cut(&[-1.0, 0.0, 1.99, 2.0, 99.0, f64::NAN], &[0.0, 2.0]);
        assert_eq!(at, [None, Some(0), Some(0), Some(1), Some(1), None]);
        assert_eq!(names[1].0, "≥ 2");
    }

    #[test]
    fn even_edges_are_round_and_cover_everything() {
        let edges = even_edges(&[-231.0, 57.0, f64::NAN, 640.0]);
        assert_eq!(edges, [-400.0, -200.0, 0.0, 200.0, 400.0, 600.0]);
    }

    #[test]
    fn bins_hold_their_own_rates() {
        let rows = Rows {
            label: vec![true, true, false, true],
            cluster_energy: vec![3.0, 3.0, 3.0, 12.0],
            plane: vec![Plane::X; 4],
            is_es: vec![true; 4],
            channels: vec![2; 4],
            ..Rows::default()
        };
        let scores = [0.9, 0.1, 0.8, 0.9];
        let judged = Judged::model(&scores, &rows.label, 0.5);
        let tables = tables(&rows, &[&judged]);
        let bin = &tables[0].bins[0];
        assert_eq!((bin.name.as_str(), bin.n, bin.main_tracks), ("2–4", 3, 2));
        assert_eq!((bin.rates[0].efficiency, bin.rates[0].purity), (Some(0.5), Some(0.5)));
        assert_eq!(tables[0].bins[1].rates[0].purity, None, "no background there to be told from");
    }
}
