//! The tree-structured Parzen estimator, as Optuna 5 has it by default, but for the kernels of the best trials.
//!
//! The finished trials are split into the best few and the rest, with one [`Parzen`] over all parameters at once for
//! each; of some points drawn from the first, the one is taken that gains most over the second. Trials that are not
//! finished count among the rest (the constant liar), so that parallel workers keep off each other.
//!
//! Two things differ from Optuna, each for better values after 25 and 100 trials (`scripts/bench/README.md`): the best few
//! weigh by the square of their rank, where Optuna weighs them alike, and their kernels are narrower ([`Role`]).

use std::sync::Arc;

use super::parzen::{Parzen, Role};
use super::{History, Point};
use crate::study::distribution::Distribution;
use crate::study::record::{State, TrialRecord};
use crate::study::space::{Parameter, Space};

/// Trials drawn at random before the first estimate.
pub const STARTUP: usize = 10;
/// Points drawn for each trial.
pub const CANDIDATES: usize = 24;

/// Finished trials below and above the split, by number; the rest includes those in flight.
pub struct Split<'a> {
    below: Vec<&'a TrialRecord>,
    /// Weight of each trial below
    merits: Vec<f64>,
    above: Vec<&'a TrialRecord>,
}

/// How many of `n` finished trials are the best few.
fn gamma(n: usize) -> usize {
    n.div_ceil(10).min(25)
}

/// Weights of the best few, the best first: the square of the rank from below, with 1 in the mean.
fn merits(n: usize) -> impl Iterator<Item = f64> {
    let mean = (n + 1) as f64 * (2 * n + 1) as f64 / 6.0;
    (1..=n).rev().map(move |rank| (rank * rank) as f64 / mean)
}

impl<'a> Split<'a> {
    /// Split what a study knows.
    pub fn new(history: &History<'a>) -> Self {
        let sign = if history.maximise { -1.0 } else { 1.0 };
        let (mut complete, mut pruned) = (Vec::new(), Vec::new());
        for trial in history.trials {
            match trial.state {
                State::Complete => complete.push((trial.value.map_or(f64::INFINITY, |v| sign * v), trial)),
                State::Pruned => pruned.push(trial),
                State::Running | State::Waiting | State::Fail => {}
            }
        }
        let count = gamma(complete.len() + pruned.len());
        let best = count.min(complete.len());
        if best > 0 {
            // Of equal values the earlier trial is better, as in a stable sort.
            let order = |a: &(f64, &TrialRecord), b: &(f64, &TrialRecord)| {
                a.0.total_cmp(&b.0).then(a.1.number.cmp(&b.1.number))
            };
            complete.select_nth_unstable_by(best - 1, order);
            complete[..best].sort_by(order);
        }
        let mut below: Vec<&TrialRecord> = complete[..best].iter().map(|(_, trial)| *trial).collect();
        // Pruned trials: the later the better, then by their last value.
        let last = |trial: &TrialRecord| match trial.intermediate_values.last() {
            Some((_, value)) if value.is_nan() => f64::INFINITY,
            Some((_, value)) => sign * value,
            None => 0.0,
        };
        let steps =
            |trial: &TrialRecord| trial.intermediate_values.last().map_or(-1, |(step, _)| step.cast_signed());
        pruned.sort_by(|a, b| steps(b).cmp(&steps(a)).then(last(a).total_cmp(&last(b))));
        pruned.truncate(count - best);
        below.extend(pruned);
        let mut ranked: Vec<(&TrialRecord, f64)> = below.iter().copied().zip(merits(below.len())).collect();
        ranked.sort_by_key(|(trial, _)| trial.number);
        let is_below = |number: u64| ranked.binary_search_by_key(&number, |(trial, _)| trial.number).is_ok();
        let rest = |trial: &&TrialRecord| trial.state != State::Fail && !is_below(trial.number);
        let above = history.trials.iter().filter(rest).collect();
        let (below, merits) = ranked.into_iter().unzip();
        Self { below, merits, above }
    }
}

/// Candidates for a trial, the most promising first.
///
/// - `uniform`: numbers in `0.0..1.0`
pub fn candidates(
    space: &Space,
    split: &Split<'_>,
    count: usize,
    uniform: &mut impl FnMut() -> f64,
) -> Vec<Point> {
    let all: Vec<usize> = (0..space.parameters.len()).collect();
    let (free, conditional): (Vec<usize>, Vec<usize>) =
        all.into_iter().partition(|&i| space.parameters[i].when.is_none());
    let mut points: Vec<Point> = group(space, &free, split, count, uniform)
        .into_iter()
        .map(|values| {
            let mut point: Point = vec![None; space.parameters.len()];
            free.iter().zip(values).for_each(|(&i, value)| point[i] = Some(value));
            point
        })
        .collect();
    for group_members in by_condition(space, &conditional) {
        for point in &mut points {
            let drawn = super::params_of(space, point);
            if space.parameters[group_members[0]].when.as_ref().is_some_and(|when| when.holds(&drawn)) {
                let best = group(space, &group_members, split, CANDIDATES, uniform).swap_remove(0);
                group_members.iter().zip(best).for_each(|(&i, value)| point[i] = Some(value));
            }
        }
    }
    points
}

