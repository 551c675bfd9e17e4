//! A strict reader of NPZ files: every size is checked against the file before anything is allocated.

mod header;
mod member;
mod source;
mod zip;

pub use header::{ElementType, Header};
pub use source::{ReadAt, RetryingFile, WithRetries};

use std::io;

use member::MemberReader;

/// Rows read at a time: 2 MiB of images of 128 × 16.
pub const BLOCK_ROWS: usize = 256;

/// Why a file is not usable; the caller adds the path.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum NpzError {
    #[error("it can't be read")]
    Read(#[source] io::Error),
    #[error("it became shorter while it was read")]
    Shrunk,
    #[error("it is empty (0 bytes)")]
    Empty,
    #[error("it is no NPZ file: it does not start like a zip archive")]
    NoZip,
    #[error("it is cut off: the directory at the end of the zip archive is missing")]
    CutOff,
    #[error("its zip directory is damaged: {0}")]
    Directory(&'static str),
    #[error("member name `{0}` points outside the archive")]
    Traversal(String),
    #[error("two members are named `{0}`")]
    Duplicate(String),
    #[error("array `{name}` is missing; it has {found}")]
    Missing { name: &'static str, found: String },
    #[error(
        "member `{member}` is packed in a way (zip method {method}) that NPZ files don't have; save it with `np.savez`"
    )]
    Method { member: String, method: u16 },
    #[error("member `{0}` is encrypted")]
    Encrypted(String),
    #[error("member `{member}` fails its CRC check: {found:08x}, the directory says {expected:08x}")]
    Crc { member: String, found: u32, expected: u32 },
    #[error("member `{member}` can't be inflated")]
    Inflate {
        member: String,
        #[source]
        source: io::Error,
    },
    #[error("member `{0}` inflates to more than the directory says")]
    Longer(String),
    #[error("member `{0}` inflates to less than the directory says")]
    Shorter(String),
    #[error("array `{name}` has no valid npy header: {reason}")]
    Header { name: &'static str, reason: String },
    #[error(
        "array `{name}` has elements of type `{descr}`, expected numbers such as `<f4`; object and string arrays are never read"
    )]
    Type { name: &'static str, descr: String },
    #[error("array `{name}` is in Fortran order; save `np.ascontiguousarray({name})`")]
    Fortran { name: &'static str },
    #[error("array `{name}` claims {claimed} bytes in its header, its member holds {held}")]
    Size { name: &'static str, claimed: String, held: u64 },
    #[error("array `images` has shape {found}, the config says [N, {height}, {width}]")]
    ImageShape { found: String, height: usize, width: usize },
    #[error("array `metadata` has shape {0}, expected [N, columns]")]
    MetadataShape(String),
    #[error("`images` has {images} rows, `metadata` has {metadata}")]
    Rows { images: u64, metadata: u64 },
}

/// What the directory and the two headers say of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// `images`
    pub images: Header,
    /// `metadata`
    pub metadata: Header,
    /// CRC-32 of the members `images` and `metadata`: changes with their content
    pub crc: [u32; 2],
    /// Whether `images` is deflated
    pub deflated: bool,
}

impl Contents {
    /// Number of clusters.
    pub fn rows(&self) -> u64 {
        self.images.shape[0]
    }

    /// Number of metadata columns.
    pub fn columns(&self) -> u64 {
        self.metadata.shape[1]
    }
}

/// An opened NPZ file whose directory and headers are sound.
pub struct NpzFile<R> {
    source: R,
    members: [zip::Member; 2],
    contents: Contents,
}

const ARRAYS: [&str; 2] = ["images", "metadata"];

impl<R: ReadAt> NpzFile<R> {
    /// Read the directory and the headers of `images` and `metadata`.
    ///
    /// Any image size passes: see [`Self::expect_size`].
    pub fn open(source: R) -> Result<Self, NpzError> {
        let members = zip::directory(&source)?;
        let find = |name: &'static str| {
            let wanted = format!("{name}.npy");
            members
                .iter()
                .find(|member| member.name == wanted)
                .cloned()
                .ok_or_else(|| NpzError::Missing { name, found: zip::names(&members) })
        };
        let mut members = [find(ARRAYS[0])?, find(ARRAYS[1])?];
        let mut header = |index: usize| {
            let (member, name) = (&mut members[index], ARRAYS[index]);
            member.locate(&source)?;
            let header = Header::read(name, &mut MemberReader::new(&source, member))?;
            header.check_size(name, member.size)?;
            Ok::<_, NpzError>(header)
        };
        let headers = [header(0)?, header(1)?];
        let [images, metadata] = headers;
        if images.shape.len() != 3 {
            let found = images.shape_text();
            return Err(NpzError::Header {
                name: "images",
                reason: format!("its shape is {found}, expected [N, H, W]"),
            });
        }
        if metadata.shape.len() != 2 {
            return Err(NpzError::MetadataShape(metadata.shape_text()));
        }
        if images.shape[0] != metadata.shape[0] {
            return Err(NpzError::Rows { images: images.shape[0], metadata: metadata.shape[0] });
        }
        let crc = [members[0].crc, members[1].crc];
        let deflated = members[0].deflated;
        Ok(Self { source, members, contents: Contents { images, metadata, crc, deflated } })
    }

    /// Refuse images of another size.
    pub fn expect_size(&self, height: usize, width: usize) -> Result<(), NpzError> {
        let shape = &self.contents.images.shape;
        if shape[1..] == [height as u64, width as u64] {
            return Ok(());
        }
        Err(NpzError::ImageShape { found: self.contents.images.shape_text(), height, width })
    }

    /// What the directory and the headers say.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Read the metadata of all rows, `rows` at a time.
    pub fn metadata(&self) -> Result<Rows<'_, R>, NpzError> {
        self.rows_of(1)
    }

    /// Read all images, `rows` at a time.
    pub fn images(&self) -> Result<Rows<'_, R>, NpzError> {
        self.rows_of(0)
    }

    fn rows_of(&self, index: usize) -> Result<Rows<'_, R>, NpzError> {
        let header = if index == 0 { &self.contents.images } else { &self.contents.metadata };
        let mut reader = MemberReader::new(&self.source, &self.members[index]);
        reader.skip(header.length)?;
        let elements = header.shape[1..].iter().product::<u64>() as usize;
        Ok(Rows { reader, kind: header.kind, elements, left: header.shape[0], raw: Vec::new() })
    }
}

