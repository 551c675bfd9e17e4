//! Active sites: the few positions of a sparse image that a convolution has to compute.
//!
//! A cluster occupies 1 to 5 % of its pixels. Away from them every feature map has one and the same value, the
//! *background*, which depends on the weights alone. So a map is kept as a matrix with a row for each active site and row 0
//! for the background; nothing is approximated. Which sites are active, and which rows a convolution reads for them,
//! depends on the image alone: these tables are made once, for a whole data set, and are put together for a batch.

use std::ops::Range;

use shared::network::{ConvLayer, Layers};
use shared::split::Images;

/// Shape of a stage: a convolution and its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stage {
    /// Height of the map that comes in
    height: usize,
    /// Width of the map that comes in
    width: usize,
    /// Height of the map that goes out
    cells_high: usize,
    /// Width of the map that goes out
    cells_wide: usize,
}

/// What a network makes of an image's geometry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    height: usize,
    width: usize,
    kernel: usize,
    /// The convolutions after the stem
    stages: Vec<Stage>,
}

impl Geometry {
    /// Geometry of a network with images of `height` × `width`.
    pub fn new(layers: &Layers, kernel: usize) -> Self {
        let ConvLayer { height, width, .. } = layers.convs[0];
        let stage = |layer: &ConvLayer| Stage {
            height: layer.height,
            width: layer.width,
            cells_high: (layer.height + 1 - kernel) / 2,
            cells_wide: layer.width / 2,
        };
        Self { height, width, kernel, stages: layers.convs[1..].iter().map(stage).collect() }
    }

    /// Number of convolutions after the stem, each with a pool.
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// Kernel height in ticks.
    pub fn kernel(&self) -> usize {
        self.kernel
    }

    /// Positions of the last map.
    pub fn positions(&self) -> usize {
        match self.stages.last() {
            Some(stage) => stage.cells_high * stage.cells_wide,
            None => (self.height + 1 - self.kernel) * self.width,
        }
    }
}

/// Lists of one kind for all images, one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
struct Lists<T> {
    /// End of each image's list
    ends: Vec<usize>,
    values: Vec<T>,
}

impl<T> Lists<T> {
    fn of(&self, image: usize) -> &[T] {
        let start = image.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.values[start..self.ends[image]]
    }

    fn close(&mut self) {
        self.ends.push(self.values.len());
    }

    fn append(&mut self, other: Self, parts: usize) {
        let before = self.values.len();
        if self.values.capacity() < before + other.values.len() {
            // The parts are about as long as each other: one step of growth for all that come.
            self.values.reserve(other.values.len() * parts + other.values.len() * parts / 16);
        }
        self.values.extend(other.values);
        self.ends.extend(other.ends.into_iter().map(|end| end + before));
    }
}

/// The active sites of a data set's images.
///
/// Sites of an image are numbered from 1 in each map, in the order of ticks, then channels; 0 is the background.
#[derive(Debug, Clone, PartialEq)]
pub struct Sites {
    geometry: Geometry,
    /// Pixels under the stem's kernel: `kernel` for each site of the stem's map, scaled
    pixels: Lists<f32>,
    /// For each stage: `[cells · 4, kernel]`, the site that each tap of a cell's four members reads
    taps: Vec<Lists<u16>>,
    /// For each stage: `[sites, kernel]`, 1 + the member that reads the site with this tap, 0 if there is none
    readers: Vec<Lists<u16>>,
    /// Position of each site in the last map
    places: Lists<u16>,
}

/// Numbers of the sites of one map; 0 where nothing is active.
struct Map {
    width: usize,
    numbers: Vec<u16>,
    /// Index of each site
    sites: Vec<usize>,
}

impl Map {
    fn new(width: usize, active: &[bool]) -> Self {
        let sites: Vec<usize> = (0..active.len()).filter(|&at| active[at]).collect();
        let mut numbers = vec![0; active.len()];
        for (number, &at) in sites.iter().enumerate() {
            numbers[at] = number as u16 + 1;
        }
        Self { width, numbers, sites }
    }
}

