//! The training and validation splits.

use std::path::Path;
use std::sync::Arc;

use shared::signal;
use shared::split::{Clusters, Split, SplitFolder};

use crate::engine::DataTables;
use crate::error::Error;
use crate::scorer::ScoringTables;
use crate::shelf::Shelf;
use crate::store::{Filler, Store};
use crate::training::Setup;

/// What a training reads of a split folder; never the test split.
#[derive(Debug)]
pub struct Data {
    /// Training rows
    pub train: Rows,
    /// Validation rows
    pub validation: Rows,
    /// Digest of the folder
    pub digest: String,
    /// Wire plane
    pub plane: shared::plane::Plane,
    /// Tables of the rows
    pub shelves: Shelves,
}

/// Tables of the rows, for all trainings of a process.
#[derive(Debug, Clone, Default)]
pub struct Shelves {
    /// Of the training rows
    pub train: Arc<Shelf<DataTables>>,
    /// Of the validation rows
    pub validation: Arc<Shelf<ScoringTables>>,
}

/// The rows of a split.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Raw ADC
    pub images: Arc<Store>,
    /// Labels, `[rows]`
    pub is_main_track: Vec<bool>,
    /// Energies in MeV, `[rows]`
    pub cluster_energy: Vec<f32>,
    /// Ticks of an image
    pub height: usize,
    /// Channels of an image
    pub width: usize,
}

impl From<Clusters> for Rows {
    fn from(clusters: Clusters) -> Self {
        let Clusters { images, is_main_track, cluster_energy, height, width } = clusters;
        Self { images: Arc::new(images.into()), is_main_track, cluster_energy, height, width }
    }
}

impl Rows {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.is_main_track.len()
    }

    /// Labels as numbers: 1 for a main track, else 0.
    pub fn labels(&self) -> Vec<f32> {
        self.is_main_track.iter().map(|&main| f32::from(u8::from(main))).collect()
    }

    /// Read a split, whose images may take `room` bytes of memory.
    fn read(splits: &SplitFolder, split: Split, room: usize) -> Result<Self, Error> {
        let mut all = Clusters::empty(splits.manifest().height, splits.manifest().width);
        let mut images = Filler::new(room);
        splits.each_clusters(split, |mut batch| {
            if signal::stop_requested() {
                return Err(Error::StudyStopped);
            }
            all.is_main_track.append(&mut batch.is_main_track);
            all.cluster_energy.append(&mut batch.cluster_energy);
            Ok(images.add(&batch.images)?)
        })?;
        let images = Arc::new(images.finish()?);
        if images.rows() == 0 {
            return Err(Error::EmptySplit { folder: splits.path().to_owned(), split });
        }
        Ok(Self { images, ..all.into() })
    }
}

impl Shelves {
    /// For so many trainings side by side, which together have so many threads.
    pub fn new(places: usize, threads: usize) -> Self {
        Self {
            train: Arc::new(Shelf::new(places, threads)),
            validation: Arc::new(Shelf::new(places, threads)),
        }
    }
}

impl Data {
    /// Read the splits.
    ///
    /// - `room`: bytes of memory for everything; images take at most half of it
    /// - `shelves`: for the tables of these rows, still empty
    ///
    /// # Errors
    /// [`Error::Split`]; [`Error::EmptySplit`] if there is nothing to learn from or to check with;
    /// [`Error::StudyStopped`] after a signal.
    pub fn read(folder: &Path, room: usize, shelves: Shelves) -> Result<Self, Error> {
        let splits = SplitFolder::open(folder)?;
        let manifest = splits.manifest();
        let train = Rows::read(&splits, Split::Train, room / 2)?;
        let rest = (room / 2).saturating_sub(train.images.bytes());
        Ok(Self {
            train,
            validation: Rows::read(&splits, Split::Validation, rest)?,
            digest: manifest.digest.clone(),
            plane: manifest.plane,
            shelves,
        })
    }

    /// Bytes of the images in memory.
    pub fn bytes(&self) -> usize {
        self.train.images.bytes() + self.validation.images.bytes()
    }

    /// Refuse images of another size than the trial's.
    ///
    /// # Errors
    /// [`Error::ImageSize`]
    pub fn check(&self, folder: &Path, setup: &Setup) -> Result<(), Error> {
        let found = (self.train.height, self.train.width);
        let wanted = (setup.network.height, setup.network.width);
        if found == wanted {
            return Ok(());
        }
        Err(Error::ImageSize { folder: folder.to_owned(), found, wanted })
    }
}
