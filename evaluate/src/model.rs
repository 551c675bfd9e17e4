//! A model ready to score: its file, what it says about itself, and sessions that run it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::session::Session;
use shared::files;
use shared::model::ModelCard;
use shared::runtime::{self, Device, OnCpu, Settings};
use shared::split::Images;
use train::inference::{Run, SiteModel};

use crate::args::InferenceArgs;
use crate::contract::{self, Contract, Misfit, OutputKind, Told};
use crate::error::Error;
use crate::graph;
use crate::scorer::{Scorer, Whole};

/// Clusters that a CPU session sees at a time: few enough for the maps between layers to stay in the cache.
const CPU_BATCH: usize = 8;
/// Clusters that a GPU session sees at a time: enough to fill it, and a row group of `prepare`.
const GPU_BATCH: usize = 2048;
/// Clusters of a run at active sites on the CPU: their maps are small.
const CPU_SITES: usize = 64;
/// Clusters of a run at active sites on a GPU, and of a block that is read.
const GPU_SITES: usize = 1024;

/// Clusters of each split on which active sites must give what whole images give.
const COMPARED: usize = 64;
/// Largest difference between the two: rounding.
pub const TOLERANCE: f32 = 1e-5;

/// A model file that was read and looked at, not yet opened.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    bytes: Vec<u8>,
    facts: graph::GraphFacts,
    /// Digest of the file and of the files with its weights
    pub digest: String,
    /// What it says about itself; `None` for a model of another program
    pub card: Option<ModelCard>,
}

impl Model {
    /// Read a model file; nothing of it is run.
    ///
    /// # Errors
    /// [`Error::Card`] for a file that is no whole model or has bad metadata, [`Error::Contract`] if it wants weights
    /// from outside its folder.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = files::read_bytes(path)?;
        let card = |source| Error::Card { path: path.to_owned(), source };
        let facts = graph::facts(&bytes).map_err(|e| card(shared::model::ModelError::Onnx(e)))?;
        let props = shared::model::props_of(&bytes).map_err(card)?;
        let known = props.contains_key("schema_version");
        let model_card = known.then(|| ModelCard::from_props(&props)).transpose().map_err(card)?;
        let mut digest = files::digest(&bytes);
        let folder = folder_of(path);
        for location in &facts.external {
            let outside = || Error::Contract {
                path: path.to_owned(),
                what: format!("its weights are in `{location}`"),
                expected: "a file in the model's own folder".into(),
            };
            let file = graph::inside(folder, location).ok_or_else(outside)?;
            digest = files::digest(format!("{digest}{}", files::digest_file(&file)?).as_bytes());
        }
        Ok(Self { path: path.to_owned(), bytes, facts, digest, card: model_card })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Open sessions for images of `[height, width]`: one a thread on the CPU, two on a GPU, so that copying and
    /// computing overlap.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Load`], [`Error::Contract`]
    pub fn open(&self, shape: (usize, usize), data: &Path, args: &InferenceArgs) -> Result<Scorers, Error> {
        if let Some(card) = self.card.as_ref().filter(|card| (card.height, card.width) != shape) {
            return Err(Error::Shape {
                path: self.path.clone(),
                data: data.to_owned(),
                model_shape: format!("{} x {}", card.height, card.width),
                data_shape: format!("{} x {}", shape.0, shape.1),
            });
        }
        let device = args.device.resolve()?;
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = args.threads.map_or_else(cores, std::num::NonZero::get);
        let sessions = if device == Device::Cpu { threads } else { 2 };
        let (sites, way) = match self.sites(device, args) {
            Ok(sites) => (Some(sites), "at active sites, since `train` exported the model".to_owned()),
            Err(reason) => (None, format!("on whole images, since {reason}")),
        };
        // Beside active sites, whole images only have to be right.
        let whole_device = if sites.is_some() { Device::Cpu } else { device };
        let first = self.session(whole_device, OnCpu::Warned)?;
        // What `train` exports is a probability by contract.
        let by_contract = self.card.as_ref().map(|_| OutputKind::Probability);
        let told = Told { layout: args.input_layout, kind: args.output_kind.or(by_contract) };
        let contract = self.contract(&first, shape, told).map_err(|m| Error::Contract {
            path: self.path.clone(),
            what: m.found,
            expected: m.expected,
        })?;
        let (mut each, mut reference) = (Vec::new(), None);
        if let Some(model) = &sites {
            reference = Some(Whole::new(first, contract.clone(), shape, CPU_BATCH, 1.0, Device::Cpu));
            for _ in 0..sessions {
                let session =
                    model.open(device).map_err(|source| Error::Load { path: self.path.clone(), source })?;
                each.push(Scorer::Sites(Box::new(session), Arc::clone(model)));
            }
        } else {
            let usual = if device == Device::Cpu { CPU_BATCH } else { GPU_BATCH };
            let batch = contract.batch.unwrap_or(args.batch_size.map_or(usual, std::num::NonZero::get));
            let mut opened = vec![first];
            for _ in 1..sessions {
                opened.push(self.session(device, OnCpu::Ignored)?);
            }
            each.extend(opened.into_iter().map(|session| {
                let scale = args.input_scale;
                Scorer::Whole(Box::new(Whole::new(session, contract.clone(), shape, batch, scale, device)))
            }));
        }
        Ok(Scorers {
            each,
            way,
            sites,
            reference,
            contract,
            device,
            threads: threads.max(sessions),
            path: self.path.clone(),
        })
    }

