//! Random streams: one ChaCha8 key per purpose, file and event, so threads never share a generator.

use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// What a random stream is used for; part of the key, so that streams of two purposes never meet.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// Order of the files in the ring that shares repeated backgrounds; file 0, event 0.
    Ring = 1,
    /// A neutrino interaction; file, event.
    Neutrino = 2,
    /// The number of an event's own backgrounds and the backgrounds themselves; file, event.
    Background = 3,
    /// A repeated background; pool, position in the pool.
    Pool = 4,
    /// Which events of a file hold its repeated backgrounds; file, event 0.
    Placement = 5,
}

/// The generator whose 256-bit key is (seed, purpose, file, event), each as 64 bits, little endian.
pub(crate) fn stream(seed: u64, purpose: Purpose, file: u64, event: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, file, event]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Independent streams of one key: 0 draws numbers for the key's owner, then come four for each part.
const STREAMS_PER_PART: u64 = 4;

/// The generator of part `part` (an event's k-th background, say) under the key of `whole`.
pub(crate) fn part(whole: &ChaCha8Rng, part: u64) -> ChaCha8Rng {
    let mut rng = whole.clone();
    rng.set_stream(STREAMS_PER_PART * (1 + part));
    rng
}

/// The electronics noise of plane `plane` (0 to 2) for the physics that `physics` was drawn from.
///
/// It is another ChaCha stream of the same key, so that a plane looks the same whether or not the other
/// planes are written.
pub(crate) fn noise(physics: &ChaCha8Rng, plane: usize) -> ChaCha8Rng {
    let mut noise = physics.clone();
    noise.set_stream(physics.get_stream() + 1 + plane as u64);
    noise
}

/// Draws a row of a table of (share, value); none where the shares add up to less than the draw.
pub(crate) fn choose<'a, T>(table: &'a [(f64, T)], rng: &mut impl Rng) -> Option<&'a T> {
    let mut draw = rng.random::<f64>();
    for (share, value) in table {
        if draw < *share {
            return Some(value);
        }
        draw -= share;
    }
    None
}
