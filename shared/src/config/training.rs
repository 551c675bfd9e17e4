//! How a trial trains beyond its network: learning rates, loss, weight decay, gradient clipping.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// What `model_parameters` says of the training itself; every default is plain Adam on plain cross-entropy.
///
/// A default is not written, so that files and digests of studies that use none of this stay as they are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Training {
    /// How the rate changes from step to step
    #[serde(skip_serializing_if = "is_default")]
    pub learning_rate_schedule: RateSchedule,
    /// Factors on the loss of the two classes
    #[serde(skip_serializing_if = "is_default")]
    pub class_weight: Option<ClassWeight>,
    /// Focal loss in place of cross-entropy
    #[serde(skip_serializing_if = "is_default")]
    pub focal_loss: Option<FocalLoss>,
    /// Labels become `label · (1 - s) + s / 2`; in `0.0..1.0`
    #[serde(skip_serializing_if = "is_default")]
    pub label_smoothing: f64,
    /// Decoupled weight decay (`AdamW`): a step first multiplies weights, not biases, with `1 - rate · weight_decay`
    #[serde(skip_serializing_if = "is_default")]
    pub weight_decay: Option<f64>,
    /// Greatest absolute value of a gradient's element
    #[serde(skip_serializing_if = "is_default")]
    pub clipvalue: Option<f64>,
    /// Greatest norm of each weight's or bias's gradient
    #[serde(skip_serializing_if = "is_default")]
    pub clipnorm: Option<f64>,
    /// Greatest norm of all gradients together
    #[serde(skip_serializing_if = "is_default")]
    pub global_clipnorm: Option<f64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How the learning rate changes from step to step; in a config an object, or only the name.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct RateSchedule {
    /// Its shape
    pub name: ScheduleName,
    /// Cosine: rate of the last step as a share of the first; default 0
    #[serde(skip_serializing_if = "is_default")]
    pub alpha: Option<f64>,
    /// One-cycle: share of the steps in which the rate rises; default 0.3
    #[serde(skip_serializing_if = "is_default")]
    pub pct_start: Option<f64>,
    /// One-cycle: greatest rate over the first one; default 25
    #[serde(skip_serializing_if = "is_default")]
    pub div_factor: Option<f64>,
    /// One-cycle: first rate over the last one; default 10000
    #[serde(skip_serializing_if = "is_default")]
    pub final_div_factor: Option<f64>,
    /// Epochs in which the rate first rises linearly to where the schedule starts; default 0
    #[serde(skip_serializing_if = "is_default")]
    pub warmup_epochs: Option<f64>,
    /// The same in steps
    #[serde(skip_serializing_if = "is_default")]
    pub warmup_steps: Option<u32>,
    /// Keys that this program does not know, kept as they are
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The shape of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// `learning_rate · decay_rate^(step / 10000)`
    #[default]
    Exponential,
    /// Half a cosine from `learning_rate` down, over all epochs
    Cosine,
    /// Up to `learning_rate` and down again along cosines, over all epochs
    OneCycle,
}

impl<'de> Deserialize<'de> for RateSchedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Fields {
            name: ScheduleName,
            alpha: Option<f64>,
            pct_start: Option<f64>,
            div_factor: Option<f64>,
            final_div_factor: Option<f64>,
            warmup_epochs: Option<f64>,
            warmup_steps: Option<u32>,
            #[serde(flatten)]
            other: Map<String, Value>,
        }
        let value = match Value::deserialize(deserializer)? {
            name @ Value::String(_) => Value::Object(Map::from_iter([("name".to_owned(), name)])),
            value => value,
        };
        let f: Fields = serde_json::from_value(value).map_err(D::Error::custom)?;
        Ok(Self {
            name: f.name,
            alpha: f.alpha,
            pct_start: f.pct_start,
            div_factor: f.div_factor,
            final_div_factor: f.final_div_factor,
            warmup_epochs: f.warmup_epochs,
            warmup_steps: f.warmup_steps,
            other: f.other,
        })
    }
}

/// Factors on the loss of the two classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ClassWeight {
    /// Both classes weigh the same: `rows / (2 · rows of the class)`, as scikit-learn has it
    Balanced(Balanced),
    /// One factor a class
    Weights(Weights),
}

/// The word `balanced`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the type says it")]
pub enum Balanced {
    Balanced,
}

/// One factor a class; 1 where none is given, as in Keras.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Of background
    #[serde(rename = "0", default = "one")]
    pub background: f64,
    /// Of main tracks
    #[serde(rename = "1", default = "one")]
    pub main_track: f64,
}

const fn one() -> f64 {
    1.0
}

impl<'de> Deserialize<'de> for ClassWeight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_string() {
            serde_json::from_value(value).map(Self::Balanced).map_err(D::Error::custom)
        } else if value.is_object() {
            serde_json::from_value(value).map(Self::Weights).map_err(D::Error::custom)
        } else {
            Err(D::Error::custom(format!(
                "{value} is no weight; give \"balanced\" or {{\"0\": a, \"1\": b}}"
            )))
        }
    }
}

