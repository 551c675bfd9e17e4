//! How much each parameter matters: fANOVA, as Optuna has it.
//!
//! A random forest learns the objective; a parameter's importance is the share of the forest's variance that is left
//! when all other parameters are averaged out, the mean over the trees.

use rand::Rng;

use super::distribution::Distribution;
use super::record::{State, TrialRecord};
use super::sampler::point_of;
use super::space::Space;

const TREES: u64 = 64;

/// A regression tree; children come after their parent.
struct Tree(Vec<Node>);

enum Node {
    Leaf(f64),
    Split { feature: usize, threshold: f64, left: usize, right: usize },
}

/// Rows as the forest sees them: a choice is one column per value.
struct Table {
    rows: Vec<Vec<f64>>,
    values: Vec<f64>,
    /// Least and greatest value of each column
    bounds: Vec<(f64, f64)>,
    /// Columns of each parameter
    columns: Vec<Vec<usize>>,
}

/// Importance of each parameter, the greatest first; shares of the variance, which sum to at most 1 but for chance.
///
/// Only complete trials with every parameter count. Empty if fewer than two do, or if all values are equal.
pub fn fanova(space: &Space, trials: &[TrialRecord], seed: u64) -> Vec<(String, f64)> {
    let table = Table::new(space, trials);
    if table.rows.len() < 2 {
        return Vec::new();
    }
    let mut sums = vec![0.0; space.parameters.len()];
    let mut counted = 0.0;
    for index in 0..TREES {
        let tree = table.grow(&mut crate::random::stream(seed, "importance", &[index]));
        let all: Vec<usize> = (0..table.bounds.len()).collect();
        let variance = table.variance(&tree, &all);
        if variance > 0.0 {
            counted += 1.0;
            for (sum, columns) in sums.iter_mut().zip(&table.columns) {
                *sum += if columns.is_empty() { 0.0 } else { table.variance(&tree, columns) / variance };
            }
        }
    }
    if counted == 0.0 {
        return Vec::new();
    }
    let named = space.parameters.iter().zip(sums).map(|(p, sum)| (p.name.clone(), sum / counted));
    let mut importances: Vec<(String, f64)> = named.collect();
    importances.sort_by(|a, b| b.1.total_cmp(&a.1));
    importances
}

impl Table {
    fn new(space: &Space, trials: &[TrialRecord]) -> Self {
        let (mut bounds, mut columns) = (Vec::new(), Vec::new());
        for parameter in &space.parameters {
            let start = bounds.len();
            match &parameter.distribution {
                d if d.cardinality() == Some(1) => {}
                Distribution::Categorical { choices } => bounds.extend(choices.iter().map(|_| (0.0, 1.0))),
                Distribution::Int { low, high, .. } => bounds.push((*low as f64, *high as f64)),
                Distribution::Float { low, high, .. } => bounds.push((*low, *high)),
            }
            columns.push((start..bounds.len()).collect());
        }
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        for trial in trials.iter().filter(|trial| trial.state == State::Complete) {
            let point = point_of(space, trial);
            if let Some(value) = trial.value.filter(|value| value.is_finite())
                && point.iter().all(Option::is_some)
            {
                rows.push(encode(space, &point));
                values.push(value);
            }
        }
        Self { rows, values, bounds, columns }
    }

    /// A tree on a sample with replacement, grown until its leaves are pure.
    fn grow(&self, rng: &mut impl Rng) -> Tree {
        let n = self.rows.len() as u64;
        let sample: Vec<usize> = (0..n).map(|_| (rng.next_u64() % n) as usize).collect();
        let mut tree = Tree(Vec::new());
        self.grow_node(&mut tree, sample, rng);
        tree
    }

    fn grow_node(&self, tree: &mut Tree, sample: Vec<usize>, rng: &mut impl Rng) -> usize {
        let at = tree.0.len();
        let mean = sample.iter().map(|&i| self.values[i]).sum::<f64>() / sample.len() as f64;
        tree.0.push(Node::Leaf(mean));
        if let Some((feature, threshold)) = self.best_split(&sample, rng) {
            let (low, high): (Vec<usize>, Vec<usize>) =
                sample.into_iter().partition(|&i| self.rows[i][feature] <= threshold);
            let left = self.grow_node(tree, low, rng);
            let right = self.grow_node(tree, high, rng);
            tree.0[at] = Node::Split { feature, threshold, left, right };
        }
        at
    }