/// The rows of one array, from the first to the last; the CRC is checked after the last.
pub struct Rows<'a, R> {
    reader: MemberReader<'a, R>,
    kind: ElementType,
    elements: usize,
    left: u64,
    raw: Vec<u8>,
}

impl<R: ReadAt> Rows<'_, R> {
    /// The next rows, at most `rows`, as bytes in the file's own element type; empty after the last row.
    fn next_raw(&mut self, rows: usize) -> Result<&[u8], NpzError> {
        let rows = self.left.min(rows as u64);
        self.raw.resize(rows as usize * self.elements * self.kind.bytes(), 0);
        self.reader.fill(&mut self.raw)?;
        self.left -= rows;
        if self.left == 0 {
            self.reader.finish()?;
        }
        Ok(&self.raw)
    }

    /// The next rows as f32 in little-endian bytes.
    pub fn next_f32_bytes(&mut self, rows: usize) -> Result<&[u8], NpzError> {
        let kind = self.kind;
        if kind.is_f32_le() {
            return self.next_raw(rows);
        }
        self.next_raw(rows)?;
        let mut values = Vec::with_capacity(self.raw.len() / kind.bytes());
        kind.push_f64(&self.raw, &mut values);
        self.raw = values.into_iter().flat_map(|value| (value as f32).to_le_bytes()).collect();
        Ok(&self.raw)
    }

    /// The next rows as f64.
    pub fn next_f64(&mut self, rows: usize, out: &mut Vec<f64>) -> Result<(), NpzError> {
        let kind = self.kind;
        let raw = self.next_raw(rows)?;
        out.clear();
        kind.push_f64(raw, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A file that loses its second half after it was opened.
    struct Shrinking<'a>(&'a [u8]);

    impl ReadAt for Shrinking<'_> {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            let half = &self.0[..self.0.len() / 2];
            // The directory at the end was read while the file was still whole.
            if offset + 1024 >= self.size() {
                self.0.read_at(offset, buffer)
            } else {
                half.read_at(offset, buffer)
            }
        }

        fn size(&self) -> u64 {
            self.0.len() as u64
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_refused() {
        let [images, metadata] = crate::fuzz::sound_arrays(300, 14);
        let bytes = crate::fuzz::zip(&[("metadata.npy", &metadata), ("images.npy", &images)], false);
        let file = NpzFile::open(Shrinking(&bytes)).unwrap_or_else(|error| panic!("{error}"));
        let mut rows = file.images().unwrap_or_else(|error| panic!("{error}"));
        let outcome = (0..2).try_for_each(|_| rows.next_f32_bytes(BLOCK_ROWS).map(|_| ()));
        assert_eq!(
            outcome.map_err(|error| error.to_string()),
            Err("it became shorter while it was read".to_owned())
        );
    }
}
