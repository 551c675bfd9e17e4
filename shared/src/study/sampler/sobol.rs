//! The Sobol sequence, scrambled: points that fill a space more evenly than random ones.

/// Degree, coefficients and first direction numbers (Joe and Kuo 2008) of the dimensions after the first.
const DIRECTIONS: [(u32, u32, &[u32]); 15] = [
    (1, 0, &[1]),
    (2, 1, &[1, 3]),
    (3, 1, &[1, 3, 1]),
    (3, 2, &[1, 1, 1]),
    (4, 1, &[1, 1, 3, 3]),
    (4, 4, &[1, 3, 5, 13]),
    (5, 2, &[1, 1, 5, 5, 17]),
    (5, 4, &[1, 1, 5, 5, 5]),
    (5, 7, &[1, 1, 7, 11, 19]),
    (5, 11, &[1, 1, 5, 1, 1]),
    (5, 13, &[1, 1, 1, 3, 11]),
    (5, 14, &[1, 3, 5, 5, 31]),
    (6, 1, &[1, 3, 3, 9, 7, 49]),
    (6, 13, &[1, 1, 1, 15, 21, 21]),
    (6, 16, &[1, 3, 1, 13, 27, 49]),
];

/// Most dimensions.
pub const DIMENSIONS: usize = DIRECTIONS.len() + 1;

/// Coordinate of the `index`-th point, scrambled by `seed`, in `0.0..1.0`; dimensions repeat from [`DIMENSIONS`] on,
/// with another scrambling.
pub fn coordinate(seed: u64, dimension: usize, index: u64) -> f64 {
    let key = crate::random::hash(seed, "sobol", &(dimension as u64).to_le_bytes());
    f64::from(scramble(plain(dimension % DIMENSIONS, index as u32), key as u32)) / 2_f64.powi(32)
}

/// The unscrambled coordinate as a 32-bit fraction.
fn plain(dimension: usize, index: u32) -> u32 {
    let gray = index ^ (index >> 1);
    (0..32).filter(|bit| gray >> bit & 1 == 1).fold(0, |x, bit| x ^ direction(dimension, bit))
}

/// The direction number of a bit.
fn direction(dimension: usize, bit: u32) -> u32 {
    let Some((degree, coefficients, first)) = dimension.checked_sub(1).map(|at| DIRECTIONS[at]) else {
        return 1 << (31 - bit);
    };
    let mut v: Vec<u32> = first.iter().zip(0..).map(|(m, i)| m << (31 - i)).collect();
    for i in degree..=bit {
        let back = |k: u32| v[(i - k) as usize];
        let mut next = back(degree) ^ (back(degree) >> degree);
        for k in 1..degree {
            if coefficients >> (degree - 1 - k) & 1 == 1 {
                next ^= back(k);
            }
        }
        v.push(next);
    }
    v[bit as usize]
}

/// Owen's scrambling by a hash in which higher bits depend on lower ones only, applied to the reversed number.
fn scramble(x: u32, key: u32) -> u32 {
    let mut x = x.reverse_bits().wrapping_add(key);
    x ^= x.wrapping_mul(0x6c50_b47c);
    x ^= x.wrapping_mul(0xb82f_1e52);
    x ^= x.wrapping_mul(0xc7af_e638);
    x ^= x.wrapping_mul(0x8d22_f6e6);
    x.reverse_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_sequence_is_scipys() {
        // scipy.stats.qmc.Sobol(16, scramble=False).random(32)[5] * 32
        const FIFTH: [u32; 16] = [28, 28, 4, 12, 28, 20, 28, 12, 12, 4, 12, 28, 28, 4, 28, 12];
        let points: Vec<u32> = (0..16).map(|dimension| plain(dimension, 5) >> 27).collect();
        assert_eq!(points, FIFTH);
    }

    #[test]
    fn scrambled_points_stay_evenly_spread() {
        for dimension in 0..20 {
            let mut cells: Vec<u32> =
                (0..64).map(|index| (coordinate(3, dimension, index) * 64.0) as u32).collect();
            cells.sort_unstable();
            assert_eq!(cells, (0..64).collect::<Vec<u32>>(), "dimension {dimension}");
        }
    }
}
