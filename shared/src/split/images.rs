//! Images in memory: only the occupied pixels, which are 1 to 5 % of them.

/// Most pixels of an image: their indices are 16 bits wide.
pub const MOST_PIXELS: usize = u16::MAX as usize - 1;

/// Bytes of an image that are looked at together: few blocks of an image have an occupied pixel.
const BLOCK: usize = 64;

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

    /// Add images `[rows, pixels]` that are f32 in little-endian bytes.
    pub fn extend_bytes(&mut self, images: &[u8], pixels: usize) {
        for image in images.chunks_exact(pixels * 4) {
            let blocks = image.chunks(BLOCK);
            for (first, block) in (0..).step_by(BLOCK / 4).zip(blocks) {
                if is_zero(block) {
                    continue;
                }
                for (place, adc) in (first..).zip(block.chunks_exact(4)) {
                    let adc = f32::from_le_bytes([adc[0], adc[1], adc[2], adc[3]]);
                    if adc != 0.0 {
                        self.places.push(place);
                        self.adc.push(adc);
                    }
                }
            }
            self.ends.push(self.places.len());
        }
    }

    /// Add the images of another.
    pub fn append(&mut self, other: &Self) {
        let before = self.places.len();
        self.ends.extend(other.ends.iter().map(|end| before + end));
        self.places.extend_from_slice(&other.places);
        self.adc.extend_from_slice(&other.adc);
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

/// Whether all bytes are zero; written so that it becomes a few wide instructions.
fn is_zero(block: &[u8]) -> bool {
    block.iter().fold(0, |any, byte| any | byte) == 0
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
        let bytes: Vec<u8> = whole.iter().flat_map(|adc| adc.to_le_bytes()).collect();
        let mut read = Images::default();
        read.extend_bytes(&bytes[..16], 4);
        let mut rest = Images::default();
        rest.extend_bytes(&bytes[16..], 4);
        read.append(&rest);
        assert_eq!(read, images);
        let two = images.select([2, 0]);
        assert_eq!(two.occupied(1).collect::<Vec<_>>(), [(1, 5.0), (3, 7.5)]);
    }

    #[test]
    fn bytes_give_the_images_that_values_give() {
        // 70 pixels: two blocks of 16 pixels are full of zeros, and the last is not a whole one; -0 is not occupied, NaN is.
        let mut whole = [0.0; 140];
        for (at, adc) in [(0, 60.0), (15, 1e-40), (16, -0.0), (69, 7.0), (70, f32::NAN), (139, -3.0)] {
            whole[at] = adc;
        }
        let bytes: Vec<u8> = whole.iter().flat_map(|adc| adc.to_le_bytes()).collect();
        let mut images = Images::default();
        images.extend_bytes(&bytes, 70);
        let expected = Images::new(&whole, 70);
        let pixels = |images: &Images, row| {
            images.occupied(row).map(|(at, adc)| (at, adc.to_bits())).collect::<Vec<_>>()
        };
        assert_eq!((images.rows(), pixels(&images, 0).len(), pixels(&images, 1).len()), (2, 3, 2));
        assert!((0..2).all(|row| pixels(&images, row) == pixels(&expected, row)));
    }
}
