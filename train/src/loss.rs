//! The training loss and the count of right rows, as parts of a step's graph.

use shared::config::{ClassWeight, Training};

use crate::graph::{Graph, GraphError, Id, Op};

/// What a training minimises: binary cross-entropy on logits, in nats, with what a config adds to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// Factors on rows of background and of main tracks
    pub class_weights: [f64; 2],
    /// Labels become `label · (1 - s) + s / 2`
    pub label_smoothing: f64,
    /// Focal loss in place of cross-entropy
    pub focal: Option<Focal>,
}

/// Focal loss (Lin et al. 2017), as Keras' `BinaryFocalCrossentropy`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Focal {
    /// Power of 1 - p
    pub gamma: f64,
    /// Factor on main tracks, 1 - alpha on background
    pub alpha: Option<f64>,
}

impl Default for Loss {
    fn default() -> Self {
        Self { class_weights: [1.0; 2], label_smoothing: 0.0, focal: None }
    }
}

impl Loss {
    /// The loss that a config asks for, on training rows of which `main` of `rows` are main tracks.
    ///
    /// `None` if the classes can't be balanced because one of them has no rows.
    pub fn new(training: &Training, main: usize, rows: usize) -> Option<Self> {
        let class_weights = match training.class_weight {
            None => [1.0; 2],
            Some(ClassWeight::Weights(weights)) => [weights.background, weights.main_track],
            Some(ClassWeight::Balanced(_)) if main == 0 || main == rows => return None,
            Some(ClassWeight::Balanced(_)) => {
                [rows - main, main].map(|of_class| rows as f64 / (2.0 * of_class as f64))
            }
        };
        let focal = training.focal_loss.as_ref();
        let focal = focal.map(|focal| Focal { gamma: focal.gamma, alpha: focal.alpha });
        Some(Self { class_weights, label_smoothing: training.label_smoothing, focal })
    }

    /// Sum of the loss over rows, each times its weight, shape `[1]`.
    ///
    /// - `logits`, `labels`, `weights`: `[n]`; labels are 0 or 1
    ///
    /// # Errors
    /// [`GraphError::Shape`]
    pub fn sum(&self, g: &mut Graph, logits: Id, labels: Id, weights: Id) -> Result<Id, GraphError> {
        if g.for_gpu && *self == Self::default() {
            return g.apply(Op::CrossEntropy, &[logits, labels, weights]);
        }
        let target = self.target(g, labels)?;
        // Cross-entropy: softplus(z) - y·z
        let softplus = g.softplus(logits)?;
        let product = g.mul(target, logits)?;
        let mut loss = g.sub(softplus, product)?;
        if let Some(focal) = self.focal {
            loss = self.focal(g, focal, loss, logits, labels)?;
            if let Some(alpha) = focal.alpha {
                let factor = between(g, 1.0 - alpha, alpha, target)?;
                loss = g.mul(loss, factor)?;
            }
        }
        let [background, main] = self.class_weights;
        if self.class_weights.iter().any(|weight| (weight - 1.0).abs() > 0.0) {
            let factor = between(g, background, main, labels)?;
            loss = g.mul(loss, factor)?;
        }
        let weighted = g.mul(loss, weights)?;
        g.sum_all(weighted)
    }

    /// Smoothed labels.
    fn target(&self, g: &mut Graph, labels: Id) -> Result<Id, GraphError> {
        let half = self.label_smoothing / 2.0;
        if half == 0.0 { Ok(labels) } else { between(g, half, 1.0 - half, labels) }
    }

