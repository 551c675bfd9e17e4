//! Images in memory: only the occupied pixels, which are 1 to 5 % of them.

/// Most pixels of an image: their indices are 16 bits wide.
pub const MOST_PIXELS: usize = u16::MAX as usize - 1;

/// Images of one size by their occupied pixels: 6 bytes each, a tenth to a fiftieth of the whole image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Images {
    /// End of each image's pixels
    ends: Vec<usize>,
    /// Index of each occupied pixel in its image
    places: Vec<u16>,
    /// Raw ADC of each occupied pixel
    adc: Vec<f32>,
}

impl Images {
    /// Images `[rows, pixels]` of `pixels` pixels each, at most [`MOST_PIXELS`].
    pub fn new(images: &[f32], pixels: usize) -> Self {
        let mut found = Self::default();
        found.extend(images, pixels);
        found
    }

    /// Add images `[rows, pixels]`.
    pub fn extend(&mut self, images: &[f32], pixels: usize) {
        for image in images.chunks_exact(pixels) {
            let occupied = image.iter().enumerate().filter(|(_, adc)| **adc != 0.0);
            for (place, &adc) in occupied {
                self.places.push(place as u16);
                self.adc.push(adc);
            }
            self.ends.push(self.places.len());
        }
    }

    /// Number of images.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Occupied pixels of an image: index in the image, and raw ADC.
    pub fn occupied(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        let pixels = start..self.ends[row];
        self.places[pixels.clone()]
            .iter()
            .map(|&place| usize::from(place))
            .zip(self.adc[pixels].iter().copied())
    }

    /// Occupied pixels of an image: their indices in the image, and their raw ADC.
    pub fn row(&self, row: usize) -> (&[u16], &[f32]) {
        let pixels = row.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[row];
        (&self.places[pixels.clone()], &self.adc[pixels])
    }

    /// Add an image by its occupied pixels.
    pub fn push(&mut self, pixels: impl IntoIterator<Item = (u16, f32)>) {
        for (place, adc) in pixels {
            self.places.push(place);
            self.adc.push(adc);
        }
        self.ends.push(self.places.len());
    }

    /// Add all images of `others`.
    pub fn append(&mut self, others: &Self) {
        let before = self.places.len();
        self.places.extend_from_slice(&others.places);
        self.adc.extend_from_slice(&others.adc);
        self.ends.extend(others.ends.iter().map(|end| end + before));
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.ends[..]) + size_of_val(&self.places[..]) + size_of_val(&self.adc[..])
    }

    /// Write an image, `[pixels]`.
    pub fn write(&self, row: usize, image: &mut [f32]) {
        image.fill(0.0);
        for (place, adc) in self.occupied(row) {
            image[place] = adc;
        }
    }

    /// These rows, in this order.
    #[must_use]
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        let mut found = Self::default();
        for row in rows {
            for (place, adc) in self.occupied(row) {
                found.places.push(place as u16);
                found.adc.push(adc);
            }
            found.ends.push(found.places.len());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_come_back_as_they_were() {
        let whole = [0.0, 5.0, 0.0, 7.5, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0];
        let images = Images::new(&whole, 4);
        assert_eq!(images.rows(), 3);
        let mut back = [9.0; 12];
        for (row, image) in back.chunks_exact_mut(4).enumerate() {
            images.write(row, image);
        }
        assert_eq!(back.map(f32::to_bits), whole.map(f32::to_bits));
        let two = images.select([2, 0]);
        assert_eq!(two.occupied(1).collect::<Vec<_>>(), [(1, 5.0), (3, 7.5)]);
    }
}
