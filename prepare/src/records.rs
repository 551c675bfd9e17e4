//! What a scan writes down of every row: 37 bytes, in the order of the rows of a file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What a plan needs to know of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Whether the row is dropped, since a flag or a pixel is not finite
    pub is_dropped: bool,
    /// The label
    pub is_main_track: bool,
    /// The event, if the layout has one
    pub event: Option<i64>,
    /// Digest of the image; zeros if images were not read
    pub image: [u8; 16],
    /// Digest of event and true position, if both are known
    pub truth: Option<[u8; 12]>,
}

const SIZE: usize = 37;
const DROPPED: u8 = 1;
const MAIN: u8 = 2;
const EVENT: u8 = 4;
const TRUTH: u8 = 8;

impl Record {
    fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let flags = [
            (self.is_dropped, DROPPED),
            (self.is_main_track, MAIN),
            (self.event.is_some(), EVENT),
            (self.truth.is_some(), TRUTH),
        ];
        bytes[0] = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum();
        bytes[1..9].copy_from_slice(&self.event.unwrap_or_default().to_le_bytes());
        bytes[9..25].copy_from_slice(&self.image);
        bytes[25..].copy_from_slice(&self.truth.unwrap_or_default());
        bytes
    }

    fn decode(bytes: &[u8; SIZE]) -> Self {
        let part = |from: usize, to: usize| &bytes[from..to];
        let event = i64::from_le_bytes(part(1, 9).try_into().expect("eight bytes"));
        Self {
            is_dropped: bytes[0] & DROPPED != 0,
            is_main_track: bytes[0] & MAIN != 0,
            event: (bytes[0] & EVENT != 0).then_some(event),
            image: part(9, 25).try_into().expect("16 bytes"),
            truth: (bytes[0] & TRUTH != 0).then(|| part(25, SIZE).try_into().expect("12 bytes")),
        }
    }
}

/// Writes records of one file after the other.
pub struct RecordWriter {
    file: BufWriter<File>,
    /// Records written
    pub count: u64,
}

impl RecordWriter {
    /// Start a file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(path)?), count: 0 })
    }

    /// Add records.
    pub fn push(&mut self, records: &[Record]) -> io::Result<()> {
        for record in records {
            self.file.write_all(&record.encode())?;
        }
        self.count += records.len() as u64;
        Ok(())
    }

    /// Take back all records after the first `count`.
    pub fn truncate(&mut self, count: u64) -> io::Result<()> {
        self.file.flush()?;
        let end = count * SIZE as u64;
        self.file.get_ref().set_len(end)?;
        self.file.seek(SeekFrom::Start(end))?;
        self.count = count;
        Ok(())
    }

    /// Make sure that everything is on disk.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }
}

/// Reads records of any rows.
pub struct RecordReader {
    file: BufReader<File>,
}

impl RecordReader {
    /// Open a finished file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufReader::with_capacity(1 << 18, File::open(path)?) })
    }

    /// Go to the record with this number.
    pub fn seek(&mut self, record: u64) -> io::Result<()> {
        let target = record * SIZE as u64;
        let here = self.file.stream_position()?;
        self.file.seek_relative(target.cast_signed() - here.cast_signed())
    }

    /// The next record.
    pub fn next(&mut self) -> io::Result<Record> {
        let mut bytes = [0; SIZE];
        self.file.read_exact(&mut bytes)?;
        Ok(Record::decode(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_written() {
        let records = [
            Record {
                is_main_track: true,
                event: Some(-7),
                image: [3; 16],
                truth: Some([9; 12]),
                ..Record::default()
            },
            Record { is_dropped: true, ..Record::default() },
            Record { event: Some(0), ..Record::default() },
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let mut writer = RecordWriter::create(&path).unwrap();
        writer.push(&records[..1]).unwrap();
        writer.push(&[Record::default(); 5]).unwrap();
        writer.truncate(1).unwrap();
        writer.push(&records[1..]).unwrap();
        writer.finish().unwrap();
        let mut reader = RecordReader::open(&path).unwrap();
        for i in [2, 0, 1] {
            reader.seek(i).unwrap();
            assert_eq!(reader.next().unwrap(), records[i as usize]);
        }
    }
}
