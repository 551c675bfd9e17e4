//! Active sites: the few positions of a sparse image that a convolution has to compute.
//!
//! A cluster occupies 1 to 5 % of its pixels. Away from them every feature map has one and the same value, the
//! *background*, which depends on the weights alone. So a map is kept as a matrix with a row for each active site and row 0
//! for the background; nothing is approximated. Which sites are active, and which rows a convolution reads for them,
//! depends on the image alone: these tables are made once, for a whole data set, and are put together for a batch.

mod batch;
mod geometry;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use shared::split::Images;

pub use batch::{Batch, StageTables};
pub use geometry::Geometry;
use geometry::Stage;

/// Images of a shard: the unit in which threads share the work.
const SHARD: usize = 2048;

/// The active sites of a data set's images.
///
/// Sites of an image are numbered from 1 in each map, in the order of ticks, then channels; 0 is the background.
#[derive(Debug, Clone, PartialEq)]
pub struct Sites {
    geometry: Geometry,
    rows: usize,
    /// [`SHARD`] images each, the last one the rest
    shards: Vec<Shard>,
}

/// The sites of some images, one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Shard {
    /// Of each map: the first site of each image, and the number of all
    pub starts: Vec<Vec<u32>>,
    /// Pixels under the stem's kernel: `[sites of the stem, kernel]`, scaled
    pub pixels: Vec<f32>,
    /// For each stage: `[cells · 4, kernel]`, the site that each tap of a cell's four members reads
    pub taps: Vec<Vec<u16>>,
    /// For each stage: `[sites, kernel]`, 1 + the member that reads the site with this tap, 0 if there is none
    pub readers: Vec<Vec<u16>>,
    /// Position of each site in the last map
    pub places: Vec<u16>,
}

/// The sites of one map of one image.
#[derive(Default)]
struct Map {
    width: usize,
    /// Number of the site at each index; 0 where nothing is active
    numbers: Vec<u16>,
    /// Index of each site
    sites: Vec<usize>,
}

/// What images need one after the other, so that only occupied pixels cost time.
struct Scratch {
    image: Vec<f32>,
    /// A bit for each index of a map
    active: Vec<u64>,
    input: Map,
    output: Map,
}

impl Scratch {
    fn new(geometry: &Geometry) -> Self {
        let pixels = geometry.height * geometry.width;
        let map = || Map { numbers: vec![0; pixels], ..Map::default() };
        Self { image: vec![0.0; pixels], active: vec![0; pixels.div_ceil(64)], input: map(), output: map() }
    }

    fn wake(&mut self, at: usize) {
        self.active[at / 64] |= 1 << (at % 64);
    }

    /// Number the active indices into `output`, what was there into `input`.
    fn number(&mut self, width: usize) {
        std::mem::swap(&mut self.input, &mut self.output);
        let Map { numbers, sites, .. } = &mut self.output;
        sites.drain(..).for_each(|at| numbers[at] = 0);
        for (word, bits) in self.active.iter_mut().enumerate() {
            let mut bits = std::mem::take(bits);
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                sites.push(at);
                numbers[at] = sites.len() as u16;
            }
        }
        self.output.width = width;
    }
}

impl Sites {
    /// The sites of images, whose pixels are multiplied by `scale`.
    pub fn new(geometry: &Geometry, images: &Images, scale: f32, threads: usize) -> Self {
        let rows = images.rows();
        let mut shards = vec![Shard::default(); rows.div_ceil(SHARD)];
        let queue = Mutex::new(shards.iter_mut().enumerate());
        let work = || {
            let mut scratch = Scratch::new(geometry);
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((number, shard)) = job else { return };
                let first = number * SHARD;
                *shard = Shard::new(geometry, images, first..rows.min(first + SHARD), scale, &mut scratch);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(rows.div_ceil(SHARD)) {
                scope.spawn(work);
            }
            work();
        });
        Self { geometry: geometry.clone(), rows, shards }
    }

    /// Number of images.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Maps of the network.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Sites of an image in each map, the stem's first.
    pub fn counts(&self, image: usize) -> impl Iterator<Item = usize> + '_ {
        let (shard, image) = self.find(image);
        shard.starts.iter().map(move |starts| (starts[image + 1] - starts[image]) as usize)
    }

    /// The shards in the order of their images.
    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(Shard::bytes).sum()
    }

    /// Keep the numbers of sites alone, where a device has the rest.
    pub(crate) fn keep_counts(&mut self) {
        for shard in &mut self.shards {
            *shard = Shard { starts: std::mem::take(&mut shard.starts), ..Shard::default() };
        }
    }

    /// The shard of an image, and the image's number in it.
    fn find(&self, image: usize) -> (&Shard, usize) {
        (&self.shards[image / SHARD], image % SHARD)
    }
}