    /// The model at active sites, if it can be scored there; otherwise why not.
    fn sites(&self, device: Device, args: &InferenceArgs) -> Result<Arc<SiteModel>, String> {
        let usual = if device == Device::Cpu { CPU_SITES } else { GPU_SITES };
        let count = args.batch_size.map_or(usual, std::num::NonZero::get);
        let is_told = args.input_layout.is_some()
            || args.output_kind.is_some()
            || args.input_scale.to_bits() != 1.0_f32.to_bits();
        match &self.card {
            _ if args.whole_images => Err("`--whole-images` says so".to_owned()),
            _ if is_told => Err("the command line says how the model takes them".to_owned()),
            None => Err("the model has no `schema_version`, so `train` did not export it".to_owned()),
            Some(_) => SiteModel::read(&self.bytes, count).map(Arc::new).map_err(|reason| reason.to_string()),
        }
    }

    fn contract(&self, session: &Session, shape: (usize, usize), told: Told) -> Result<Contract, Misfit> {
        contract::detect(session, shape, self.facts.last_operator.as_deref(), told)
    }

    /// - `on_cpu`: a foreign model may have an operator that the GPU lacks
    fn session(&self, device: Device, on_cpu: OnCpu) -> Result<Session, Error> {
        let settings = Settings { on_cpu, fold_constants: true, ..Settings::new(device, 1) };
        let load = |source| Error::Load { path: self.path.clone(), source };
        if self.facts.external.is_empty() {
            return runtime::session(&self.bytes, &settings).map_err(load);
        }
        // Weights beside the file are found only when the file itself is opened.
        let failed = |source| load(runtime::RuntimeError::Session { device, source });
        let session =
            runtime::builder(&settings).map_err(load)?.commit_from_file(&self.path).map_err(failed)?;
        runtime::check_nodes(&session, &self.bytes, &settings).map_err(load)?;
        Ok(session)
    }
}

/// The folder of a file, `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The open sessions of one model.
#[derive(Debug)]
pub struct Scorers {
    /// One a worker
    pub each: Vec<Scorer>,
    /// How they score and why, for the log
    pub way: String,
    /// The model that they compute at active sites, if they do
    pub sites: Option<Arc<SiteModel>>,
    /// The same model on whole images, which the sites must agree with
    pub reference: Option<Whole>,
    /// How the model takes images and gives scores
    pub contract: Contract,
    /// Where it runs
    pub device: Device,
    /// Threads that read images and keep the sessions busy
    pub threads: usize,
    /// Where the model is
    pub path: PathBuf,
}

impl Scorers {
    /// Clusters that the model sees at a time.
    pub fn batch(&self) -> usize {
        self.each.first().map_or(1, Scorer::batch)
    }
}

/// Tables of images for [`Scorer::score_made`], which take a GPU's host more time than the GPU needs for the scores.
pub fn tables(sites: Option<&SiteModel>, images: &Images) -> Option<Vec<Run>> {
    sites.map(|model| model.runs(images).collect())
}

