//! Pruners: which running trials are stopped early.
//!
//! A trial is judged by the best value that it has reported so far, since training keeps the weights of its best
//! epoch. Steps are epochs, from 1.

use serde::{Deserialize, Serialize};

use super::journal::replay::StudyRecord;
use super::record::{State, TrialRecord};

/// Which trials are stopped early.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Pruner {
    /// None
    #[default]
    None,
    /// Those worse than the median of the complete ones at the same step
    Median {
        /// Complete trials before the first is stopped
        startup: u64,
        /// Steps that every trial may do
        warmup: u64,
    },
    /// Asynchronous successive halving: at each rung the best of `factor` go on, rounded up
    Asha {
        /// Steps up to the first rung
        min_steps: u64,
        /// Share of trials that go on, and ratio of the rungs
        factor: u64,
    },
    /// Successive halving with several first rungs, one for each bracket of trials
    Hyperband {
        /// Steps up to the first rung of the hardest bracket
        min_steps: u64,
        /// Most steps of a trial
        max_steps: u64,
        /// As in successive halving
        factor: u64,
    },
    /// What `inner` wants stopped, but only after so many steps without a better value
    Patient {
        /// Steps without a better value
        patience: u64,
        /// Who decides then
        inner: Box<Pruner>,
    },
}

/// A study's reports as a pruner sees them.
#[derive(Clone, Copy)]
struct View<'a> {
    study: &'a StudyRecord,
    trial: &'a TrialRecord,
}

impl Pruner {
    /// Whether a trial should stop after its last report.
    pub fn wants_stop(&self, study: &StudyRecord, trial: &TrialRecord) -> bool {
        let Some(&(step, _)) = trial.intermediate_values.last() else { return false };
        let view = View { study, trial };
        match self {
            Self::None => false,
            Self::Median { startup, warmup } => view.is_below_median(step, *startup, *warmup),
            Self::Asha { min_steps, factor } => view.loses_rung(step, *min_steps, *factor, |_| true),
            Self::Hyperband { min_steps, max_steps, factor } => {
                let brackets = Brackets::new(*min_steps, *max_steps, *factor);
                let own = brackets.of(trial.number);
                let first = min_steps * factor.pow(own);
                view.loses_rung(step, first, *factor, |other| brackets.of(other.number) == own)
            }
            Self::Patient { patience, inner } => {
                view.is_stuck(*patience as usize) && inner.wants_stop(study, trial)
            }
        }
    }
}

impl View<'_> {
    /// Best value up to a step, the smaller the better; none if there is none.
    fn loss(&self, trial: &TrialRecord, step: u64) -> Option<f64> {
        let sign = if self.study.maximise { -1.0 } else { 1.0 };
        let values = trial.intermediate_values.iter().take_while(|(at, _)| *at <= step);
        values.map(|(_, value)| sign * value).filter(|loss| !loss.is_nan()).reduce(f64::min)
    }

    fn is_below_median(&self, step: u64, startup: u64, warmup: u64) -> bool {
        let complete = self.study.trials.iter().filter(|trial| trial.state == State::Complete);
        let reached =
            complete.clone().filter(|trial| trial.intermediate_values.iter().any(|(s, _)| *s >= step));
        let mut others: Vec<f64> = reached.filter_map(|trial| self.loss(trial, step)).collect();
        if (complete.count() as u64) < startup || step <= warmup || others.is_empty() {
            return false;
        }
        others.sort_by(f64::total_cmp);
        let middle = others.len() / 2;
        let median =
            if others.len() % 2 == 1 { others[middle] } else { 0.5 * (others[middle - 1] + others[middle]) };
        self.loss(self.trial, step).is_none_or(|own| own > median)
    }

    /// At a rung: whether the trial is not among the best of those that reached it.
    fn loses_rung(
        &self,
        step: u64,
        first: u64,
        factor: u64,
        competes: impl Fn(&TrialRecord) -> bool,
    ) -> bool {
        let mut rung = first.max(1);
        while rung < step {
            rung *= factor.max(2);
        }
        if rung != step {
            return false;
        }
        let Some(own) = self.loss(self.trial, step) else { return true };
        let others =
            self.study.trials.iter().filter(|trial| trial.number != self.trial.number && competes(trial));
        let reached = others.filter(|trial| trial.intermediate_values.iter().any(|(s, _)| *s >= step));
        let losses: Vec<f64> = reached.filter_map(|trial| self.loss(trial, step)).collect();
        let better = losses.iter().filter(|loss| **loss < own).count() as u64;
        // Rounded up, unlike Optuna: while few have reached the rung, a late starter is not stopped for a rounding.
        let go_on = (losses.len() as u64 + 1).div_ceil(factor.max(2));
        better >= go_on
    }

    /// Whether the last `patience` steps and this one brought nothing better than the steps before.
    fn is_stuck(&self, patience: usize) -> bool {
        let steps = &self.trial.intermediate_values;
        if steps.len() <= patience + 1 {
            return false;
        }
        let split = steps[steps.len() - patience - 2].0;
        let before = self.loss(self.trial, split);
        self.loss(self.trial, u64::MAX) == before
    }
}

