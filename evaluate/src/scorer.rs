//! One session that scores images, batch after batch: whole ones, or at their active sites.

use std::ops::Range;
use std::sync::Arc;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::{Tensor, TensorRef};
use shared::runtime::Device;
use shared::split::Images;
use train::inference::{Run, SiteModel, SiteScorer};

use crate::contract::Contract;

/// One session and what it needs to score a batch.
#[derive(Debug)]
pub enum Scorer {
    /// On whole images, as any model can be scored
    Whole(Box<Whole>),
    /// At active sites, as models of `train` can be
    Sites(Box<SiteScorer>, Arc<SiteModel>),
}

impl Scorer {
    /// Clusters of a run.
    pub fn batch(&self) -> usize {
        match self {
            Self::Whole(whole) => whole.batch,
            Self::Sites(_, model) => model.count(),
        }
    }

    /// Score whole images one model batch after the other; the scores are appended.
    ///
    /// - `images`: `[rows, height, width]`, raw ADC
    /// - `pixels`: of an image
    ///
    /// # Errors
    /// Those of ONNX Runtime.
    pub fn score(&mut self, images: &[f32], pixels: usize, scores: &mut Vec<f32>) -> ort::Result<()> {
        match self {
            Self::Whole(whole) => whole.score(images, scores),
            Self::Sites(..) => self.score_occupied(&Images::new(images, pixels), scores),
        }
    }

    /// [`Scorer::score`] for images by their occupied pixels.
    ///
    /// # Errors
    /// Those of ONNX Runtime.
    pub fn score_occupied(&mut self, images: &Images, scores: &mut Vec<f32>) -> ort::Result<()> {
        match self {
            Self::Whole(whole) => whole.score_occupied(images, scores),
            Self::Sites(sites, model) => model.runs(images).try_for_each(|run| sites.score(run, scores)),
        }
    }

    /// [`Scorer::score_occupied`] for images whose tables another thread may have made, see [`crate::model::tables`].
    ///
    /// # Errors
    /// Those of ONNX Runtime.
    pub fn score_made(
        &mut self,
        images: &Images,
        tables: Option<Vec<Run>>,
        scores: &mut Vec<f32>,
    ) -> ort::Result<()> {
        match (self, tables) {
            (Self::Sites(sites, _), Some(runs)) => {
                runs.into_iter().try_for_each(|run| sites.score(run, scores))
            }
            (scorer, _) => scorer.score_occupied(images, scores),
        }
    }
}

/// A session that takes whole images.
#[derive(Debug)]
pub struct Whole {
    session: Session,
    contract: Contract,
    shape: (usize, usize),
    batch: usize,
    /// Whether each run gets a whole batch, the last one filled up with empty images
    is_padded: bool,
    /// Whether whole images are as good where they are
    is_direct: bool,
    scale: f32,
    staging: Staging,
}

impl Whole {
    /// - `shape`: height and width
    /// - `batch`: clusters of a run, at most; on a GPU, and where the model insists on it, all runs have as many, since
    ///   cuDNN looks for the best algorithm anew for each size
    /// - `scale`: what raw ADC is multiplied with
    ///
    pub fn new(
        session: Session,
        contract: Contract,
        shape: (usize, usize),
        batch: usize,
        scale: f32,
        device: Device,
    ) -> Self {
        let staging = Staging::new(&session, batch, shape.0 * shape.1, device);
        let is_padded = contract.batch.is_some() || device != Device::Cpu;
        let is_direct = device == Device::Cpu && scale.to_bits() == 1.0_f32.to_bits();
        Self { session, contract, shape, batch, is_padded, is_direct, scale, staging }
    }

    fn score(&mut self, images: &[f32], scores: &mut Vec<f32>) -> ort::Result<()> {
        let pixels = self.shape.0 * self.shape.1;
        for chunk in images.chunks(self.batch * pixels) {
            let rows = chunk.len() / pixels;
            if self.is_direct && (!self.is_padded || rows == self.batch) {
                run(&mut self.session, &self.contract, self.shape, chunk, rows, scores)?;
            } else {
                self.staging.copy(chunk, self.scale);
                self.run(rows, scores)?;
            }
        }
        Ok(())
    }

    /// Score images by their occupied pixels; the scores are appended.
    ///
    /// # Errors
    /// Those of ONNX Runtime.
    pub fn score_occupied(&mut self, images: &Images, scores: &mut Vec<f32>) -> ort::Result<()> {
        for start in (0..images.rows()).step_by(self.batch) {
            let rows = start..images.rows().min(start + self.batch);
            self.staging.spread(images, rows.clone(), self.scale);
            self.run(rows.len(), scores)?;
        }
        Ok(())
    }

    /// Score the first `rows` of what was staged.
    fn run(&mut self, rows: usize, scores: &mut Vec<f32>) -> ort::Result<()> {
        let batch = if self.is_padded { self.batch } else { rows };
        let staged = self.staging.images(batch);
        run(&mut self.session, &self.contract, self.shape, staged, rows, scores)
    }
}