fn by_condition(space: &Space, members: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &i in members {
        let when = &space.parameters[i].when;
        match groups.iter_mut().find(|group| space.parameters[group[0]].when == *when) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

/// Joint draws of some parameters, the most promising first.
fn group(
    space: &Space,
    members: &[usize],
    split: &Split<'_>,
    count: usize,
    uniform: &mut impl FnMut() -> f64,
) -> Vec<Vec<f64>> {
    let parameters: Vec<&Parameter> = members.iter().map(|&i| &space.parameters[i]).collect();
    let distributions: Vec<&Distribution> = parameters.iter().map(|p| &p.distribution).collect();
    let (best, kept) = columns(&parameters, &split.below);
    let merits = kept.into_iter().map(|row| split.merits[row]).collect();
    let below = Parzen::new(&distributions, best, &Role::Best(merits));
    let above = Parzen::new(&distributions, columns(&parameters, &split.above).0, &Role::Rest);
    let points: Vec<Vec<f64>> = (0..count).map(|_| below.sample(uniform)).collect();
    let gains: Vec<f64> = below
        .log_pdf(&points)
        .iter()
        .zip(above.log_pdf(&points))
        .map(|(below, above)| below - above)
        .collect();
    let mut ranked: Vec<(f64, Vec<f64>)> = gains.into_iter().zip(points).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().map(|(_, point)| point).collect()
}

/// Values of the trials that have all of the parameters, within today's space, and which trials these are.
fn columns(parameters: &[&Parameter], trials: &[&TrialRecord]) -> (Vec<Vec<f64>>, Vec<usize>) {
    let mut kept = Vec::with_capacity(trials.len());
    let mut columns: Vec<Vec<f64>> = parameters.iter().map(|_| Vec::with_capacity(trials.len())).collect();
    let mut readers: Vec<Reader<'_>> =
        parameters.iter().map(|parameter| Reader { parameter, position: 0, known: None }).collect();
    for (i, trial) in trials.iter().enumerate() {
        let is_whole = columns.iter_mut().zip(&mut readers).all(|(column, reader)| {
            let value = reader.read(trial);
            column.extend(value);
            value.is_some()
        });
        if is_whole {
            kept.push(i);
        } else {
            for column in &mut columns {
                column.truncate(kept.len());
            }
        }
    }
    (columns, kept)
}

/// Reads one parameter of many trials, which mostly have it at the same place with the same distribution.
struct Reader<'a> {
    parameter: &'a Parameter,
    position: usize,
    /// Name and distribution that were found to be the parameter's own
    known: Option<(*const u8, *const Distribution)>,
}

impl Reader<'_> {
    /// The trial's value in terms of today's distribution.
    fn read(&mut self, trial: &TrialRecord) -> Option<f64> {
        if let Some(param) = trial.params.get(self.position)
            && self.known == Some((param.name.as_ptr(), Arc::as_ptr(&param.distribution)))
        {
            return Some(param.internal);
        }
        let position = trial.params.iter().position(|param| *param.name == *self.parameter.name)?;
        let param = &trial.params[position];
        if *param.distribution == self.parameter.distribution {
            self.position = position;
            self.known = Some((param.name.as_ptr(), Arc::as_ptr(&param.distribution)));
            return Some(param.internal);
        }
        self.parameter.distribution.internal(&param.distribution.external(param.internal)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    fn trial(number: u64, state: State, value: Option<f64>) -> TrialRecord {
        TrialRecord {
            number,
            state,
            params: Vec::new(),
            value,
            intermediate_values: Vec::new(),
            started: None,
            completed: None,
            user_attrs: Map::new(),
            system_attrs: Map::new(),
            owner: None,
        }
    }

    #[test]
    fn the_best_trials_weigh_by_the_square_of_their_rank() {
        let values = [0.5, 0.9, 0.1, 0.3, 0.8];
        let mut trials: Vec<TrialRecord> = (0..25)
            .map(|i| trial(i, State::Complete, Some(values[i as usize % 5] - 0.001 * i as f64)))
            .collect();
        trials.push(trial(25, State::Running, None));
        let split = Split::new(&History { trials: &trials, maximise: true });
        // 3 of 25; the first of the 0.9 is the greatest, so it weighs most.
        let below: Vec<(u64, f64)> =
            split.below.iter().map(|trial| trial.number).zip(split.merits.iter().copied()).collect();
        let weight = |rank: f64| rank * rank / (14.0 / 3.0);
        assert_eq!(below, [(1, weight(3.0)), (6, weight(2.0)), (11, weight(1.0))]);
        assert_eq!(split.above.len(), 23);
    }
}