    /// `loss · (1 - p)^gamma`, where p is the probability of the row's label.
    ///
    /// With s = z for a main track and -z for background, log(1 - p) = -softplus(s). A label that is smoothed by e = s/2 has
    /// 1 - p = (1 - e) σ(-s) + e σ(s), whose logarithm is -softplus(s) + log(1 - e) + softplus(s + log(e / (1 - e))):
    /// no difference of near numbers, and no power of 0 whose slope is infinite.
    fn focal(&self, g: &mut Graph, focal: Focal, loss: Id, logits: Id, labels: Id) -> Result<Id, GraphError> {
        if focal.gamma == 0.0 {
            return Ok(loss);
        }
        let sign = between(g, -1.0, 1.0, labels)?;
        let s = g.mul(logits, sign)?;
        let minus = g.float(-1.0);
        let softplus = g.softplus(s)?;
        let mut log = g.mul(softplus, minus)?;
        let half = self.label_smoothing / 2.0;
        if half > 0.0 {
            let shift = g.float((half / (1.0 - half)).ln() as f32);
            let shifted = g.add(s, shift)?;
            let rest = g.softplus(shifted)?;
            let sum = g.add(log, rest)?;
            let offset = g.float((1.0 - half).ln() as f32);
            log = g.add(sum, offset)?;
        }
        let gamma = g.float(focal.gamma as f32);
        let power = g.mul(log, gamma)?;
        let factor = g.exp(power)?;
        g.mul(loss, factor)
    }
}

/// `zero` where x is 0, `one` where it is 1, and what lies between where x does.
fn between(g: &mut Graph, zero: f64, one: f64, x: Id) -> Result<Id, GraphError> {
    let slope = g.float((one - zero) as f32);
    let start = g.float(zero as f32);
    let product = g.mul(x, slope)?;
    g.add(product, start)
}

/// Number of rows on the right side of probability 0.5.
pub(crate) fn correct(g: &mut Graph, logits: Id, labels: Id, weights: Id) -> Result<Id, GraphError> {
    if g.for_gpu {
        return g.apply(Op::Correct, &[logits, labels, weights]);
    }
    let zero = g.float(0.0);
    let called = g.at_least(logits, zero)?;
    // 1 - (called - label)²: no comparison of floats for equality needed.
    let difference = g.sub(called, labels)?;
    let square = g.mul(difference, difference)?;
    let one = g.float(1.0);
    let right = g.sub(one, square)?;
    let weighted = g.mul(right, weights)?;
    g.sum_all(weighted)
}

#[cfg(test)]
mod tests {
    use ort::value::Tensor;
    use prost::Message;
    use serde_json::{Value, json};
    use shared::onnx::DataType;
    use shared::runtime::{self, Device, Settings};

    use super::*;
    use crate::graph::lower::{Target, lower};

    const LOGITS: [f32; 10] = [-30.0, -7.5, -2.0, -0.5, 0.0, 0.25, 1.5, 4.0, 12.0, 40.0];

    /// Loss of each row and its slope: a graph for each of the rows, which stand alone with weight 1.
    fn by_graph(loss: &Loss, label: f32) -> Vec<(f64, f64)> {
        let mut g = Graph::default();
        let logits = g.input("logits", DataType::F32, &[1]);
        let labels = g.input("labels", DataType::F32, &[1]);
        let weights = g.floats(&[1], vec![1.0]);
        let sum = loss.sum(&mut g, logits, labels, weights).unwrap();
        let slope = g.gradients(sum, &[logits]).unwrap()[0];
        let model = lower(&g, &[("sum", sum), ("slope", slope)], Target::Stock).encode_to_vec();
        let mut session = runtime::session(&model, &Settings::new(Device::Cpu, 1)).unwrap();
        let run = |logit: &f32| {
            let scalar = |value: f32| Tensor::from_array(([1], vec![value])).unwrap();
            let feeds = ort::inputs!["logits" => scalar(*logit), "labels" => scalar(label)];
            let outputs = session.run(feeds).unwrap();
            let number = |name: &str| f64::from(outputs[name].try_extract_tensor::<f32>().unwrap().1[0]);
            (number("sum"), number("slope"))
        };
        LOGITS.iter().map(run).collect()
    }

    /// The loss of one row by the definitions of Keras, in f64.
    fn by_definition(loss: &Loss, logit: f64, label: f64) -> f64 {
        let target = label * (1.0 - loss.label_smoothing) + loss.label_smoothing / 2.0;
        let p = 1.0 / (1.0 + (-logit).exp());
        let mut value = logit.max(0.0) + (-logit.abs()).exp().ln_1p() - target * logit;
        if let Some(Focal { gamma, alpha }) = loss.focal {
            let other = target * (1.0 / (1.0 + logit.exp())) + (1.0 - target) * p;
            value *= other.powf(gamma) * alpha.map_or(1.0, |a| target * a + (1.0 - target) * (1.0 - a));
        }
        value * if label > 0.5 { loss.class_weights[1] } else { loss.class_weights[0] }
    }

