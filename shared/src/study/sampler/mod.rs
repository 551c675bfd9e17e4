//! Samplers: what a study tries next.
//!
//! Trial N's parameters depend on (seed, N) and on the trials that the sampler sees, and on nothing else.

pub mod normal;
pub mod parzen;
pub mod random;
pub mod sobol;
pub mod tpe;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::StudyError;
use super::record::{State, TrialRecord};
use super::space::Space;

/// How the next trial is chosen
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SamplerKind {
    /// Learn from the trials so far (tree-structured Parzen estimator)
    #[default]
    Tpe,
    /// Draw every trial on its own
    Random,
    /// Fill the space evenly (scrambled Sobol sequence)
    Sobol,
    /// Try every point in order; a continuous range has five
    Grid,
}

/// What a sampler sees of a study.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// All trials by number
    pub trials: &'a [TrialRecord],
    /// Whether greater is better
    pub maximise: bool,
}

/// Internal values in the order of the space; none where a parameter is not drawn.
pub type Point = Vec<Option<f64>>;

/// Says why a trial with these parameters can't exist.
pub type Check<'a> = &'a dyn Fn(&Map<String, Value>) -> Result<(), String>;

/// Chooses the parameters of trials.
#[derive(Clone, Copy)]
pub struct Sampler<'a> {
    /// How
    pub kind: SamplerKind,
    /// Seed of the study
    pub seed: u64,
    /// From what
    pub space: &'a Space,
    /// What can exist
    pub check: Check<'a>,
}

/// Draws at random before the rest of a discrete space is listed.
const ATTEMPTS: u64 = 200;
/// Points of a continuous range in a grid.
const LEVELS: u64 = 5;
/// Largest discrete space that is listed.
const LISTED: u64 = 1_000_000;

