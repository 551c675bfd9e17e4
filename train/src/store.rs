//! The images of a split: in memory, or in a file without a name where memory is short.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytesize::ByteSize;
use shared::split::Images;

/// Bytes of an occupied pixel in the file: its index and its ADC.
const PIXEL: u64 = 6;
/// Unwanted bytes that are read on the way to wanted ones, as a second read would take longer.
const GAP: u64 = 16 << 10;

/// A file of images that can't be written or read.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't {doing} the file of images in `{}`; it needs {size}: make room, set TMPDIR to a folder with more of it, or give more `--memory`",
    folder.display()
)]
#[expect(missing_docs, reason = "the message documents the fields")]
pub struct StoreError {
    pub doing: &'static str,
    pub folder: PathBuf,
    pub size: ByteSize,
    pub source: std::io::Error,
}

/// Images of a split.
#[derive(Debug)]
pub enum Store {
    /// In memory
    Memory(Images),
    /// In a file
    File(OnDisk),
}

/// Images in a file that is gone when it is closed: occupied pixels, first an image's indices, then its ADC.
#[derive(Debug)]
pub struct OnDisk {
    file: File,
    /// Number of pixels up to the end of each image
    ends: Vec<u64>,
}

impl From<Images> for Store {
    fn from(images: Images) -> Self {
        Self::Memory(images)
    }
}

impl Store {
    /// Number of images.
    pub fn rows(&self) -> usize {
        match self {
            Self::Memory(images) => images.rows(),
            Self::File(file) => file.ends.len(),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Memory(images) => images.bytes(),
            Self::File(file) => size_of_val(&file.ends[..]),
        }
    }

    /// All images.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn all(&self) -> Result<Cow<'_, Images>, StoreError> {
        match self {
            Self::Memory(images) => Ok(Cow::Borrowed(images)),
            Self::File(file) => Ok(Cow::Owned(file.read(&(0..file.ends.len()).collect::<Vec<_>>())?)),
        }
    }

    /// The images of these rows, in this order.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn read(&self, rows: &[usize]) -> Result<Images, StoreError> {
        match self {
            Self::Memory(images) => Ok(images.select(rows.iter().copied())),
            Self::File(file) => file.read(rows),
        }
    }
}

/// A store that grows.
pub struct Filler {
    room: usize,
    images: Images,
    file: Option<Writer>,
}

impl Filler {
    /// Images that take no more than `room` bytes of memory.
    pub fn new(room: usize) -> Self {
        Self { room, images: Images::default(), file: None }
    }

    /// Add images.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn add(&mut self, batch: &Images) -> Result<(), StoreError> {
        if let Some(file) = &mut self.file {
            return file.add(batch);
        }
        self.images.append(batch);
        if self.images.bytes() > self.room {
            let room = ByteSize(self.room as u64);
            tracing::info!("images past {room} go to a file in `{}`", folder().display());
            let mut file = Writer::new()?;
            file.add(&std::mem::take(&mut self.images))?;
            self.file = Some(file);
        }
        Ok(())
    }

    /// All that was added.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn finish(self) -> Result<Store, StoreError> {
        self.file.map_or(Ok(Store::Memory(self.images)), |file| file.finish().map(Store::File))
    }
}

/// Where the file lies.
fn folder() -> PathBuf {
    std::env::temp_dir()
}

fn failed(doing: &'static str, pixels: u64) -> impl Fn(std::io::Error) -> StoreError {
    move |source| StoreError { doing, folder: folder(), size: ByteSize(PIXEL * pixels), source }
}

/// A file of images that is being written.
struct Writer {
    file: BufWriter<File>,
    ends: Vec<u64>,
}

impl Writer {
    fn new() -> Result<Self, StoreError> {
        let file = tempfile::tempfile().map_err(failed("create", 0))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), ends: Vec::new() })
    }

    fn add(&mut self, images: &Images) -> Result<(), StoreError> {
        for row in 0..images.rows() {
            let (places, adc) = images.row(row);
            let end = self.ends.last().unwrap_or(&0) + places.len() as u64;
            let mut write = || -> std::io::Result<()> {
                places.iter().try_for_each(|place| self.file.write_all(&place.to_le_bytes()))?;
                adc.iter().try_for_each(|adc| self.file.write_all(&adc.to_le_bytes()))
            };
            write().map_err(failed("write", end))?;
            self.ends.push(end);
        }
        Ok(())
    }

    fn finish(self) -> Result<OnDisk, StoreError> {
        let pixels = self.ends.last().copied().unwrap_or(0);
        let file = self.file.into_inner().map_err(|error| failed("write", pixels)(error.into_error()))?;
        Ok(OnDisk { file, ends: self.ends })
    }
}

