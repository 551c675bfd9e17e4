//! The data digest: a sum over the rows, so that shards can add it up in any order.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shared::files;
use shared::split::Split;

/// Sum over rows of the 256-bit hashes of their place, image and label, in two halves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowDigest {
    halves: [u128; 2],
    rows: u64,
}

impl RowDigest {
    /// Add `copies` of a row.
    pub fn add_row(
        &mut self,
        split: Split,
        source: &str,
        row: u64,
        image: &[u8; 16],
        is_main_track: bool,
        copies: u64,
    ) {
        let mut bytes = Vec::with_capacity(source.len() + 26);
        bytes.extend([split as u8, u8::from(is_main_track)]);
        bytes.extend(row.to_le_bytes());
        bytes.extend(image);
        bytes.extend(source.as_bytes());
        let hash = blake3::hash(&bytes);
        for (half, part) in self.halves.iter_mut().zip(hash.as_bytes().chunks_exact(16)) {
            let part = u128::from_le_bytes(part.try_into().expect("16 bytes"));
            *half = half.wrapping_add(part.wrapping_mul(u128::from(copies)));
        }
        self.rows += copies;
    }

    /// Add other rows.
    pub fn add(&mut self, other: &Self) {
        for (half, other) in self.halves.iter_mut().zip(other.halves) {
            *half = half.wrapping_add(other);
        }
        self.rows += other.rows;
    }

    /// The digest of a folder with these rows and images of `[height, width]`.
    pub fn finish(&self, height: usize, width: usize) -> String {
        files::digest(format!("{self} {height} {width}").as_bytes())
    }
}

impl std::fmt::Display for RowDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x} {:032x} {}", self.halves[0], self.halves[1], self.rows)
    }
}

impl Serialize for RowDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RowDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut parts = text.split(' ');
        let mut half = || u128::from_str_radix(parts.next()?, 16).ok();
        let halves = [half(), half()];
        let rows = parts.next().and_then(|rows| rows.parse().ok());
        match (halves, rows) {
            ([Some(a), Some(b)], Some(rows)) => Ok(Self { halves: [a, b], rows }),
            _ => Err(serde::de::Error::custom("a row digest has two hexadecimal numbers and a count")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[(Split, u64, u64)]) -> RowDigest {
        let mut digest = RowDigest::default();
        for &(split, row, copies) in rows {
            digest.add_row(split, "es/a", row, &[1; 16], true, copies);
        }
        digest
    }

    #[test]
    fn the_digest_depends_on_rows_and_copies_and_not_on_their_order() {
        let (a, b) = ((Split::Train, 0, 1), (Split::Test, 1, 1));
        assert_eq!(sum(&[a, b]), sum(&[b, a]));
        assert_eq!(sum(&[a, a]), sum(&[(Split::Train, 0, 2)]));
        assert_ne!(sum(&[a, b]), sum(&[a]));
        assert_ne!(sum(&[a]), sum(&[(Split::Test, 0, 1)]));
        let mut together = sum(&[a]);
        together.add(&sum(&[b]));
        assert_eq!(together, sum(&[a, b]));
        let json = serde_json::to_string(&together).unwrap();
        assert_eq!(serde_json::from_str::<RowDigest>(&json).unwrap(), together);
    }
}