impl Sites {
    /// The sites of images, whose pixels are multiplied by `scale`.
    pub fn new(geometry: &Geometry, images: &Images, scale: f32, threads: usize) -> Self {
        let rows = images.rows();
        let share = rows.div_ceil(threads.max(1)).max(1);
        let mut parts = std::thread::scope(|scope| {
            let running: Vec<_> = (0..rows)
                .step_by(share)
                .map(|first| {
                    let rows = first..rows.min(first + share);
                    scope.spawn(move || Self::of_rows(geometry, images, rows, scale))
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Vec<_>>()
        })
        .into_iter();
        let mut all = parts.next().unwrap_or_else(|| Self::empty(geometry));
        while let Some(part) = parts.next() {
            all.append(part, parts.len() + 1);
        }
        all
    }

    fn of_rows(geometry: &Geometry, images: &Images, rows: Range<usize>, scale: f32) -> Self {
        let mut sites = Self::empty(geometry);
        let mut image = vec![0.0; geometry.height * geometry.width];
        for row in rows {
            images.write(row, &mut image);
            sites.add(&image, scale);
        }
        sites
    }

    fn empty(geometry: &Geometry) -> Self {
        let stages = geometry.stages();
        Self {
            geometry: geometry.clone(),
            pixels: Lists::default(),
            taps: vec![Lists::default(); stages],
            readers: vec![Lists::default(); stages],
            places: Lists::default(),
        }
    }

    fn append(&mut self, other: Self, parts: usize) {
        self.pixels.append(other.pixels, parts);
        for (mine, theirs) in self.taps.iter_mut().zip(other.taps) {
            mine.append(theirs, parts);
        }
        for (mine, theirs) in self.readers.iter_mut().zip(other.readers) {
            mine.append(theirs, parts);
        }
        self.places.append(other.places, parts);
    }

    /// Number of images.
    pub fn rows(&self) -> usize {
        self.places.ends.len()
    }

    /// Sites of an image in each map, the stem's first.
    pub fn counts(&self, image: usize) -> impl Iterator<Item = usize> + '_ {
        let kernel = self.geometry.kernel;
        let stem = self.pixels.of(image).len() / kernel;
        std::iter::once(stem).chain(self.taps.iter().map(move |taps| taps.of(image).len() / (4 * kernel)))
    }

    fn add(&mut self, image: &[f32], scale: f32) {
        let mut map = self.add_stem(image, scale);
        for number in 0..self.geometry.stages.len() {
            map = self.add_stage(number, &map);
        }
        self.places.values.extend(map.sites.iter().map(|&at| at as u16));
        self.places.close();
    }

    fn add_stem(&mut self, image: &[f32], scale: f32) -> Map {
        let Geometry { height, width, kernel, .. } = self.geometry;
        let high = height + 1 - kernel;
        let mut active = vec![false; high * width];
        for (at, _) in image.iter().enumerate().filter(|(_, pixel)| **pixel != 0.0) {
            let (tick, channel) = (at / width, at % width);
            for tap in 0..kernel.min(tick + 1) {
                if tick - tap < high {
                    active[(tick - tap) * width + channel] = true;
                }
            }
        }
        let map = Map::new(width, &active);
        for &at in &map.sites {
            self.pixels.values.extend((0..kernel).map(|tap| image[at + tap * width] * scale));
        }
        self.pixels.close();
        map
    }

    fn add_stage(&mut self, number: usize, input: &Map) -> Map {
        let kernel = self.geometry.kernel;
        let Stage { cells_high, cells_wide, .. } = self.geometry.stages[number];
        let width = input.width;
        let mut active = vec![false; cells_high * cells_wide];
        // Outputs in an odd last row or column are in no cell.
        let cell = |tick: usize, channel: usize| {
            (tick < 2 * cells_high && channel < 2 * cells_wide)
                .then(|| ((tick / 2) * cells_wide + channel / 2, 2 * (tick % 2) + channel % 2))
        };
        for &at in &input.sites {
            for tap in 0..kernel.min(at / width + 1) {
                if let Some((cell, _)) = cell(at / width - tap, at % width) {
                    active[cell] = true;
                }
            }
        }
        let output = Map::new(cells_wide, &active);
        let taps = &mut self.taps[number];
        for &at in &output.sites {
            let first = (at / cells_wide * 2) * width + at % cells_wide * 2;
            for member in [first, first + 1, first + width, first + width + 1] {
                taps.values.extend((0..kernel).map(|tap| input.numbers[member + tap * width]));
            }
        }
        taps.close();
        let readers = &mut self.readers[number];
        for &at in &input.sites {
            readers.values.extend((0..kernel).map(|tap| {
                let tick = (at / width).checked_sub(tap);
                let found = tick.and_then(|tick| cell(tick, at % width));
                found.map_or(0, |(cell, member)| 4 * (output.numbers[cell] - 1) + member as u16 + 1)
            }));
        }
        readers.close();
        output
    }
}

/// All lists of a data set, for a device that puts batches together itself.
pub(crate) struct AllLists<'a> {
    pub pixels: &'a [f32],
    pub taps: Vec<&'a [u16]>,
    pub readers: Vec<&'a [u16]>,
    pub places: &'a [u16],
    /// Of each map: the first site of each image, and the number of all
    pub starts: Vec<Vec<u32>>,
}