    fn check(loss: &Loss) {
        for label in [0.0_f32, 1.0] {
            for (&logit, (value, slope)) in LOGITS.iter().zip(by_graph(loss, label)) {
                let at = |z: f64| by_definition(loss, z, f64::from(label));
                let z = f64::from(logit);
                let (expected, rise) = (at(z), (at(z + 1e-5) - at(z - 1e-5)) / 2e-5);
                let near = |a: f64, b: f64| (a - b).abs() < 2e-6 + 2e-5 * b.abs();
                assert!(near(value, expected), "{loss:?}, {label}, {logit}: {value} against {expected}");
                assert!(near(slope, rise), "{loss:?}, {label}, {logit}: slope {slope} against {rise}");
            }
        }
    }

    #[test]
    fn every_loss_and_its_gradient_follow_the_definition() {
        let plain = Loss::default();
        check(&plain);
        check(&Loss { class_weights: [0.6, 3.5], ..plain.clone() });
        check(&Loss { label_smoothing: 0.1, ..plain.clone() });
        for gamma in [0.0, 0.5, 1.0, 2.0, 3.3] {
            check(&Loss { focal: Some(Focal { gamma, alpha: None }), ..plain.clone() });
            let focal = Some(Focal { gamma, alpha: Some(0.25) });
            check(&Loss { class_weights: [0.6, 3.5], label_smoothing: 0.2, focal });
        }
    }

    #[test]
    fn a_row_of_no_weight_counts_for_nothing() {
        let mut g = Graph::default();
        let logits = g.input("logits", DataType::F32, &[3]);
        let labels = g.floats(&[3], vec![1.0, 0.0, 1.0]);
        let weights = g.floats(&[3], vec![1.0, 0.0, 1.0]);
        let focal = Some(Focal { gamma: 2.0, alpha: Some(0.25) });
        let loss = Loss { class_weights: [0.5, 2.0], label_smoothing: 0.1, focal };
        let sum = loss.sum(&mut g, logits, labels, weights).unwrap();
        let model = lower(&g, &[("sum", sum)], Target::Stock).encode_to_vec();
        let mut session = runtime::session(&model, &Settings::new(Device::Cpu, 1)).unwrap();
        let logits = Tensor::from_array(([3], vec![0.5_f32, 3.0, -1.0])).unwrap();
        let outputs = session.run(ort::inputs!["logits" => logits]).unwrap();
        let found = f64::from(outputs["sum"].try_extract_tensor::<f32>().unwrap().1[0]);
        let expected = by_definition(&loss, 0.5, 1.0) + by_definition(&loss, -1.0, 1.0);
        assert!((found - expected).abs() < 1e-6, "{found} against {expected}");
    }

    fn training(value: &Value) -> Training {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn balanced_weights_give_both_classes_the_same_sum() {
        let balanced = training(&json!({ "class_weight": "balanced" }));
        // sklearn.utils.class_weight.compute_class_weight("balanced", classes=[0, 1], y=[0] * 86 + [1] * 14)
        let [background, main] = Loss::new(&balanced, 14, 100).unwrap().class_weights;
        assert!((background - 0.581_395_348_837).abs() < 1e-9 && (main - 3.571_428_571_428).abs() < 1e-9);
        assert_eq!(Loss::new(&balanced, 0, 100), None);
        assert_eq!(Loss::new(&balanced, 100, 100), None);
        let given = training(&json!({ "class_weight": { "1": 4 } }));
        let expected = Loss { class_weights: [1.0, 4.0], ..Loss::default() };
        assert_eq!(Loss::new(&given, 0, 100).unwrap(), expected);
        assert_eq!(Loss::new(&training(&json!({})), 14, 100).unwrap(), Loss::default());
    }
}
