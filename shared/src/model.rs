//! The model contract: what `model.onnx` says about itself in its `metadata_props`.

use std::collections::BTreeMap;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::onnx::{ModelProto, StringStringEntryProto};
use crate::plane::Plane;

/// Name of the input: f32 `[batch, height, width]`, raw ADC.
pub const INPUT: &str = "image";
/// Name of the output: f32 `[batch]`, probability of a main track.
pub const OUTPUT: &str = "probability";

/// What a model says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Version of this list of keys
    pub schema_version: u32,
    /// Wire plane of the images it was trained on
    pub plane: Plane,
    /// Image height in ticks
    pub height: usize,
    /// Image width in channels
    pub width: usize,
    /// Score from which a cluster is called main track: best F1 on the validation split
    pub threshold: Option<f32>,
    /// Cluster energy in MeV from which the baseline calls a cluster main track: best F1 on the validation split
    pub energy_cut_mev: Option<f32>,
    /// Trial that trained it, such as `0007`
    pub trial: Option<String>,
    /// Digest of the training data's manifest
    pub data_digest: Option<String>,
    /// Digest of the configuration
    pub config_digest: Option<String>,
    /// Programs that made it, with their versions
    pub versions: BTreeMap<String, String>,
}

/// Metadata that is missing or makes no sense.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ModelError {
    #[error("this is no ONNX model, or not a whole one")]
    Onnx(#[source] prost::DecodeError),
    #[error("the model's metadata has no `{key}`; was it exported by `train`?")]
    Missing { key: &'static str },
    #[error("the model's metadata has `{key}` = `{value}`, expected {expected}")]
    Invalid { key: &'static str, value: String, expected: &'static str },
    #[error(
        "the model has schema version {found}, this program knows {}; use a newer program",
        crate::SCHEMA_VERSION
    )]
    Newer { found: u32 },
}

