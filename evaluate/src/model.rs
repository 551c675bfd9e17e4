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
        let sites = self.sites(device, args);
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
                let session = model
                    .open(device)
                    .map_err(|source| Error::Load { path: self.path.clone(), source })?;
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
        Ok(Scorers { each, sites, reference, contract, device, threads: threads.max(sessions), path: self.path.clone() })
    }

    /// The model at active sites, if it can be scored there; the log says which way is taken.
    fn sites(&self, device: Device, args: &InferenceArgs) -> Option<Arc<SiteModel>> {
        let usual = if device == Device::Cpu { CPU_SITES } else { GPU_SITES };
        let count = args.batch_size.map_or(usual, std::num::NonZero::get);
        let is_told = args.input_layout.is_some()
            || args.output_kind.is_some()
            || args.input_scale.to_bits() != 1.0_f32.to_bits();
        let found = match &self.card {
            _ if args.whole_images => Err("`--whole-images` says so".to_owned()),
            _ if is_told => Err("the command line says how it takes them".to_owned()),
            None => Err("`train` did not export it: it has no `schema_version`".to_owned()),
            Some(_) => SiteModel::read(&self.bytes, count).map_err(|reason| reason.to_string()),
        };
        let path = self.path.display();
        match found {
            Ok(model) => {
                tracing::info!("model `{path}` is scored at active sites, since `train` exported it");
                Some(Arc::new(model))
            }
            Err(reason) => {
                tracing::info!("model `{path}` is scored on whole images, since {reason}");
                None
            }
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
