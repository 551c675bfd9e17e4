//! Images as their occupied pixels: a few hundred bytes in place of eight thousand.

use shared::plane::Plane;

/// Images of one block or row group, one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SparseImages {
    /// Where each image's pixels end in `positions` and `values`
    ends: Vec<usize>,
    positions: Vec<u32>,
    values: Vec<f32>,
}

/// Pixels of one image that are not 0.
#[derive(Debug, Clone, Copy)]
pub struct SparseImage<'a> {
    /// Tick · width + channel, ascending
    pub positions: &'a [u32],
    /// ADC
    pub values: &'a [f32],
}

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flaw {
    /// A pixel is NaN or infinite: the row is dropped
    NotFinite,
    /// A pixel is below 0: the file is not raw ADC
    Negative(f32),
}

impl SparseImages {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Number of occupied pixels.
    pub fn pixels(&self) -> usize {
        self.values.len()
    }

    /// An image by its number.
    pub fn get(&self, index: usize) -> SparseImage<'_> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let range = start..self.ends[index];
        SparseImage { positions: &self.positions[range.clone()], values: &self.values[range] }
    }

    /// Add an image given as little-endian f32 bytes, unless it is flawed.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        const BLOCK: usize = 64;
        let start = self.values.len();
        let mut flaw = None;
        for (block, index) in bytes.chunks(BLOCK).zip(0_u32..) {
            if block.len() == BLOCK && is_zero(block) {
                continue;
            }
            for (pixel, offset) in block.chunks_exact(4).zip(0_u32..) {
                let value = f32::from_le_bytes(pixel.try_into().expect("a pixel has four bytes"));
                if value != 0.0 {
                    self.positions.push(index * (BLOCK as u32 / 4) + offset);
                    self.values.push(value);
                    if !(value > 0.0 && value < f32::INFINITY) {
                        flaw = Some(worse(flaw, value));
                    }
                }
            }
        }
        if let Some(flaw) = flaw {
            self.positions.truncate(start);
            self.values.truncate(start);
            return Err(flaw);
        }
        self.ends.push(self.values.len());
        Ok(())
    }

    /// Add an image.
    pub fn push(&mut self, image: SparseImage<'_>) {
        self.positions.extend_from_slice(image.positions);
        self.values.extend_from_slice(image.values);
        self.ends.push(self.values.len());
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.chunks_exact(8).fold(0, |any, word| any | u64::from_le_bytes(word.try_into().expect("eight bytes")))
        == 0
}

/// A negative pixel condemns the file, so it wins over one that is not finite.
fn worse(flaw: Option<Flaw>, value: f32) -> Flaw {
    match flaw {
        Some(flaw @ Flaw::Negative(_)) => flaw,
        _ if value.is_finite() => Flaw::Negative(value),
        _ => Flaw::NotFinite,
    }
}

impl SparseImage<'_> {
    /// Energy in MeV.
    pub fn energy(&self, plane: Plane) -> f32 {
        let adc: f64 = self.values.iter().copied().map(f64::from).sum();
        (adc / f64::from(plane.adc_per_mev())) as f32
    }

    /// The first 128 bits of the BLAKE3 hash of all positions and values, each 4 bytes little endian.
    pub fn digest(&self, scratch: &mut Vec<u8>) -> [u8; 16] {
        scratch.clear();
        for (position, value) in self.positions.iter().zip(self.values) {
            scratch.extend_from_slice(&position.to_le_bytes());
            scratch.extend_from_slice(&value.to_le_bytes());
        }
        let hash = blake3::hash(scratch);
        hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn occupied_pixels_are_found_wherever_they_are() {
        for at in 0..40 {
            let mut dense = [0.0; 40];
            dense[at] = 60.0;
            let mut images = SparseImages::default();
            images.push_bytes(&bytes(&dense)).unwrap();
            assert_eq!((images.get(0).positions, images.get(0).values), (&[at as u32][..], &[60.0][..]));
        }
    }

    #[test]
    fn minus_zero_is_zero() {
        let mut images = SparseImages::default();
        images.push_bytes(&bytes(&[-0.0; 16])).unwrap();
        assert_eq!(images.pixels(), 0);
    }

    #[test]
    fn a_flawed_image_leaves_no_trace() {
        let mut images = SparseImages::default();
        images.push_bytes(&bytes(&[1.0, 2.0])).unwrap();
        assert_eq!(images.push_bytes(&bytes(&[3.0, f32::NAN])), Err(Flaw::NotFinite));
        assert_eq!(images.push_bytes(&bytes(&[f32::INFINITY, -3.0])), Err(Flaw::Negative(-3.0)));
        images.push_bytes(&bytes(&[0.0, 4.0])).unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!((images.get(1).positions, images.get(1).values), (&[1][..], &[4.0][..]));
    }

    #[test]
    fn the_energy_is_the_sum_of_adc_over_the_planes_constant() {
        let mut images = SparseImages::default();
        images.push_bytes(&bytes(&[3600.0, 0.0, 1800.0])).unwrap();
        assert!((images.get(0).energy(Plane::X) - 1.5).abs() < 1e-6);
        assert!((images.get(0).energy(Plane::U) - 6.0).abs() < 1e-6);
    }

    #[test]
    fn a_digest_tells_positions_and_values_apart() {
        let mut images = SparseImages::default();
        for dense in [[1.0, 2.0, 0.0], [1.0, 0.0, 2.0], [2.0, 1.0, 0.0], [1.0, 2.0, 0.0]] {
            images.push_bytes(&bytes(&dense)).unwrap();
        }
        let digests: Vec<_> = (0..4).map(|i| images.get(i).digest(&mut Vec::new())).collect();
        assert_eq!(digests[0], digests[3]);
        assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2]);
    }
}
