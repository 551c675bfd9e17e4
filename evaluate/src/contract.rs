//! How a model takes its images and gives its scores, found out from its shapes and operators.

use std::fmt;

use ort::session::Session;
use ort::value::{TensorElementType, ValueType};

/// Order of the axes of the input; the values lie in memory alike in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum InputLayout {
    /// `[batch, height, width]`, as `train` exports
    Bhw,
    /// `[batch, height, width, 1]`, as Keras has it
    Nhwc,
    /// `[batch, 1, height, width]`, as PyTorch has it
    Nchw,
    /// `[batch, height · width]`
    Flat,
}

/// Meaning of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputKind {
    /// Probability of a main track
    Probability,
    /// Its logarithmic odds, before the sigmoid
    Logit,
    /// Probabilities of background and main track
    Pair,
    /// Values for background and main track before the softmax
    LogitPair,
}

/// What is known of a model's input and output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// Name of the input
    pub input: String,
    /// Name of the output
    pub output: String,
    /// Order of the input's axes
    pub layout: InputLayout,
    /// Meaning of the output
    pub kind: OutputKind,
    /// The only batch size that the model takes, if it is fixed
    pub batch: Option<usize>,
}

/// What doesn't fit: what was found and what was expected.
#[derive(Debug, PartialEq, Eq)]
pub struct Misfit {
    /// What the model has
    pub found: String,
    /// What it should have, or the flag that settles it
    pub expected: String,
}

impl Misfit {
    fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { found: found.into(), expected: expected.into() }
    }
}

/// What the user says about a foreign model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// Order of the input's axes
    pub layout: Option<InputLayout>,
    /// Meaning of the output
    pub kind: Option<OutputKind>,
}

/// Find the contract of a model for images of `[height, width]`.
///
/// - `last_operator`: what computes the output, of [`crate::graph::facts`]
///
/// # Errors
/// [`Misfit`] if the model takes or gives something else, or leaves open what.
pub fn detect(
    session: &Session,
    (height, width): (usize, usize),
    last_operator: Option<&str>,
    told: Told,
) -> Result<Contract, Misfit> {
    let [input] = session.inputs() else {
        let found = format!("has {} inputs", session.inputs().len());
        return Err(Misfit::new(found, "one, the image"));
    };
    let dims = f32_shape(input.dtype(), "input", input.name())?;
    let layout = match told.layout {
        Some(layout) if matches(dims, &layout.shape(-1, height, width)) => layout,
        Some(layout) => return Err(shape_misfit(input.name(), dims, &[layout], height, width)),
        None => layout_of(dims, height, width)
            .ok_or_else(|| shape_misfit(input.name(), dims, &InputLayout::ALL, height, width))?,
    };
    let outputs = session.outputs();
    let output = outputs
        .iter()
        .find(|output| output.name() == shared::model::OUTPUT)
        .or(outputs.first())
        .ok_or_else(|| Misfit::new("has no output", "one, the probability"))?;
    let classes = classes(f32_shape(output.dtype(), "output", output.name())?, output.name())?;
    Ok(Contract {
        input: input.name().to_owned(),
        output: output.name().to_owned(),
        layout,
        kind: output_kind(classes, last_operator, told.kind)?,
        batch: usize::try_from(dims[0]).ok(),
    })
}

impl InputLayout {
    const ALL: [Self; 4] = [Self::Bhw, Self::Nhwc, Self::Nchw, Self::Flat];

    /// The shape of a batch.
    pub fn shape(self, batch: i64, height: usize, width: usize) -> Vec<i64> {
        let (h, w) = (height as i64, width as i64);
        match self {
            Self::Bhw => vec![batch, h, w],
            Self::Nhwc => vec![batch, h, w, 1],
            Self::Nchw => vec![batch, 1, h, w],
            Self::Flat => vec![batch, h * w],
        }
    }
}

impl OutputKind {
    /// Probability of a main track from a row of the output.
    pub fn probability(self, row: &[f32]) -> f32 {
        let sigmoid = |x: f64| (1.0 / (1.0 + (-x).exp())) as f32;
        match self {
            Self::Probability => row[0],
            Self::Logit => sigmoid(f64::from(row[0])),
            Self::Pair => row[1],
            Self::LogitPair => sigmoid(f64::from(row[1]) - f64::from(row[0])),
        }
    }

    /// Values of the output for one cluster.
    pub const fn classes(self) -> usize {
        match self {
            Self::Probability | Self::Logit => 1,
            Self::Pair | Self::LogitPair => 2,
        }
    }
}

impl fmt::Display for OutputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probability => "probability",
            Self::Logit => "logit",
            Self::Pair => "pair of probabilities",
            Self::LogitPair => "pair of logits",
        })
    }
}

/// A dimension below 0 fits everything.
fn matches(dims: &[i64], shape: &[i64]) -> bool {
    dims.len() == shape.len() && dims.iter().zip(shape).all(|(&d, &s)| d < 0 || s < 0 || d == s)
}

