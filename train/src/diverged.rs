//! A training whose loss is no number: which step it was, and where the gradient was largest.

use shared::network::Layers;

use crate::checkpoint::Checkpoint;
use crate::engine::{Engine, EngineError, Weights};
use crate::error::Error;
use crate::optimizer::BETA_1;
use crate::parameters::{self, Parameter};
use crate::schedule::Rates;
use crate::step::StepPlan;
use crate::training::{self, Setup};

/// A parameter and the largest absolute element of its gradient; infinite if one is not finite.
#[derive(Debug, Clone, PartialEq)]
struct Largest {
    name: String,
    value: f64,
}

/// Take the epoch's steps again, one by one, until the loss or a gradient is not finite; returns the error to report.
///
/// A loss that is not finite comes from weights that a step before it broke, so then the gradient of that step is named.
/// Gradients are those that Adam saw, after clipping.
///
/// # Errors
/// [`EngineError::Run`]
pub(crate) fn explain(
    engine: &mut Engine,
    setup: &Setup,
    plan: &StepPlan,
    layers: &Layers,
    rates: &Rates,
    checkpoint: &Checkpoint,
    epoch: u32,
) -> Result<Error, EngineError> {
    let parameters = parameters::parameters(layers, plan.network.kernel);
    training::start_epoch(engine, setup, plan, rates, checkpoint, epoch)?;
    let first = checkpoint.progress.partial.unwrap_or_default().steps;
    let mut before = checkpoint.last.clone();
    let mut found: Option<(usize, Largest)> = None;
    for step in first..plan.steps_per_epoch {
        engine.step()?;
        let after = engine.weights()?;
        let here = largest(&parameters, &before, &after);
        if !engine.sums()?.0.is_finite() {
            let cause = found.map_or(here, |(_, before)| before);
            found = Some((step, cause));
            break;
        }
        let broken = here.value.is_infinite();
        found = Some((step, here));
        if broken {
            break;
        }
        before = after;
    }
    let (step, Largest { name, value }) =
        found.unwrap_or_else(|| (first, largest(&parameters, &checkpoint.last, &checkpoint.last)));
    Ok(Error::Diverged { trial: setup.trial, epoch, step: step + 1, layer: name, gradient: value })
}

/// The parameter with the largest gradient of a step; of equal ones the last, where gradients come from.
fn largest(parameters: &[Parameter], before: &Weights, after: &Weights) -> Largest {
    let of = |p: &Parameter| {
        // m' = β₁ m + (1 - β₁) g gives the gradient back.
        let gradient = |i: usize| {
            let g = (f64::from(after.m[i]) - BETA_1 * f64::from(before.m[i])) / (1.0 - BETA_1);
            if g.is_finite() { g.abs() } else { f64::INFINITY }
        };
        let value = (p.start..p.start + p.len()).map(gradient).fold(0.0, f64::max);
        Largest { name: p.name.clone(), value }
    };
    let all = parameters.iter().map(of);
    all.max_by(|a, b| a.value.total_cmp(&b.value)).expect("a network has parameters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, start: usize) -> Parameter {
        Parameter { name: name.into(), shape: vec![2], start, fans: None }
    }

    #[test]
    fn the_largest_gradient_is_found_in_adams_memory() {
        let parameters = [parameter("a", 0), parameter("b", 2), parameter("c", 4)];
        let weights = |m: [f32; 6]| Weights { m: m.to_vec(), ..Weights::start(vec![0.0; 6]) };
        let before = weights([1.0, 0.0, 0.0, 2.0, 0.0, 0.0]);
        // Gradients 0, 1, 0, -30, 2, 2.
        let after = weights([0.9, 0.1, 0.0, -1.2, 0.2, 0.2]);
        let found = largest(&parameters, &before, &after);
        assert_eq!(found.name, "b");
        assert!((found.value - 30.0).abs() < 1e-5, "{}", found.value);
        // What is not a number counts as the largest.
        let found = largest(&parameters, &before, &weights([f32::NAN, 0.0, 0.0, 0.0, f32::INFINITY, 0.0]));
        assert_eq!(found, Largest { name: "c".into(), value: f64::INFINITY });
    }
}