impl Shard {
    fn new(
        geometry: &Geometry,
        images: &Images,
        rows: Range<usize>,
        scale: f32,
        scratch: &mut Scratch,
    ) -> Self {
        let stages = geometry.stages();
        let mut shard = Self {
            starts: vec![Vec::with_capacity(rows.len() + 1); stages + 1],
            taps: vec![Vec::new(); stages],
            readers: vec![Vec::new(); stages],
            ..Self::default()
        };
        shard.starts.iter_mut().for_each(|starts| starts.push(0));
        for row in rows {
            shard.add_stem(geometry, images, row, scale, scratch);
            for number in 0..stages {
                shard.add_stage(geometry, number, scratch);
            }
            shard.places.extend(scratch.output.sites.iter().map(|&at| at as u16));
        }
        shard.pixels.shrink_to_fit();
        shard.taps.iter_mut().chain(&mut shard.readers).for_each(Vec::shrink_to_fit);
        shard
    }

    fn bytes(&self) -> usize {
        let starts: usize = self.starts.iter().map(Vec::len).sum();
        let short: usize = self.taps.iter().chain(&self.readers).map(Vec::len).sum();
        4 * (starts + self.pixels.len()) + 2 * (short + self.places.len())
    }

    /// Where an image's sites of a map stand.
    fn range(&self, map: usize, image: usize) -> Range<usize> {
        let starts = &self.starts[map];
        starts[image] as usize..starts[image + 1] as usize
    }

    /// An image's part of a list that has `each` values for every site of a map.
    fn part<'a, T>(&self, list: &'a [T], each: usize, map: usize, image: usize) -> &'a [T] {
        let range = self.range(map, image);
        &list[range.start * each..range.end * each]
    }

    fn close(&mut self, map: usize, count: usize) {
        let starts = &mut self.starts[map];
        starts.push(starts[starts.len() - 1] + count as u32);
    }

    fn add_stem(
        &mut self,
        geometry: &Geometry,
        images: &Images,
        row: usize,
        scale: f32,
        scratch: &mut Scratch,
    ) {
        let Geometry { height, width, kernel, .. } = *geometry;
        let high = height + 1 - kernel;
        for (at, adc) in images.occupied(row) {
            scratch.image[at] = adc * scale;
            let tick = at / width;
            for tap in (tick + 1).saturating_sub(high)..kernel.min(tick + 1) {
                scratch.wake(at - tap * width);
            }
        }
        scratch.number(width);
        for &at in &scratch.output.sites {
            self.pixels.extend((0..kernel).map(|tap| scratch.image[at + tap * width]));
        }
        images.occupied(row).for_each(|(at, _)| scratch.image[at] = 0.0);
        self.close(0, scratch.output.sites.len());
    }

    fn add_stage(&mut self, geometry: &Geometry, number: usize, scratch: &mut Scratch) {
        let kernel = geometry.kernel;
        let Stage { cells_high, cells_wide, .. } = geometry.stages[number];
        let width = scratch.output.width;
        // Outputs in an odd last row or column are in no cell.
        let cell = |tick: usize, channel: usize| {
            (tick < 2 * cells_high && channel < 2 * cells_wide)
                .then(|| ((tick / 2) * cells_wide + channel / 2, 2 * (tick % 2) + channel % 2))
        };
        for site in 0..scratch.output.sites.len() {
            let at = scratch.output.sites[site];
            for tap in 0..kernel.min(at / width + 1) {
                if let Some((cell, _)) = cell(at / width - tap, at % width) {
                    scratch.wake(cell);
                }
            }
        }
        scratch.number(cells_wide);
        let Scratch { input, output, .. } = scratch;
        let taps = &mut self.taps[number];
        for &at in &output.sites {
            let first = (at / cells_wide * 2) * width + at % cells_wide * 2;
            for member in [first, first + 1, first + width, first + width + 1] {
                taps.extend((0..kernel).map(|tap| input.numbers[member + tap * width]));
            }
        }
        let readers = &mut self.readers[number];
        for &at in &input.sites {
            readers.extend((0..kernel).map(|tap| {
                let tick = (at / width).checked_sub(tap);
                let found = tick.and_then(|tick| cell(tick, at % width));
                found.map_or(0, |(cell, member)| 4 * (output.numbers[cell] - 1) + member as u16 + 1)
            }));
        }
        self.close(number + 1, output.sites.len());
    }
}