impl ModelCard {
    /// The card as `metadata_props`, in a fixed order; what is not known is left out.
    pub fn to_props(&self) -> Vec<(String, String)> {
        let versions = serde_json::to_string(&self.versions).unwrap_or_default();
        let pairs = [
            ("schema_version", Some(self.schema_version.to_string())),
            ("plane", Some(self.plane.to_string())),
            ("height", Some(self.height.to_string())),
            ("width", Some(self.width.to_string())),
            ("threshold", self.threshold.map(|v| v.to_string())),
            ("energy_cut_mev", self.energy_cut_mev.map(|v| v.to_string())),
            ("trial", self.trial.clone()),
            ("data_digest", self.data_digest.clone()),
            ("config_digest", self.config_digest.clone()),
            ("versions", (!self.versions.is_empty()).then_some(versions)),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    /// The card from `metadata_props`.
    ///
    /// # Errors
    /// [`ModelError`] names the key that is missing or wrong.
    pub fn from_props(props: &BTreeMap<String, String>) -> Result<Self, ModelError> {
        let schema_version = required(props, "schema_version", "a whole number")?;
        if schema_version > crate::SCHEMA_VERSION {
            return Err(ModelError::Newer { found: schema_version });
        }
        let text = |key: &str| props.get(key).filter(|value| !value.is_empty()).cloned();
        let versions = match text("versions") {
            None => BTreeMap::new(),
            Some(value) => serde_json::from_str(&value).map_err(|_| ModelError::Invalid {
                key: "versions",
                value,
                expected: "a JSON object of texts",
            })?,
        };
        Ok(Self {
            schema_version,
            plane: required(props, "plane", "U, V or X")?,
            height: required(props, "height", "a whole number")?,
            width: required(props, "width", "a whole number")?,
            threshold: finite(props, "threshold")?,
            energy_cut_mev: finite(props, "energy_cut_mev")?,
            trial: text("trial"),
            data_digest: text("data_digest"),
            config_digest: text("config_digest"),
            versions,
        })
    }

    /// The card of an ONNX file.
    ///
    /// # Errors
    /// [`ModelError::Onnx`] for bytes that are no model; otherwise as [`ModelCard::from_props`].
    pub fn from_onnx(bytes: &[u8]) -> Result<Self, ModelError> {
        Self::from_props(&props_of(bytes)?)
    }
}

/// The `metadata_props` of an ONNX file, of whatever origin.
///
/// # Errors
/// [`ModelError::Onnx`]
pub fn props_of(bytes: &[u8]) -> Result<BTreeMap<String, String>, ModelError> {
    /// Only what is asked for, so that the weights are skipped and not copied.
    #[derive(Clone, PartialEq, Message)]
    struct Props {
        #[prost(message, repeated, tag = "14")]
        metadata_props: Vec<StringStringEntryProto>,
    }
    let props = Props::decode(bytes).map_err(ModelError::Onnx)?;
    Ok(props.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect())
}

/// Put the card into a model, replacing what `metadata_props` it had.
pub fn set_props(model: &mut ModelProto, card: &ModelCard) {
    model.metadata_props =
        card.to_props().into_iter().map(|(key, value)| StringStringEntryProto { key, value }).collect();
}

fn required<T: std::str::FromStr>(
    props: &BTreeMap<String, String>,
    key: &'static str,
    expected: &'static str,
) -> Result<T, ModelError> {
    optional(props, key, expected)?.ok_or(ModelError::Missing { key })
}

fn optional<T: std::str::FromStr>(
    props: &BTreeMap<String, String>,
    key: &'static str,
    expected: &'static str,
) -> Result<Option<T>, ModelError> {
    let Some(value) = props.get(key) else { return Ok(None) };
    let invalid = |_| ModelError::Invalid { key, value: value.clone(), expected };
    value.parse().map(Some).map_err(invalid)
}

fn finite(props: &BTreeMap<String, String>, key: &'static str) -> Result<Option<f32>, ModelError> {
    match optional::<f32>(props, key, "a number")? {
        Some(value) if !value.is_finite() => {
            Err(ModelError::Invalid { key, value: value.to_string(), expected: "a finite number" })
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> ModelCard {
        ModelCard {
            schema_version: 1,
            plane: Plane::U,
            height: 128,
            width: 16,
            threshold: Some(0.1 + 0.2),
            energy_cut_mev: None,
            trial: Some("0007".into()),
            data_digest: Some("ab".into()),
            config_digest: None,
            versions: BTreeMap::from([("train".into(), "0.1.0".into())]),
        }
    }

    #[test]
    fn a_card_survives_its_onnx_file_to_the_last_bit() {
        let mut model = ModelProto::default();
        set_props(&mut model, &card());
        assert_eq!(ModelCard::from_onnx(&model.encode_to_vec()).unwrap(), card());
    }

    #[test]
    fn bad_metadata_is_refused_by_key() {
        let mut props: BTreeMap<String, String> = card().to_props().into_iter().collect();
        props.insert("threshold".into(), "NaN".into());
        let message = ModelCard::from_props(&props).unwrap_err().to_string();
        assert_eq!(message, "the model's metadata has `threshold` = `NaN`, expected a finite number");
        props.remove("plane");
        let message = ModelCard::from_props(&props).unwrap_err().to_string();
        assert_eq!(message, "the model's metadata has no `plane`; was it exported by `train`?");
        props.insert("schema_version".into(), "99".into());
        let message = ModelCard::from_props(&props).unwrap_err().to_string();
        assert_eq!(message, "the model has schema version 99, this program knows 1; use a newer program");
    }

    #[test]
    fn a_truncated_file_is_no_model() {
        let mut model = ModelProto::default();
        set_props(&mut model, &card());
        let bytes = model.encode_to_vec();
        let message = ModelCard::from_onnx(&bytes[..bytes.len() - 3]).unwrap_err().to_string();
        assert_eq!(message, "this is no ONNX model, or not a whole one");
    }
}
