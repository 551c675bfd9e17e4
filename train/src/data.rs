//! The training and validation splits in memory.

use std::path::Path;

use shared::split::{Clusters, Split, SplitFolder};

use crate::error::Error;
use crate::training::Setup;

/// What a training reads of a split folder; never the test split.
#[derive(Debug)]
pub struct Data {
    /// Training rows
    pub train: Clusters,
    /// Validation rows
    pub validation: Clusters,
    /// Digest of the folder
    pub digest: String,
    /// Wire plane
    pub plane: shared::plane::Plane,
}

impl Data {
    /// Read the splits.
    ///
    /// # Errors
    /// [`Error::Split`]; [`Error::EmptySplit`] if there is nothing to learn from or to check with.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let splits = SplitFolder::open(folder)?;
        let load = |split: Split| -> Result<Clusters, Error> {
            let clusters = splits.clusters(split)?;
            if clusters.rows() == 0 {
                return Err(Error::EmptySplit { folder: folder.to_owned(), split });
            }
            Ok(clusters)
        };
        let manifest = splits.manifest();
        Ok(Self {
            train: load(Split::Train)?,
            validation: load(Split::Validation)?,
            digest: manifest.digest.clone(),
            plane: manifest.plane,
        })
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