#[cfg(test)]
mod tests {
    use shared::network::SimpleCnn;

    use super::*;

    /// Kernel 2, one stage, images of 6 × 3: the stem's map is 5 × 3, the convolution's 4 × 3, cells 2 × 1.
    fn geometry() -> Geometry {
        let network = SimpleCnn {
            height: 6,
            width: 3,
            filters: 1,
            kernel: 2,
            conv_layers: 1,
            dense_layers: 1,
            units: 1,
            dropout: 0.0,
        };
        Geometry::new(&network.layers().unwrap(), 2)
    }

    fn image(pixels: &[(usize, f32)]) -> Vec<f32> {
        let mut image = vec![0.0; 18];
        for &(at, adc) in pixels {
            image[at] = adc;
        }
        image
    }

    #[test]
    fn an_occupied_pixel_wakes_the_sites_that_see_it() {
        // Tick 2, channel 1: stem sites at ticks 1 and 2, both in channel 1.
        let sites = Sites::new(&geometry(), &Images::new(&image(&[(7, 100.0)]), 18), 0.5, 1);
        assert_eq!(sites.shards[0].pixels, [0.0, 50.0, 50.0, 0.0]);
        assert_eq!(sites.counts(0).collect::<Vec<_>>(), [2, 2]);
        // Members of the first cell: (0,0), (0,1), (1,0), (1,1); those in channel 1 read site 1 at tick 1, site 2 at tick 2.
        assert_eq!(sites.shards[0].taps[0], [0, 0, 0, 1, 0, 0, 1, 2, 0, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(sites.shards[0].places, [0, 1]);
        // Site 1 is the first tap of member (1,1) and the second of (0,1); site 2 of cell 2's (2,1) and of (1,1).
        assert_eq!(sites.shards[0].readers[0], [4, 2, 6, 4]);
    }

    #[test]
    fn outputs_in_no_cell_read_nothing() {
        // Channel 2 is the odd last column: the stem is active there, no cell is.
        let sites = Sites::new(&geometry(), &Images::new(&image(&[(2, 9.0)]), 18), 1.0, 1);
        assert_eq!(sites.counts(0).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(sites.shards[0].readers[0], [0, 0]);
    }

    #[test]
    fn a_batch_puts_the_images_one_after_the_other() {
        let images = [image(&[(7, 100.0)]), image(&[]), image(&[(0, 3.0)])].concat();
        for threads in [1, 3] {
            let sites = Sites::new(&geometry(), &Images::new(&images, 18), 1.0, threads);
            assert_eq!(sites.rows(), 3);
            let batch = sites.batch(&[Some(2), None, Some(0)]);
            assert_eq!(batch.pixels, [0.0, 0.0, 1.0, 3.0, 0.0, 1.0, 0.0, 100.0, 1.0, 100.0, 0.0, 1.0]);
            // Row 0, one cell of image 2, two of image 0.
            let StageTables { taps, readers, quiet } = &batch.stages[0];
            assert_eq!(taps[..8], [0; 8]);
            assert_eq!(taps[8..16], [1, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(taps[16..24], [0, 0, 0, 2, 0, 0, 2, 3]);
            // 16 members, then 2 sums over the background, then zeros.
            assert_eq!(readers[..], [16, 17, 4, 18, 8 + 3, 8 + 1, 12 + 1, 8 + 3]);
            assert_eq!(quiet.len(), 2 * 16);
            assert_eq!(quiet[..6], [1.0, 1.0, 1.0, 1.0, 0.0, 1.0]);
            assert_eq!(batch.places, [1, 0, 0, 0, 2, 3]);
            assert_eq!(batch.found, [6, 0, 4, 5]);
            assert_eq!(batch.absent, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        }
    }
}