/// Refuse scores of the first images that the model itself doesn't give on whole images.
///
/// # Errors
/// [`Error::Differs`], [`Error::Inference`]
pub fn compare(path: &Path, reference: &mut Whole, images: &Images, scores: &[f32]) -> Result<(), Error> {
    let rows = images.rows().min(COMPARED);
    let mut expected = Vec::with_capacity(rows);
    let failed = |source| Error::Inference { path: path.to_owned(), source };
    reference.score_occupied(&images.select(0..rows), &mut expected).map_err(failed)?;
    for (row, (&whole, &sites)) in expected.iter().zip(scores).enumerate() {
        let is_same = (whole - sites).abs() <= TOLERANCE || (whole.is_nan() && sites.is_nan());
        if !is_same {
            return Err(Error::Differs { path: path.to_owned(), row, whole, sites });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;
    use rand::RngExt;
    use shared::network::SimpleCnn;
    use shared::plane::Plane;
    use shared::runtime::DeviceChoice;
    use train::graph::lower::{Target, lower};
    use train::parameters::{initial_weights, parameters};

    use super::*;

    /// `model.onnx` of a network in this folder.
    fn write(folder: &Path, network: &SimpleCnn) -> PathBuf {
        let layers = network.layers().unwrap();
        let mut weights = initial_weights(&parameters(&layers, network.kernel), 8, 0);
        weights.iter_mut().enumerate().for_each(|(at, weight)| *weight += 0.01 * (at as f32).sin());
        let (graph, outputs) = train::step::exported(network, 0.01, &layers, &weights).unwrap();
        let mut model = lower(&graph, &outputs, Target::Export);
        let card = ModelCard {
            schema_version: 1,
            plane: Plane::V,
            height: network.height,
            width: network.width,
            threshold: Some(0.5),
            energy_cut_mev: None,
            trial: None,
            data_digest: None,
            config_digest: None,
            versions: BTreeMap::new(),
        };
        shared::model::set_props(&mut model, &card);
        let path = folder.join("model.onnx");
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        path
    }

    fn open(path: &Path, shape: (usize, usize), whole_images: bool) -> Scorers {
        let args = InferenceArgs {
            device: DeviceChoice::Fixed(Device::Cpu),
            threads: std::num::NonZeroUsize::new(1),
            batch_size: None,
            input_layout: None,
            output_kind: None,
            input_scale: 1.0,
            whole_images,
        };
        Model::read(path).unwrap().open(shape, Path::new("data"), &args).unwrap()
    }

    fn scores(scorers: &mut Scorers, images: &Images) -> Vec<f32> {
        let mut scores = Vec::new();
        scorers.each[0].score_occupied(images, &mut scores).unwrap();
        scores
    }

    #[test]
    fn networks_of_all_shapes_give_the_same_scores_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        for (height, width, filters, kernel, conv_layers, dense_layers) in [
            (32, 8, 8, 3, 2, 2),
            (41, 7, 5, 5, 2, 1),
            (29, 13, 6, 2, 1, 0),
            (9, 3, 4, 5, 0, 2),
            (40, 6, 9, 1, 2, 3),
        ] {
            let network = SimpleCnn {
                height,
                width,
                filters,
                kernel,
                conv_layers,
                dense_layers,
                units: 10,
                dropout: 0.1,
            };
            let path = write(folder.path(), &network);
            let mut random = shared::random::stream(1, "test images", &[height as u64]);
            let mut pixels = vec![0.0_f32; 150 * height * width];
            for image in pixels.chunks_mut(height * width).skip(1) {
                for _ in 0..random.random_range(0..20) {
                    let at = random.random_range(0..image.len());
                    image[at] = random.random_range(20.0..400.0_f32).round();
                }
            }
            pixels[5 * height * width..6 * height * width].fill(90.0);
            let images = Images::new(&pixels, height * width);
            let mut ours = open(&path, (height, width), false);
            assert!(ours.sites.is_some());
            let sites = scores(&mut ours, &images);
            let whole = scores(&mut open(&path, (height, width), true), &images);
            for (row, (a, b)) in sites.iter().zip(&whole).enumerate() {
                assert!((a - b).abs() < 1e-6, "{network:?} row {row}: {a}, expected {b}");
            }
            assert_eq!((sites.len(), whole.len()), (150, 150));
            let range = whole.iter().copied().fold(1.0, f32::min)..whole.iter().copied().fold(0.0, f32::max);
            assert!(range.end - range.start > 1e-3, "{network:?}: scores all alike, {range:?}");

            let mut reference = ours.reference.take().unwrap();
            compare(&path, &mut reference, &images, &sites).unwrap();
            let mut wrong = sites.clone();
            wrong[63] = whole[63] + 2e-5;
            let error = compare(&path, &mut reference, &images, &wrong).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "model `{}` gives {} for row 63 on its whole image, but {} at the image's active sites; the scores must be the same to 0.00001: give `--whole-images`, and report it",
                    path.display(),
                    whole[63],
                    wrong[63]
                )
            );
        }
    }
}