impl Sites {
    /// Maps of the network.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Every list.
    pub(crate) fn lists(&self) -> AllLists<'_> {
        let kernel = self.geometry.kernel;
        let starts = |ends: &[usize], width: usize| {
            std::iter::once(0).chain(ends.iter().map(|end| (end / width) as u32)).collect()
        };
        AllLists {
            pixels: &self.pixels.values,
            taps: self.taps.iter().map(|list| list.values.as_slice()).collect(),
            readers: self.readers.iter().map(|list| list.values.as_slice()).collect(),
            places: &self.places.values,
            starts: std::iter::once(starts(&self.pixels.ends, kernel))
                .chain(self.taps.iter().map(|taps| starts(&taps.ends, 4 * kernel)))
                .collect(),
        }
    }
}

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
        let real = || images.iter().flatten().copied();
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
        for patch in real().flat_map(|image| self.pixels.of(image).chunks_exact(kernel)) {
            pixels.extend_from_slice(patch);
            pixels.push(1.0);
        }
        let stages =
            (0..self.geometry.stages()).map(|number| self.stage(number, images, &starts, &totals)).collect();
        let mut places = vec![0; images.len() * positions];
        let mut absent = vec![1.0; images.len() * positions];
        let mut found = vec![(images.len() * positions) as i32];
        for (slot, (image, start)) in images.iter().zip(&starts).enumerate() {
            let Some(image) = *image else { continue };
            for (site, &place) in self.places.of(image).iter().enumerate() {
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
            taps.extend(self.taps[number].of(image).iter().map(|&site| match site {
                0 => 0,
                site => inputs + i32::from(site) - 1,
            }));
            readers.extend(self.readers[number].of(image).iter().map(|&member| match member {
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
        assert_eq!(sites.pixels.values, [0.0, 50.0, 50.0, 0.0]);
        assert_eq!(sites.counts(0).collect::<Vec<_>>(), [2, 2]);
        // Members of the first cell: (0,0), (0,1), (1,0), (1,1); those in channel 1 read site 1 at tick 1, site 2 at tick 2.
        assert_eq!(sites.taps[0].values, [0, 0, 0, 1, 0, 0, 1, 2, 0, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(sites.places.values, [0, 1]);
        // Site 1 is the first tap of member (1,1) and the second of (0,1); site 2 of cell 2's (2,1) and of (1,1).
        assert_eq!(sites.readers[0].values, [4, 2, 6, 4]);
    }

    #[test]
    fn outputs_in_no_cell_read_nothing() {
        // Channel 2 is the odd last column: the stem is active there, no cell is.
        let sites = Sites::new(&geometry(), &Images::new(&image(&[(2, 9.0)]), 18), 1.0, 1);
        assert_eq!(sites.counts(0).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(sites.readers[0].values, [0, 0]);
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
