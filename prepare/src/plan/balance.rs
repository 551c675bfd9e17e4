//! Making the classes of a split equally frequent, to the row, by a seeded hash of source and row.

use shared::config::Balance;
use shared::split::Split;

use super::{Fate, Inputs};
use crate::Error;
use crate::summary::Mix;

/// Balance one split; returns how often each class is written at least, as `[background, main track]`.
pub fn balance(inputs: &Inputs<'_>, fates: &mut [u8], split: Split, mix: Mix) -> Result<[u64; 2], Error> {
    let counts = [mix.rows - mix.main_tracks, mix.main_tracks];
    let [background, main_tracks] = counts;
    if background == 0 || main_tracks == 0 {
        let class = if main_tracks == 0 { "background" } else { "main-track" };
        return Err(Error::OneClass { split, class });
    }
    let main_is_larger = main_tracks > background;
    let (larger, smaller) = (main_tracks.max(background), main_tracks.min(background));
    if inputs.settings.balance == Balance::Undersample {
        let chosen = Chosen::least(inputs, fates, split, main_is_larger, smaller);
        chosen.apply(inputs, fates, |fate, is_chosen| if is_chosen { fate } else { fate | Fate::UNUSED });
        return Ok([1, 1]);
    }
    let chosen = Chosen::least(inputs, fates, split, !main_is_larger, larger % smaller);
    chosen.apply(inputs, fates, |fate, is_chosen| if is_chosen { fate | Fate::EXTRA } else { fate });
    let mut copies = [1, 1];
    copies[usize::from(!main_is_larger)] = larger / smaller;
    Ok(copies)
}

/// The rows of one split and class whose hashes are the least.
struct Chosen {
    split: Split,
    is_main_track: bool,
    /// Rows below this hash are chosen
    limit: u64,
    /// So many rows with exactly this hash are chosen too
    ties: u64,
}

impl Chosen {
    fn least(inputs: &Inputs<'_>, fates: &[u8], split: Split, is_main_track: bool, count: u64) -> Self {
        let mut hashes = Vec::new();
        let nobody = Self { split, is_main_track, limit: 0, ties: 0 };
        Self::each_hash(inputs, |at, hash| {
            if nobody.concerns(Fate(fates[at])) {
                hashes.push(hash());
            }
        });
        let Some(last) = count.checked_sub(1) else { return nobody };
        let (below, &mut limit, _) = hashes.select_nth_unstable(last as usize);
        let ties = count - below.iter().filter(|&&hash| hash < limit).count() as u64;
        Self { limit, ties, ..nobody }
    }

    fn apply(self, inputs: &Inputs<'_>, fates: &mut [u8], change: impl Fn(u8, bool) -> u8) {
        let mut ties = self.ties;
        let limit = self.limit;
        Self::each_hash(inputs, |at, hash| {
            if self.concerns(Fate(fates[at])) {
                let hash = hash();
                let is_tie = hash == limit && ties > 0;
                ties -= u64::from(is_tie);
                fates[at] = change(fates[at], hash < limit || is_tie);
            }
        });
    }

    fn concerns(&self, fate: Fate) -> bool {
        fate.split() == Some(self.split) && fate.is_main_track() == self.is_main_track
    }

    /// Give the fate's position and the hash of every row to `each`.
    fn each_hash(inputs: &Inputs<'_>, mut each: impl FnMut(usize, &dyn Fn() -> u64)) {
        let seed = inputs.settings.seed;
        for input in &inputs.files {
            let mut key = input.file.found.source.clone().into_bytes();
            key.extend([0; 8]);
            let number = key.len() - 8;
            for row in 0..input.take {
                key[number..].copy_from_slice(&row.to_le_bytes());
                each((input.fates_at + row) as usize, &|| {
                    shared::random::hash(seed, "prepare balance", &key)
                });
            }
        }
    }
}
