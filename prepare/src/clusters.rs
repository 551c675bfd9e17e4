//! One NPZ file as clusters: metadata and images row by row, in blocks.

use std::ops::ControlFlow;
use std::path::Path;

use shared::plane::Plane;

use crate::bad_file::BadFile;
use crate::image::{Flaw, SparseImages};
use crate::layout::{Layout, Truth};
use crate::npz::{BLOCK_ROWS, Contents, NpzFile, ReadAt, RetryingFile, Rows};
use crate::settings::Settings;

/// Images unpacked at a time: 256 KiB of 128 × 16, so that a core's cache holds them while they are checked.
const IMAGE_ROWS: usize = 32;

/// An opened file of clusters.
pub struct ClusterFile<R> {
    npz: NpzFile<R>,
    layout: Layout,
    plane: Plane,
}

/// Consecutive rows of a file.
#[derive(Debug, Default)]
pub struct Block {
    /// Row of the first
    pub first: u64,
    /// What the metadata say; `None` for a row that is dropped
    pub truths: Vec<Option<Truth>>,
    /// Images of the rows that are not dropped, if images are read
    pub images: SparseImages,
}

impl ClusterFile<RetryingFile> {
    /// Open a file and check everything but its rows.
    pub fn open(path: &Path, settings: &Settings) -> Result<Self, BadFile> {
        let file = RetryingFile::open(path).map_err(BadFile::Open)?;
        Self::from_source(file, settings.plane, settings.height, settings.width)
    }
}

impl<R: ReadAt> ClusterFile<R> {
    /// The same for bytes from anywhere.
    pub fn from_source(source: R, plane: Plane, height: usize, width: usize) -> Result<Self, BadFile> {
        let npz = NpzFile::open(source)?;
        npz.expect_size(height, width)?;
        let layout = Layout::of(npz.contents().columns())?;
        if npz.contents().rows() > u64::from(u32::MAX) {
            return Err(BadFile::TooManyRows(npz.contents().rows()));
        }
        Ok(Self { npz, layout, plane })
    }

    /// What the directory and the headers say.
    pub fn contents(&self) -> &Contents {
        self.npz.contents()
    }

    /// What the columns mean.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Give all rows to `each`, block by block, until it breaks; with or without their images.
    ///
    /// # Errors
    /// [`BadFile`]; a CRC that is wrong shows only after the last row.
    pub fn read(
        &self,
        with_images: bool,
        mut each: impl FnMut(Block) -> ControlFlow<()>,
    ) -> Result<(), BadFile> {
        let mut metadata = self.npz.metadata()?;
        let mut images = if with_images { Some(self.npz.images()?) } else { None };
        let (mut values, mut first) = (Vec::new(), 0);
        let rows = self.npz.contents().rows();
        loop {
            metadata.next_f64(BLOCK_ROWS, &mut values)?;
            let mut block = Block { first, ..Block::default() };
            for (row, values) in (first..).zip(values.chunks_exact(self.layout.columns)) {
                block.truths.push(self.layout.read(values, row, self.plane)?);
            }
            if let Some(images) = &mut images {
                block.add_images(images)?;
            }
            first += block.truths.len() as u64;
            if each(block).is_break() || first == rows {
                return Ok(());
            }
        }
    }
}

impl Block {
    fn add_images<R: ReadAt>(&mut self, images: &mut Rows<'_, R>) -> Result<(), BadFile> {
        if self.truths.is_empty() {
            images.next_f32_bytes(0)?; // checks the CRC of no rows
        }
        for (truths, first) in self.truths.chunks_mut(IMAGE_ROWS).zip((self.first..).step_by(IMAGE_ROWS)) {
            let bytes = images.next_f32_bytes(truths.len())?;
            let size = bytes.len() / truths.len();
            for ((truth, image), row) in truths.iter_mut().zip(bytes.chunks_exact(size)).zip(first..) {
                if truth.is_none() {
                    continue;
                }
                match self.images.push_bytes(image) {
                    Ok(()) => {}
                    Err(Flaw::NotFinite) => *truth = None,
                    Err(Flaw::Negative(value)) => return Err(BadFile::Negative { value, row }),
                }
            }
        }
        Ok(())
    }
}