/// Focal loss (Lin et al. 2017): cross-entropy times `(1 - p)^gamma`, p the probability of the row's own class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FocalLoss {
    /// How much less a sure row counts; 0 is plain cross-entropy
    pub gamma: f64,
    /// Factor on main tracks, `1 - alpha` on background; none by default
    #[serde(skip_serializing_if = "is_default")]
    pub alpha: Option<f64>,
    /// Keys that this program does not know, kept as they are
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for FocalLoss {
    fn default() -> Self {
        Self { gamma: 2.0, alpha: None, other: Map::new() }
    }
}

/// A key, relative to `model_parameters`, and what is wrong with its value.
pub type Wrong = (&'static str, String);

impl Training {
    /// Check every value whose type alone does not make it right.
    ///
    /// # Errors
    /// The key and the reason.
    pub fn check(&self) -> Result<(), Wrong> {
        self.learning_rate_schedule.check()?;
        if let Some(ClassWeight::Weights(Weights { background, main_track })) = self.class_weight {
            for weight in [background, main_track] {
                fits(positive(weight), "class_weight", || format!("{weight} is not above 0"))?;
            }
        }
        if let Some(FocalLoss { gamma, alpha, .. }) = self.focal_loss {
            fits(not_negative(gamma), "focal_loss.gamma", || format!("{gamma} is below 0"))?;
            share("focal_loss.alpha", alpha)?;
        }
        let smoothing = self.label_smoothing;
        fits((0.0..1.0).contains(&smoothing), "label_smoothing", || {
            format!("{smoothing} can't be used; it must be at least 0 and below 1")
        })?;
        let decay = self.weight_decay.unwrap_or(0.0);
        fits(not_negative(decay), "weight_decay", || format!("{decay} is below 0"))?;
        let clips = [
            ("clipvalue", self.clipvalue),
            ("clipnorm", self.clipnorm),
            ("global_clipnorm", self.global_clipnorm),
        ];
        let mut set = clips.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let first = set.next();
        if let Some((key, value)) = first {
            fits(positive(value), key, || format!("{value} is not above 0; give null for no clipping"))?;
        }
        match (first, set.next()) {
            (Some((first, _)), Some((second, _))) => {
                Err((second, format!("gradients are clipped in one way only; drop it or `{first}`")))
            }
            _ => Ok(()),
        }
    }
}

impl RateSchedule {
    fn check(&self) -> Result<(), Wrong> {
        const WHERE: [&str; 6] = [
            "learning_rate_schedule.alpha",
            "learning_rate_schedule.pct_start",
            "learning_rate_schedule.div_factor",
            "learning_rate_schedule.final_div_factor",
            "learning_rate_schedule.warmup_epochs",
            "learning_rate_schedule.warmup_steps",
        ];
        let belongs = |key, value: Option<f64>, name, of| {
            fits(value.is_none() || self.name == name, key, || format!("only the schedule `{of}` has it"))
        };
        belongs(WHERE[0], self.alpha, ScheduleName::Cosine, "cosine")?;
        belongs(WHERE[1], self.pct_start, ScheduleName::OneCycle, "one_cycle")?;
        belongs(WHERE[2], self.div_factor, ScheduleName::OneCycle, "one_cycle")?;
        belongs(WHERE[3], self.final_div_factor, ScheduleName::OneCycle, "one_cycle")?;
        share(WHERE[0], self.alpha)?;
        let part = self.pct_start.unwrap_or(0.5);
        fits(part > 0.0 && part < 1.0, WHERE[1], || {
            format!("{part} can't be used; it must be between 0 and 1")
        })?;
        for (key, factor) in [(WHERE[2], self.div_factor), (WHERE[3], self.final_div_factor)] {
            let factor = factor.unwrap_or(1.0);
            fits(factor.is_finite() && factor >= 1.0, key, || format!("{factor} is below 1"))?;
        }
        let epochs = self.warmup_epochs.unwrap_or(0.0);
        fits(not_negative(epochs), WHERE[4], || format!("{epochs} is below 0"))?;
        let both = self.warmup_epochs.is_some() && self.warmup_steps.is_some();
        fits(!both, WHERE[5], || "the warm-up is given twice; drop it or `warmup_epochs`".into())
    }
}

fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn not_negative(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn share(key: &'static str, value: Option<f64>) -> Result<(), Wrong> {
    let value = value.unwrap_or(0.0);
    fits((0.0..=1.0).contains(&value), key, || format!("{value} can't be used; it must be from 0 to 1"))
}

fn fits(holds: bool, key: &'static str, reason: impl FnOnce() -> String) -> Result<(), Wrong> {
    if holds { Ok(()) } else { Err((key, reason())) }
}
