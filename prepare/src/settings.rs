//! What decides the rows: flags and config, checked and put together.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shared::config::{Balance, Config};
use shared::plane::Plane;
use shared::split::{Split, SplitFolder};

use crate::Error;
use crate::args::{BalanceScope, Duplicates, PrepareArgs, SplitBy};

/// Everything that decides which row goes where; two runs with equal settings and files give equal rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Wire plane
    pub plane: Plane,
    /// Ticks of an image
    pub height: usize,
    /// Channels of an image
    pub width: usize,
    /// Seed of every choice
    pub seed: u64,
    /// Shares of train, validation and test
    pub fractions: [f64; 3],
    /// File name pattern
    pub batch_pattern: String,
    /// How to balance
    pub balance: Balance,
    /// What to balance
    pub balance_scope: BalanceScope,
    /// What stays together
    pub split_by: SplitBy,
    /// What happens to repeated images
    pub duplicates: Duplicates,
    /// Most clusters
    pub max_samples: Option<u64>,
    /// The one split that gets everything
    pub only: Option<Split>,
    /// Data digest of the folder whose training rows are left out
    pub against: Option<String>,
}

/// A run of `prepare`: settings, and where to read and write.
#[derive(Debug)]
pub struct Job {
    /// What decides the rows
    pub settings: Settings,
    /// Folders to search, absolute
    pub inputs: Vec<PathBuf>,
    /// Folder to write, absolute
    pub output: PathBuf,
    /// Folder whose training rows are left out
    pub against: Option<SplitFolder>,
    /// Worker threads
    pub threads: usize,
}

impl Job {
    /// Put flags and config together.
    pub fn new(args: &PrepareArgs) -> Result<Self, Error> {
        // clap requires both, unless there is a subcommand.
        let config = Config::read(args.config.as_deref().ok_or(Error::NoConfig)?)?;
        let output = absolute(args.output.as_ref().ok_or(Error::NoOutput)?)?;
        let inputs = if args.input.is_empty() { &config.data_directories } else { &args.input };
        if inputs.is_empty() {
            return Err(Error::NoInput);
        }
        let against = args.against.as_deref().map(SplitFolder::open).transpose()?;
        let settings = settings(args, &config, against.as_ref())?;
        let threads = args.threads.or_else(|| std::thread::available_parallelism().ok());
        Ok(Self {
            settings,
            inputs: inputs.iter().map(absolute).collect::<Result<_, _>>()?,
            output,
            against,
            threads: threads.map_or(1, usize::from),
        })
    }
}

fn absolute(path: &PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Read { path: path.clone(), source })
}

fn settings(args: &PrepareArgs, config: &Config, against: Option<&SplitFolder>) -> Result<Settings, Error> {
    let dataset = &config.dataset_parameters;
    let [height, width] = config.model_parameters.image_size();
    let configured = if dataset.balance_data { dataset.balance_method } else { Balance::None };
    let settings = Settings {
        plane: args.plane.unwrap_or(config.plane),
        height,
        width,
        seed: dataset.random_seed,
        fractions: [dataset.train_fraction, dataset.val_fraction, dataset.test_fraction],
        batch_pattern: dataset.batch_pattern.clone(),
        balance: args.balance.map_or(configured, Balance::from),
        balance_scope: args.balance_scope,
        split_by: args.split_by,
        duplicates: args.duplicates,
        max_samples: args.max_samples.or(dataset.max_samples),
        only: args.only,
        against: against.map(|folder| folder.manifest().digest.clone()),
    };
    if let Some(folder) = against {
        let manifest = folder.manifest();
        let sizes = (manifest.plane, manifest.height, manifest.width);
        if sizes != (settings.plane, height, width) {
            return Err(Error::AgainstOther {
                path: folder.path().to_owned(),
                plane: sizes.0,
                height: sizes.1,
                width: sizes.2,
            });
        }
    }
    Ok(settings)
}

impl Settings {
    /// The splits that get rows.
    pub fn splits(&self) -> Vec<Split> {
        let wanted = |split: &Split| match self.only {
            Some(only) => only == *split,
            None => self.fractions[*split as usize] > 0.0,
        };
        Split::ALL.into_iter().filter(wanted).collect()
    }

    /// Whether image digests are needed before anything is written.
    pub fn compares_images(&self) -> bool {
        self.duplicates != Duplicates::Keep || self.against.is_some()
    }
}