impl Sampler<'_> {
    /// Parameters of trial `number`.
    ///
    /// Points that can't exist and, in a discrete space, points that were tried are never chosen.
    ///
    /// # Errors
    /// [`StudyError::Impossible`] if nothing of the space can exist; [`StudyError::Exhausted`] if all was tried.
    pub fn draw(&self, number: u64, history: &History<'_>) -> Result<Point, StudyError> {
        let seen = self.seen(history);
        if self.kind == SamplerKind::Tpe
            && let Some(point) = self.draw_tpe(number, history, &seen)
        {
            return Ok(point);
        }
        if self.kind == SamplerKind::Grid {
            return self.draw_grid(&seen);
        }
        // TPE starts with evenly spread trials, which is worth a few random ones.
        if matches!(self.kind, SamplerKind::Sobol | SamplerKind::Tpe) {
            let mut dimension = 0..;
            let mut next = || sobol::coordinate(self.seed, dimension.next().unwrap_or(0), number);
            let point = at_random(self.space, &mut next);
            if self.is_new(&point, &seen) {
                return Ok(point);
            }
        }
        let mut rng = crate::random::stream(self.seed, "trial parameters, at random", &[number]);
        let mut reason = None;
        for _ in 0..ATTEMPTS {
            let point = at_random(self.space, &mut || random::unit(&mut rng));
            match (self.check)(&params_of(self.space, &point)) {
                Err(why) => reason = Some(why),
                Ok(()) if seen.contains(&key(&point)) => {}
                Ok(()) => return Ok(point),
            }
        }
        self.draw_rest(&seen, reason, random::unit(&mut rng))
    }

    /// What TPE proposes; none at the start, or if it proposes nothing new.
    fn draw_tpe(&self, number: u64, history: &History<'_>, seen: &HashSet<Vec<u64>>) -> Option<Point> {
        let finished =
            history.trials.iter().filter(|t| matches!(t.state, State::Complete | State::Pruned)).count();
        if finished < tpe::STARTUP || self.space.parameters.is_empty() {
            return None;
        }
        let split = tpe::Split::new(history);
        let mut rng = crate::random::stream(self.seed, "trial parameters, by TPE", &[number]);
        let mut uniform = || random::unit(&mut rng);
        (0..8).find_map(|_| {
            let candidates = tpe::candidates(self.space, &split, tpe::CANDIDATES, &mut uniform);
            candidates.into_iter().find(|point| self.is_new(point, seen))
        })
    }

    fn is_new(&self, point: &Point, seen: &HashSet<Vec<u64>>) -> bool {
        !seen.contains(&key(point)) && (self.check)(&params_of(self.space, point)).is_ok()
    }

    /// Points that were tried, if the space is discrete.
    fn seen(&self, history: &History<'_>) -> HashSet<Vec<u64>> {
        if self.space.size().is_none() && self.kind != SamplerKind::Grid {
            return HashSet::new();
        }
        let live = history.trials.iter().filter(|trial| trial.state != State::Fail);
        live.map(|trial| key(&point_of(self.space, trial))).collect()
    }

    /// The first point of the grid that is new.
    fn draw_grid(&self, seen: &HashSet<Vec<u64>>) -> Result<Point, StudyError> {
        let levels = |p: &super::space::Parameter| p.distribution.cardinality().unwrap_or(LEVELS);
        let size = self.space.parameters.iter().fold(1_u64, |size, p| size.saturating_mul(levels(p)));
        if size > LISTED {
            let reason =
                format!("the grid has {size} points, more than {LISTED}; narrow it, or use another sampler");
            return Err(StudyError::Impossible { reason });
        }
        let points = self.space.points(LEVELS);
        if let Some(point) = points.iter().find(|point| self.is_new(point, seen)) {
            return Ok(point.clone());
        }
        let reason = points.iter().find_map(|point| (self.check)(&params_of(self.space, point)).err());
        match reason {
            Some(reason) if seen.is_empty() => Err(StudyError::Impossible { reason }),
            _ => Err(StudyError::Exhausted),
        }
    }

    /// One of the points that are left, from a list of all.
    fn draw_rest(
        &self,
        seen: &HashSet<Vec<u64>>,
        reason: Option<String>,
        share: f64,
    ) -> Result<Point, StudyError> {
        let impossible = |reason: Option<String>| StudyError::Impossible {
            reason: reason.unwrap_or_else(|| format!("none of {ATTEMPTS} draws was new")),
        };
        if self.space.size().is_none_or(|size| size > LISTED) {
            return Err(impossible(reason));
        }
        let mut rest = self.space.points(LEVELS);
        rest.retain(|point| self.is_new(point, seen));
        if rest.is_empty() {
            return Err(if seen.is_empty() { impossible(reason) } else { StudyError::Exhausted });
        }
        let at = (share * rest.len() as f64) as usize;
        Ok(rest.swap_remove(at))
    }
}

/// A point with every parameter drawn on its own.
fn at_random(space: &Space, uniform: &mut impl FnMut() -> f64) -> Point {
    let mut point: Point = vec![None; space.parameters.len()];
    for (i, parameter) in space.parameters.iter().enumerate() {
        let value = random::at(&parameter.distribution, uniform());
        if parameter.when.as_ref().is_none_or(|when| when.holds(&params_of(space, &point))) {
            point[i] = Some(value);
        }
    }
    point
}

/// A point as people see it.
pub fn params_of(space: &Space, point: &Point) -> Map<String, Value> {
    let pairs = space.parameters.iter().zip(point).filter_map(|(parameter, value)| {
        Some((parameter.name.clone(), parameter.distribution.external((*value)?)?))
    });
    pairs.collect()
}

/// A trial as a point of the space; none where it has no such value.
pub fn point_of(space: &Space, trial: &TrialRecord) -> Point {
    let value = |parameter: &super::space::Parameter| {
        let param = trial.params.iter().find(|param| *param.name == *parameter.name)?;
        if *param.distribution == parameter.distribution {
            return Some(param.internal);
        }
        parameter.distribution.internal(&param.distribution.external(param.internal)?)
    };
    space.parameters.iter().map(value).collect()
}

fn key(point: &Point) -> Vec<u64> {
    point.iter().map(|value| value.map_or(u64::MAX, f64::to_bits)).collect()
}