/// How trials are shared among the brackets of Hyperband: as Optuna does, in proportion to what each costs.
struct Brackets(Vec<u64>);

impl Brackets {
    fn new(min_steps: u64, max_steps: u64, factor: u64) -> Self {
        let factor = factor.max(2);
        let count = (max_steps.max(1) / min_steps.max(1)).max(1).ilog(factor) + 1;
        let share = |bracket: u32| {
            let rest = count - 1 - bracket;
            (u64::from(count) * factor.pow(rest)).div_ceil(u64::from(rest) + 1)
        };
        Self((0..count).map(share).collect())
    }

    fn of(&self, number: u64) -> u32 {
        let total: u64 = self.0.iter().sum();
        let mut at = crate::random::hash(0, "hyperband bracket", &number.to_le_bytes()) % total;
        for (bracket, share) in (0..).zip(&self.0) {
            if at < *share {
                return bracket;
            }
            at -= share;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    fn trial(number: u64, state: State, values: &[f64]) -> TrialRecord {
        TrialRecord {
            number,
            state,
            params: Vec::new(),
            value: values.last().copied(),
            intermediate_values: (1..).zip(values.iter().copied()).collect(),
            started: None,
            completed: None,
            user_attrs: Map::new(),
            system_attrs: Map::new(),
            owner: None,
        }
    }

    fn study(trials: Vec<TrialRecord>) -> StudyRecord {
        let trial_ids = (0..trials.len() as u64).collect();
        StudyRecord {
            name: "s".into(),
            maximise: true,
            user_attrs: Map::new(),
            system_attrs: Map::new(),
            trials,
            trial_ids,
            id: 0,
        }
    }

    fn stops(pruner: &Pruner, study: &StudyRecord, number: usize) -> bool {
        pruner.wants_stop(study, &study.trials[number])
    }

    #[test]
    fn the_median_pruner_waits_for_its_start_and_compares_best_values() {
        let complete = |number: u64, value: f64| trial(number, State::Complete, &[value, value]);
        let mut trials: Vec<TrialRecord> = (0..5).map(|i| complete(i, 0.5 + 0.1 * i as f64)).collect();
        trials.push(trial(5, State::Running, &[0.75, 0.1]));
        trials.push(trial(6, State::Running, &[0.6, 0.65]));
        trials.push(trial(7, State::Running, &[f64::NAN]));
        let study = study(trials);
        let pruner = Pruner::Median { startup: 5, warmup: 0 };
        assert!(!stops(&pruner, &study, 5), "its best, 0.75, is above the median 0.7");
        assert!(stops(&pruner, &study, 6));
        assert!(stops(&pruner, &study, 7));
        assert!(!stops(&Pruner::Median { startup: 6, warmup: 0 }, &study, 6));
        assert!(!stops(&Pruner::Median { startup: 5, warmup: 2 }, &study, 6));
    }

    #[test]
    fn halving_lets_the_best_third_go_on_at_each_rung() {
        let values = [0.5, 0.9, 0.6, 0.8, 0.7];
        let trials = (0..5).map(|i| trial(i, State::Running, &[0.0, values[i as usize]])).collect();
        let study = study(trials);
        let pruner = Pruner::Asha { min_steps: 2, factor: 3 };
        let stopped: Vec<bool> = (0..5).map(|i| stops(&pruner, &study, i)).collect();
        assert_eq!(stopped, [true, false, true, false, true], "of five, two go on");
        let off_rung = Pruner::Asha { min_steps: 1, factor: 3 };
        assert!((0..5).all(|i| !stops(&off_rung, &study, i)), "rungs are at 1, 3, 9");
    }

    #[test]
    fn brackets_get_their_share() {
        let brackets = Brackets::new(1, 9, 3);
        assert_eq!(brackets.0, [9, 5, 3]); // ceil(3·9/3), ceil(3·3/2), 3
        let mut counts = [0; 3];
        (0..17_000).for_each(|number| counts[brackets.of(number) as usize] += 1);
        assert!(
            counts.iter().zip([9000, 5000, 3000]).all(|(n, m): (&i32, i32)| (n - m).abs() < 300),
            "{counts:?}"
        );
    }

    #[test]
    fn patience_waits_for_steps_without_a_better_value() {
        let pruner =
            Pruner::Patient { patience: 1, inner: Box::new(Pruner::Asha { min_steps: 1, factor: 3 }) };
        let better = |number: u64| trial(number, State::Running, &[0.9; 3]);
        let study = study(vec![
            better(0),
            better(1),
            better(2),
            trial(3, State::Running, &[0.3, 0.2, 0.1]),
            trial(4, State::Running, &[0.3, 0.2, 0.4]),
        ]);
        assert!(stops(&pruner, &study, 3));
        assert!(!stops(&pruner, &study, 4), "its last step was its best");
    }
}
