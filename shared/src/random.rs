//! Seeded random streams: a stream is named by a seed, a purpose and indices, never by who draws from it.
//!
//! The key of a stream is the BLAKE3 hash of the seed (8 bytes, little endian), the purpose (length as 8
//! bytes, then UTF-8) and each index (8 bytes); it seeds a `ChaCha8` generator. So trial 7's weights do not
//! depend on trial 6, on the number of threads, or on which machine draws them.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator of one stream.
///
/// ```
/// use rand::Rng;
/// let mut a = shared::random::stream(42, "weights", &[7]);
/// let mut b = shared::random::stream(42, "weights", &[7]);
/// assert_eq!(a.next_u64(), b.next_u64());
/// ```
pub fn stream(seed: u64, purpose: &str, indices: &[u64]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(key(seed, purpose, indices))
}

/// A hash of `bytes`, uniform over `u64`, that depends on the seed and the purpose.
pub fn hash(seed: u64, purpose: &str, bytes: &[u8]) -> u64 {
    let digest = blake3::keyed_hash(&key(seed, purpose, &[]), bytes);
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn key(seed: u64, purpose: &str, indices: &[u64]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    for index in indices {
        hasher.update(&index.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}