impl OnDisk {
    /// First pixel of an image, and the first one after it.
    fn pixels(&self, row: usize) -> (u64, u64) {
        (row.checked_sub(1).map_or(0, |before| self.ends[before]), self.ends[row])
    }

    fn read(&self, rows: &[usize]) -> Result<Images, StoreError> {
        let mut sorted: Vec<usize> = (0..rows.len()).collect();
        sorted.sort_unstable_by_key(|&at| rows[at]);
        // Where each wanted image starts in `bytes`.
        let mut starts = vec![0; rows.len()];
        let mut bytes = Vec::new();
        let mut group = 0;
        while group < sorted.len() {
            let first = self.pixels(rows[sorted[group]]).0;
            let mut end = first;
            let before = bytes.len();
            while let Some(&at) = sorted.get(group) {
                let (start, stop) = self.pixels(rows[at]);
                if (start.saturating_sub(end)) * PIXEL > GAP {
                    break;
                }
                starts[at] = before + ((start - first) * PIXEL) as usize;
                end = end.max(stop);
                group += 1;
            }
            bytes.resize(before + ((end - first) * PIXEL) as usize, 0);
            let total = self.ends.last().copied().unwrap_or(0);
            self.file.read_exact_at(&mut bytes[before..], first * PIXEL).map_err(failed("read", total))?;
        }
        let mut images = Images::default();
        for (&row, start) in rows.iter().zip(starts) {
            let (first, end) = self.pixels(row);
            let (places, adc) = bytes[start..start + ((end - first) * PIXEL) as usize]
                .split_at((end - first) as usize * size_of::<u16>());
            let places = places.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
            let adc = adc.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            images.push(places.zip(adc));
        }
        Ok(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of 0 to 6 pixels, in batches of 100.
    fn batches(rows: usize) -> Vec<Images> {
        let row =
            |row: usize| (0..row % 7).map(move |i| ((row % 50 + 300 * i) as u16, (row * 7 + i) as f32 + 0.5));
        let mut batches = vec![Images::default()];
        for at in 0..rows {
            if batches.last().is_some_and(|last| last.rows() == 100) {
                batches.push(Images::default());
            }
            batches.last_mut().unwrap().push(row(at));
        }
        batches
    }

    fn fill(room: usize, rows: usize) -> Store {
        let mut filler = Filler::new(room);
        for batch in batches(rows) {
            filler.add(&batch).unwrap();
        }
        filler.finish().unwrap()
    }

    #[test]
    fn images_past_the_room_are_in_a_file_and_read_the_same() {
        let (memory, file) = (fill(usize::MAX, 5000), fill(20_000, 5000));
        assert!(matches!(memory, Store::Memory(_)) && matches!(file, Store::File(_)));
        assert_eq!((memory.rows(), file.rows()), (5000, 5000));
        assert!(file.bytes() < 45_000 && memory.bytes() > 100_000, "{} {}", file.bytes(), memory.bytes());
        assert_eq!(memory.all().unwrap(), file.all().unwrap());
        // Twice the same, near ones, far ones, the first and the last.
        for rows in
            [vec![], vec![7, 7, 0], vec![4999, 0, 2500, 2501, 13], (0..5000).rev().step_by(3).collect()]
        {
            assert_eq!(memory.read(&rows).unwrap(), file.read(&rows).unwrap(), "{} rows", rows.len());
        }
    }

    #[test]
    fn a_file_that_ends_too_early_is_an_error_that_says_what_helps() {
        let Store::File(file) = fill(0, 500) else { panic!("no file") };
        file.file.set_len(100).unwrap();
        let error = Store::File(file).read(&[499]).unwrap_err().to_string();
        assert!(error.starts_with("can't read the file of images in `"), "{error}");
        assert!(error.contains("; it needs 8.8 KiB: make room, set TMPDIR"), "{error}");
    }
}