/// Run a model on a batch, and append the scores of its first `rows`.
fn run(
    session: &mut Session,
    contract: &Contract,
    (height, width): (usize, usize),
    images: &[f32],
    rows: usize,
    scores: &mut Vec<f32>,
) -> ort::Result<()> {
    let batch = images.len() / (height * width);
    let shape = contract.layout.shape(batch as i64, height, width);
    let input = TensorRef::from_array_view((shape, images))?;
    let outputs = session.run(ort::inputs![contract.input.as_str() => input])?;
    let (_, values) = outputs[contract.output.as_str()].try_extract_tensor::<f32>()?;
    let kind = contract.kind;
    if values.len() != batch * kind.classes() {
        let found = values.len();
        return Err(ort::Error::new(format!("the output has {found} values for {batch} clusters")));
    }
    scores.extend(values.chunks_exact(kind.classes()).take(rows).map(|row| kind.probability(row)));
    Ok(())
}

/// Where a batch is put together, `[batch, pixels]`.
#[derive(Debug)]
struct Staging {
    memory: Memory,
    pixels: usize,
    /// Places that are not zero
    occupied: Vec<usize>,
}

#[derive(Debug)]
enum Memory {
    /// Grows to what is needed
    Host(Vec<f32>),
    /// A whole batch in memory that a GPU reads by itself
    Pinned(Tensor<f32>),
}

impl Staging {
    fn new(session: &Session, batch: usize, pixels: usize, device: Device) -> Self {
        // A GPU copies from pinned memory at twice the rate, and while the host does something else.
        let pinned = match device {
            Device::Cpu => None,
            Device::Cuda(number) => pinned(session, number, [batch, pixels])
                .inspect_err(|error| {
                    tracing::warn!("no pinned memory, so copies to {device} are slower: {error}");
                })
                .ok(),
        };
        let memory = pinned.map_or(Memory::Host(Vec::new()), Memory::Pinned);
        Self { memory, pixels, occupied: Vec::new() }
    }

    /// The first `rows` images, of which what was never written is zero.
    fn images(&mut self, rows: usize) -> &mut [f32] {
        let needed = rows * self.pixels;
        match &mut self.memory {
            Memory::Host(values) => {
                values.resize(needed.max(values.len()), 0.0);
                &mut values[..needed]
            }
            Memory::Pinned(values) => &mut values.extract_tensor_mut().1[..needed],
        }
    }

    /// Empty what the batch before occupied.
    fn clear(&mut self) {
        let mut occupied = std::mem::take(&mut self.occupied);
        let values = self.images(occupied.iter().max().map_or(0, |last| last / self.pixels + 1));
        for place in occupied.drain(..) {
            values[place] = 0.0;
        }
        self.occupied = occupied;
    }

    /// Take whole images; the rest of the batch is empty.
    fn copy(&mut self, images: &[f32], scale: f32) {
        self.clear();
        for (to, adc) in self.images(images.len() / self.pixels).iter_mut().zip(images) {
            *to = adc * scale;
        }
        self.occupied.extend(0..images.len());
    }

    /// Take images by their occupied pixels; the rest of the batch is empty.
    fn spread(&mut self, images: &Images, rows: Range<usize>, scale: f32) {
        self.clear();
        let (pixels, mut occupied) = (self.pixels, std::mem::take(&mut self.occupied));
        let values = self.images(rows.len());
        for (row, first) in rows.zip((0..).step_by(pixels)) {
            for (place, adc) in images.occupied(row) {
                values[first + place] = adc * scale;
                occupied.push(first + place);
            }
        }
        self.occupied = occupied;
    }
}

/// Memory of the host that stays where it is, of a session on a GPU.
fn pinned(session: &Session, number: u32, shape: [usize; 2]) -> ort::Result<Tensor<f32>> {
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    let memory =
        MemoryInfo::new(AllocationDevice::CUDA_PINNED, number, AllocatorType::Device, MemoryType::CPUInput)?;
    Tensor::new(&Allocator::new(session, memory)?, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_leaves_behind_is_not_in_the_next_one() {
        let mut staging = Staging { memory: Memory::Host(Vec::new()), pixels: 3, occupied: Vec::new() };
        let images = Images::new(&[1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0], 3);
        staging.spread(&images, 0..3, 2.0);
        assert_eq!(staging.images(3), [2.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 6.0, 0.0]);
        staging.spread(&images, 2..3, 1.0);
        assert_eq!(staging.images(4), [0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        staging.copy(&[5.0; 6], 1.0);
        assert_eq!(staging.images(3), [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0]);
        staging.copy(&[7.0; 3], 1.0);
        assert_eq!(staging.images(2), [7.0, 7.0, 7.0, 0.0, 0.0, 0.0]);
    }
}
