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
use shared::{SCHEMA_VERSION, files, signal};

use crate::data::Data;
use crate::error::Error;
use crate::graph::lower::{Target, lower};
use crate::step;
use crate::training::{self, Setup, Trained};

/// Rows that one run of the exported model takes.
const ROWS: usize = 256;

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
/// The threshold and the numbers of the result come from the exported model's own scores on the validation split.
///
/// # Errors
/// [`Error`]
pub fn finish(
    folder: &Path,
    setup: &Setup,
    data: &Data,
    trained: &Trained,
    provenance: &Provenance,
    threads: usize,
) -> Result<f64, Error> {
    let layers = setup.network.layers()?;
    let (graph, outputs) = step::exported(&setup.plan(data.train.rows())?, &layers, &trained.params)?;
    let mut model = lower(&graph, &outputs, Target::Export);
    let history = &trained.progress.history;
    let scores = score(&model, data, threads)?.ok_or_else(|| {
        let epoch = history.len() as u32;
        Error::Stopped { trial: setup.trial, epoch, step: 0 }
    })?;
    let labels = &data.validation.is_main_track;
    let cut = metrics::best_f1_threshold(&scores, labels);
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
        value: training::objective(setup.objective, &history[exported as usize - 1]),
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

/// Probabilities of the validation rows by the exported model; `None` after a signal.
fn score(model: &ModelProto, data: &Data, threads: usize) -> Result<Option<Vec<f32>>, Error> {
    let settings = Settings::new(Device::Cpu, threads);
    let mut session = runtime::session(&model.encode_to_vec(), &settings)?;
    let clusters = &data.validation;
    let pixels = clusters.height * clusters.width;
    let mut scores = Vec::with_capacity(clusters.rows());
    for images in clusters.images.chunks(ROWS * pixels) {
        let shape = [images.len() / pixels, clusters.height, clusters.width];
        let mut run = || -> ort::Result<()> {
            let image = Tensor::from_array((shape, images.to_vec()))?;
            let outputs = session.run(ort::inputs![model::INPUT => image])?;
            scores.extend_from_slice(outputs[model::OUTPUT].try_extract_tensor::<f32>()?.1);
            Ok(())
        };
        run().map_err(Error::Exported)?;
        if signal::stop_requested() {
            return Ok(None);
        }
    }
    Ok(Some(scores))
}