    /// The split that leaves the least squared error; of equal ones, any, since otherwise the first parameters would
    /// look more important.
    fn best_split(&self, sample: &[usize], rng: &mut impl Rng) -> Option<(usize, f64)> {
        let total: f64 = sample.iter().map(|&i| self.values[i]).sum();
        let squares: f64 = sample.iter().map(|&i| self.values[i].powi(2)).sum();
        let n = sample.len() as f64;
        if squares - total * total / n <= 1e-14 * squares.abs() {
            return None;
        }
        let mut best: Option<(f64, usize, f64)> = None;
        let mut order = sample.to_vec();
        let mut features: Vec<(u64, usize)> = (0..self.bounds.len()).map(|f| (rng.next_u64(), f)).collect();
        features.sort_unstable();
        for (_, feature) in features {
            let x = |i: usize| self.rows[i][feature];
            order.sort_by(|&a, &b| x(a).total_cmp(&x(b)));
            let mut left = 0.0;
            for (k, pair) in (1_u32..).zip(order.windows(2)) {
                left += self.values[pair[0]];
                if x(pair[0]) < x(pair[1]) {
                    let k = f64::from(k);
                    let gain = left * left / k + (total - left).powi(2) / (n - k);
                    if best.is_none_or(|(most, ..)| gain > most) {
                        best = Some((gain, feature, 0.5 * (x(pair[0]) + x(pair[1]))));
                    }
                }
            }
        }
        best.map(|(_, feature, threshold)| (feature, threshold))
    }

    /// Variance of the tree over some features, the others averaged out over their whole range.
    fn variance(&self, tree: &Tree, features: &[usize]) -> f64 {
        if features.len() == self.bounds.len() && features.len() > 1 {
            let mut leaves = Vec::new();
            self.leaves(tree, 0, &mut self.bounds.clone(), &mut leaves);
            return weighted_variance(&leaves);
        }
        let mut cells: Vec<(Vec<(usize, f64)>, f64)> = vec![(Vec::new(), 1.0)];
        for &feature in features {
            let cuts = self.cuts(tree, feature);
            let parts = cuts.windows(2).map(|pair| (0.5 * (pair[0] + pair[1]), pair[1] - pair[0]));
            let parts: Vec<(f64, f64)> = parts.collect();
            cells = cells
                .iter()
                .flat_map(|(fixed, weight)| {
                    parts.iter().map(move |(middle, size)| {
                        ([&fixed[..], &[(feature, *middle)]].concat(), weight * size)
                    })
                })
                .collect();
        }
        let means =
            cells.iter().map(|(fixed, weight)| (mean(tree, 0, fixed, &mut self.bounds.clone()), *weight));
        weighted_variance(&means.collect::<Vec<(f64, f64)>>())
    }

    fn cuts(&self, tree: &Tree, feature: usize) -> Vec<f64> {
        let (low, high) = self.bounds[feature];
        let mut cuts = vec![low, high];
        cuts.extend(tree.0.iter().filter_map(|node| match node {
            Node::Split { feature: f, threshold, .. } if *f == feature => Some(*threshold),
            _ => None,
        }));
        cuts.sort_by(f64::total_cmp);
        cuts.dedup();
        cuts
    }

    /// Value and volume of every leaf.
    fn leaves(&self, tree: &Tree, at: usize, region: &mut [(f64, f64)], found: &mut Vec<(f64, f64)>) {
        match &tree.0[at] {
            Node::Leaf(value) => {
                let relative = region.iter().zip(&self.bounds).map(|(r, b)| (r.1 - r.0) / (b.1 - b.0));
                found.push((*value, relative.product()));
            }
            Node::Split { feature, threshold, left, right } => {
                let (low, high) = region[*feature];
                region[*feature] = (low, *threshold);
                self.leaves(tree, *left, region, found);
                region[*feature] = (*threshold, high);
                self.leaves(tree, *right, region, found);
                region[*feature] = (low, high);
            }
        }
    }
}

fn encode(space: &Space, point: &[Option<f64>]) -> Vec<f64> {
    let mut row = Vec::new();
    for (parameter, value) in space.parameters.iter().zip(point) {
        let value = value.unwrap_or(0.0);
        match &parameter.distribution {
            d if d.cardinality() == Some(1) => {}
            Distribution::Categorical { choices } => {
                row.extend((0..choices.len()).map(|index| f64::from(u8::from(index == value as usize))));
            }
            _ => row.push(value),
        }
    }
    row
}

fn weighted_variance(pairs: &[(f64, f64)]) -> f64 {
    let total: f64 = pairs.iter().map(|(_, weight)| weight).sum();
    let mean = pairs.iter().map(|(value, weight)| value * weight).sum::<f64>() / total;
    pairs.iter().map(|(value, weight)| (value - mean).powi(2) * weight).sum::<f64>() / total
}

/// Mean of the tree over a box, with some features fixed.
fn mean(tree: &Tree, at: usize, fixed: &[(usize, f64)], region: &mut [(f64, f64)]) -> f64 {
    let (feature, threshold, left, right) = match &tree.0[at] {
        Node::Leaf(value) => return *value,
        Node::Split { feature, threshold, left, right } => (*feature, *threshold, *left, *right),
    };
    if let Some((_, value)) = fixed.iter().find(|(f, _)| *f == feature) {
        return mean(tree, if *value <= threshold { left } else { right }, fixed, region);
    }
    let (low, high) = region[feature];
    let share = (threshold - low) / (high - low);
    region[feature] = (low, threshold);
    let below = mean(tree, left, fixed, region);
    region[feature] = (threshold, high);
    let above = mean(tree, right, fixed, region);
    region[feature] = (low, high);
    share * below + (1.0 - share) * above
}
