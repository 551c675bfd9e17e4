//! The tables of a batch: those of its images put together.

use super::{Geometry, Sites};

/// The tables of a batch, as the training graph takes them (see `step`).
///
/// Row 0 of every map is the background; the sites of the batch's images follow, image by image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// `[sites of the stem, kernel + 1]`: the pixels under the stem's kernel, and 1 for its bias
    pub pixels: Vec<f32>,
    /// Each stage's tables
    pub stages: Vec<StageTables>,
    /// `[images, positions]`: the row of the last map at each position
    pub places: Vec<i32>,
    /// `[sites of the last map]`: where in `places` a row stands; past its end for the background (the sum over
    /// `absent`), past that for a row that stands nowhere (zeros)
    pub found: Vec<i32>,
    /// `[images · positions]`: 1 where the background stands
    pub absent: Vec<f32>,
}

/// The tables of one stage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageTables {
    /// `[sites · 4, kernel]`: the row that each tap reads
    pub taps: Vec<i32>,
    /// `[rows of the map that comes in, kernel]`: the member that reads the row with this tap. Past the members stand the
    /// `kernel` sums over those that read the background, then zeros.
    pub readers: Vec<i32>,
    /// `[kernel, sites · 4]`: 1 where the tap of this number reads the background, else 0
    pub quiet: Vec<f32>,
}

impl Sites {
    /// The tables of a batch of these images; `None` stands for an image with nothing in it.
    pub fn batch(&self, images: &[Option<usize>]) -> Batch {
        let Geometry { kernel, .. } = self.geometry;
        let positions = self.geometry.positions();
        let maps = self.geometry.stages() + 1;
        // First row of each image in each map.
        let mut starts = vec![vec![1_usize; maps]];
        for image in images {
            let mut next = starts[starts.len() - 1].clone();
            if let Some(image) = *image {
                next.iter_mut().zip(self.counts(image)).for_each(|(row, count)| *row += count);
            }
            starts.push(next);
        }
        let totals = starts.pop().unwrap_or_else(|| vec![1; maps]);

        let mut pixels = vec![0.0; kernel];
        pixels.push(1.0);
        for image in images.iter().flatten() {
            let (shard, image) = self.find(*image);
            for patch in shard.part(&shard.pixels, kernel, 0, image).chunks_exact(kernel) {
                pixels.extend_from_slice(patch);
                pixels.push(1.0);
            }
        }
        let stages =
            (0..self.geometry.stages()).map(|number| self.stage(number, images, &starts, &totals)).collect();
        let mut places = vec![0; images.len() * positions];
        let mut absent = vec![1.0; images.len() * positions];
        let mut found = vec![(images.len() * positions) as i32];
        for (slot, (image, start)) in images.iter().zip(&starts).enumerate() {
            let Some(image) = *image else { continue };
            let (shard, image) = self.find(image);
            for (site, &place) in shard.places[shard.range(maps - 1, image)].iter().enumerate() {
                let at = slot * positions + usize::from(place);
                places[at] = (start[maps - 1] + site) as i32;
                absent[at] = 0.0;
                found.push(at as i32);
            }
        }
        Batch { pixels, stages, places, found, absent }
    }

    fn stage(
        &self,
        number: usize,
        images: &[Option<usize>],
        starts: &[Vec<usize>],
        totals: &[usize],
    ) -> StageTables {
        let kernel = self.geometry.kernel;
        let members = 4 * totals[number + 1];
        let mut taps = vec![0; 4 * kernel];
        let mut readers: Vec<i32> = (members..members + kernel).map(|row| row as i32).collect();
        let nobody = (members + kernel) as i32;
        for (image, start) in images.iter().zip(starts) {
            let Some(image) = *image else { continue };
            let (inputs, outputs) = (start[number] as i32, 4 * start[number + 1] as i32);
            let (shard, image) = self.find(image);
            let of_image = shard.part(&shard.taps[number], 4 * kernel, number + 1, image);
            taps.extend(of_image.iter().map(|&site| match site {
                0 => 0,
                site => inputs + i32::from(site) - 1,
            }));
            let of_image = shard.part(&shard.readers[number], kernel, number, image);
            readers.extend(of_image.iter().map(|&member| match member {
                0 => nobody,
                member => outputs + i32::from(member) - 1,
            }));
        }
        let mut quiet = vec![0.0; kernel * members];
        for (member, taps) in taps.chunks_exact(kernel).enumerate() {
            for (tap, &row) in taps.iter().enumerate() {
                quiet[tap * members + member] = f32::from(u8::from(row == 0));
            }
        }
        StageTables { taps, readers, quiet }
    }
}
