//! `model.onnx` and `result.json`: what is left of a training.

use std::collections::BTreeMap;
use std::path::Path;

use ort::value::Tensor;
use prost::Message;
use serde::Serialize;
use serde_json::{Value, json};
use shared::metrics::{self, BestCut, Confusion};
use shared::model::{self, ModelCard};
use shared::onnx::ModelProto;
use shared::runtime::{self, Device, Settings};
use shared::study::TrialFile;
use shared::{SCHEMA_VERSION, files};

use crate::data::Data;
use crate::error::Error;
use crate::graph::lower::{Target, lower};
use crate::step;
use crate::training::{Setup, Trained};
use crate::validation;

/// Rows of the validation split for which the exported model is run.
const VERIFIED_ROWS: usize = 64;
/// Largest difference between two ways to compute a probability: rounding, magnified by weights that have grown.
const TOLERANCE: f32 = 1e-3;

/// `result.json`
#[derive(Debug, Clone, Serialize)]
pub struct TrialResult {
    schema_version: u32,
    state: &'static str,
    objective: shared::config::Objective,
    /// Value of the objective at the exported epoch
    value: f64,
    best_epoch: u32,
    epochs: u32,
    threshold: Option<f32>,
    energy_cut_mev: Option<f32>,
    val_loss: f64,
    val_accuracy: f64,
    val_f1: f64,
    /// F1 of the energy cut on the validation split, at its own best threshold
    val_f1_energy_cut: Option<f64>,
    seconds: f64,
    device: String,
    precision: &'static str,
    parameters: usize,
    data_digest: String,
    config_digest: String,
    model_digest: Option<String>,
    params: serde_json::Map<String, Value>,
}

/// What the export needs beside the training.
pub struct Provenance<'a> {
    /// Parameters of the trial by name
    pub params: &'a serde_json::Map<String, Value>,
    /// Digest of the configuration
    pub config_digest: &'a str,
    /// Device that trained
    pub device: Device,
    /// Precision that trained
    pub precision: &'static str,
}

/// Write `model.onnx`, then `result.json`; returns the value of the objective.
///
/// The threshold and the numbers of the result come from the scores of the validation split at the exported weights. The
/// exported model itself must give the same scores for the first of its rows.
///
/// # Errors
/// [`Error`]
pub fn finish(
    folder: &Path,
    setup: &Setup,
    data: &Data,
    trained: &Trained,
    provenance: &Provenance,
) -> Result<f64, Error> {
    let layers = setup.network.layers()?;
    let (graph, outputs) = step::exported(&setup.network, setup.normalization, &layers, &trained.params)?;
    let mut model = lower(&graph, &outputs, Target::Export);
    let history = &trained.progress.history;
    let scores: Vec<f32> = trained.logits.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
    verify(&model, data, &scores)?;
    let labels = &data.validation.is_main_track;
    let cut = metrics::best_f1_threshold(&scores, labels).map(|cut| between(cut, &scores));
    let energy = metrics::best_f1_threshold(&data.validation.cluster_energy, labels);
    model::set_props(&mut model, &card(setup, data, provenance, cut, energy));
    let bytes = model.encode_to_vec();
    files::write_bytes(&folder.join("model.onnx"), &bytes)?;

    let exported = if setup.early_stopping.restore_best_weights {
        trained.progress.best_epoch
    } else {
        history.len() as u32
    };
    let result = TrialResult {
        schema_version: SCHEMA_VERSION,
        state: if trained.pruned { "PRUNED" } else { "COMPLETE" },
        objective: setup.objective,
        value: validation::objective(setup.objective, &history[exported as usize - 1]),
        best_epoch: exported,
        epochs: history.len() as u32,
        threshold: cut.map(|cut| cut.threshold),
        energy_cut_mev: energy.map(|cut| cut.threshold),
        val_loss: metrics::log_loss(&scores, labels),
        val_accuracy: Confusion::at(&scores, labels, 0.5).accuracy(),
        val_f1: cut.map_or(0.0, |cut| cut.f1),
        val_f1_energy_cut: energy.map(|cut| cut.f1),
        seconds: trained.progress.seconds,
        device: provenance.device.to_string(),
        precision: provenance.precision,
        parameters: layers.parameters(setup.network.kernel),
        data_digest: data.digest.clone(),
        config_digest: provenance.config_digest.to_owned(),
        model_digest: Some(files::digest(&bytes)),
        params: provenance.params.clone(),
    };
    files::write_json(&folder.join("result.json"), &result)?;
    Ok(result.value)
}

/// Write the `result.json` of a trial that can't be trained.
///
/// # Errors
/// [`Error::File`]
pub fn fail(folder: &Path, trial: &TrialFile, reason: &str) -> Result<(), Error> {
    let result = json!({
        "schema_version": SCHEMA_VERSION,
        "state": "FAIL",
        "objective": trial.objective,
        "reason": reason,
        "config_digest": trial.config_digest,
        "params": trial.params,
    });
    Ok(files::write_json(&folder.join("result.json"), &result)?)
}

fn card(
    setup: &Setup,
    data: &Data,
    provenance: &Provenance,
    cut: Option<BestCut>,
    energy: Option<BestCut>,
) -> ModelCard {
    ModelCard {
        schema_version: SCHEMA_VERSION,
        plane: data.plane,
        height: setup.network.height,
        width: setup.network.width,
        threshold: cut.map(|cut| cut.threshold),
        energy_cut_mev: energy.map(|cut| cut.threshold),
        trial: Some(format!("{:04}", setup.trial)),
        data_digest: Some(data.digest.clone()),
        config_digest: Some(provenance.config_digest.to_owned()),
        versions: BTreeMap::from([
            ("mt-identifier".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("onnxruntime".to_owned(), runtime::VERSION.to_owned()),
        ]),
    }
}

/// The cut halfway between the lowest score above it and the highest below: another machine's rounding moves no row across.
fn between(cut: BestCut, scores: &[f32]) -> BestCut {
    let below = scores.iter().copied().filter(|&score| score < cut.threshold).fold(0.0, f32::max);
    let middle = below + (cut.threshold - below) / 2.0;
    BestCut { threshold: if middle > below { middle } else { cut.threshold }, ..cut }
}

/// Refuse an exported model that does not give `scores` for the first rows of the validation split.
fn verify(model: &ModelProto, data: &Data, scores: &[f32]) -> Result<(), Error> {
    let clusters = &data.validation;
    let (rows, pixels) = (clusters.rows().min(VERIFIED_ROWS), clusters.height * clusters.width);
    let mut images = vec![0.0; rows * pixels];
    let first = clusters.images.read(&(0..rows).collect::<Vec<_>>())?;
    for (row, image) in images.chunks_exact_mut(pixels).enumerate() {
        first.write(row, image);
    }
    let mut session = runtime::session(&model.encode_to_vec(), &Settings::new(Device::Cpu, 1))?;
    let run = || -> ort::Result<Vec<f32>> {
        let image = Tensor::from_array(([rows, clusters.height, clusters.width], images))?;
        let outputs = session.run(ort::inputs![model::INPUT => image])?;
        Ok(outputs[model::OUTPUT].try_extract_tensor::<f32>()?.1.to_vec())
    };
    let found = run().map_err(Error::Exported)?;
    for (row, (&exported, &trained)) in found.iter().zip(scores).enumerate() {
        if (exported - trained).abs() > TOLERANCE {
            return Err(Error::Differs { row, exported, trained });
        }
    }
    Ok(())
}