/// The one layout that fits, the image's own order first.
fn layout_of(dims: &[i64], height: usize, width: usize) -> Option<InputLayout> {
    let fits = |layout: &InputLayout| matches(dims, &layout.shape(-1, height, width));
    let candidates: Vec<InputLayout> = InputLayout::ALL.into_iter().filter(fits).collect();
    match candidates[..] {
        [one] => Some(one),
        _ => None,
    }
}

fn shape_misfit(name: &str, dims: &[i64], layouts: &[InputLayout], height: usize, width: usize) -> Misfit {
    let expected: Vec<String> = layouts.iter().map(|l| shown(&l.shape(-1, height, width))).collect();
    let hint = if dims.len() == 4 && layouts.len() > 1 && dims[1..].iter().all(|&d| d < 0) {
        "; say which with `--input-layout`"
    } else {
        ""
    };
    Misfit::new(
        format!("input `{name}` has shape {}", shown(dims)),
        format!("{} for images of {height} x {width}{hint}", expected.join(" or ")),
    )
}

fn shown(dims: &[i64]) -> String {
    let dims: Vec<String> =
        dims.iter().map(|&d| if d < 0 { "batch".to_owned() } else { d.to_string() }).collect();
    format!("[{}]", dims.join(", "))
}

fn f32_shape<'a>(dtype: &'a ValueType, what: &str, name: &str) -> Result<&'a [i64], Misfit> {
    match dtype {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } if !shape.is_empty() => Ok(shape),
        other => Err(Misfit::new(format!("{what} `{name}` is {other}"), "a tensor of f32 with a batch axis")),
    }
}

/// Values a cluster in the output: 1 or 2.
fn classes(dims: &[i64], name: &str) -> Result<usize, Misfit> {
    match dims[1..].iter().filter(|&&d| d != 1).copied().collect::<Vec<_>>()[..] {
        [] => Ok(1),
        [2] => Ok(2),
        _ => Err(Misfit::new(
            format!("output `{name}` has shape {}", shown(dims)),
            "[batch], [batch, 1] or [batch, 2]",
        )),
    }
}

fn output_kind(
    classes: usize,
    operator: Option<&str>,
    told: Option<OutputKind>,
) -> Result<OutputKind, Misfit> {
    if let Some(kind) = told {
        if kind.classes() == classes {
            return Ok(kind);
        }
        return Err(Misfit::new(
            format!("gives {classes} values a cluster"),
            format!("{} for `--output-kind {kind}`", kind.classes()),
        ));
    }
    match (classes, operator) {
        (1, Some("Sigmoid" | "HardSigmoid")) => Ok(OutputKind::Probability),
        (2, Some("Softmax")) => Ok(OutputKind::Pair),
        (1, Some("Gemm" | "MatMul" | "Add" | "Conv")) => Ok(OutputKind::Logit),
        (2, Some("Gemm" | "MatMul" | "Add" | "Conv" | "LogSoftmax")) => Ok(OutputKind::LogitPair),
        (_, operator) => Err(Misfit::new(
            format!("its output comes from operator `{}`", operator.unwrap_or("none")),
            "Sigmoid, Softmax or a dense layer; say what it is with `--output-kind`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_apart_by_their_shapes() {
        assert_eq!(layout_of(&[-1, 128, 16], 128, 16), Some(InputLayout::Bhw));
        assert_eq!(layout_of(&[-1, 128, 16, 1], 128, 16), Some(InputLayout::Nhwc));
        assert_eq!(layout_of(&[1, 1, 128, 16], 128, 16), Some(InputLayout::Nchw));
        assert_eq!(layout_of(&[-1, -1], 128, 16), Some(InputLayout::Flat));
        assert_eq!(layout_of(&[-1, -1, -1, -1], 128, 16), None, "could be both");
        assert_eq!(layout_of(&[-1, 64, 16], 128, 16), None);
    }

    #[test]
    fn outputs_are_told_apart_by_their_last_operator() {
        assert_eq!(output_kind(1, Some("Sigmoid"), None), Ok(OutputKind::Probability));
        assert_eq!(output_kind(1, Some("Gemm"), None), Ok(OutputKind::Logit));
        assert_eq!(output_kind(2, Some("Softmax"), None), Ok(OutputKind::Pair));
        assert_eq!(output_kind(2, Some("Add"), None), Ok(OutputKind::LogitPair));
        assert_eq!(output_kind(1, Some("Relu"), Some(OutputKind::Probability)), Ok(OutputKind::Probability));
        let misfit = output_kind(1, Some("Relu"), None).unwrap_err();
        assert_eq!(misfit.found, "its output comes from operator `Relu`");
    }

    #[test]
    fn two_logits_are_the_softmax_of_two() {
        let p = OutputKind::LogitPair.probability(&[0.0, 3.0_f32.ln()]);
        assert!((p - 0.75).abs() < 1e-6);
        assert!((OutputKind::Logit.probability(&[0.0]) - 0.5).abs() < 1e-7);
    }
}
