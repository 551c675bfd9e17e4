//! Reading one member from front to back, stored or deflated, with its size and CRC checked.

use crc32fast::Hasher;
use flate2::{Decompress, FlushDecompress, Status};

use super::zip::{Member, read_full};
use super::{NpzError, ReadAt};

/// Packed bytes read at a time.
const PACKED_BLOCK: usize = 1 << 16;

/// A member that is read from front to back.
pub struct MemberReader<'a, R> {
    source: &'a R,
    member: &'a Member,
    hasher: Hasher,
    /// Unpacked bytes given out
    position: u64,
    inflater: Option<Inflater>,
}

struct Inflater {
    state: Decompress,
    /// Packed bytes that were read but not used
    input: Vec<u8>,
    used: usize,
    /// Packed bytes read so far
    read: u64,
    ended: bool,
}

impl<'a, R: ReadAt> MemberReader<'a, R> {
    pub fn new(source: &'a R, member: &'a Member) -> Self {
        let inflater = member.deflated.then(|| Inflater {
            state: Decompress::new(false),
            input: Vec::new(),
            used: 0,
            read: 0,
            ended: false,
        });
        Self { source, member, hasher: Hasher::new(), position: 0, inflater }
    }

    /// Unpacked bytes that are left.
    pub fn left(&self) -> u64 {
        self.member.size - self.position
    }

    /// Read exactly as many bytes as the buffer has; the caller asks for no more than are left.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NpzError> {
        if buffer.len() as u64 > self.left() {
            return Err(NpzError::Shorter(self.member.name.clone()));
        }
        match &mut self.inflater {
            None => read_full(self.source, self.member.offset + self.position, buffer)?,
            Some(inflater) => {
                let n = inflater.inflate(self.source, self.member, buffer)?;
                if n < buffer.len() {
                    return Err(NpzError::Shorter(self.member.name.clone()));
                }
            }
        }
        self.hasher.update(buffer);
        self.position += buffer.len() as u64;
        Ok(())
    }

    /// Read and forget.
    pub fn skip(&mut self, bytes: usize) -> Result<(), NpzError> {
        self.fill(&mut vec![0; bytes])
    }

    /// Check that the member ends here and that its CRC is right.
    pub fn finish(&mut self) -> Result<(), NpzError> {
        if let Some(inflater) = &mut self.inflater
            && inflater.inflate(self.source, self.member, &mut [0])? != 0
        {
            return Err(NpzError::Longer(self.member.name.clone()));
        }
        let (found, expected) = (self.hasher.clone().finalize(), self.member.crc);
        if found == expected {
            return Ok(());
        }
        Err(NpzError::Crc { member: self.member.name.clone(), found, expected })
    }
}

impl Inflater {
    /// Inflate until the buffer is full or the stream ends; returns the bytes written.
    fn inflate(
        &mut self,
        source: &impl ReadAt,
        member: &Member,
        buffer: &mut [u8],
    ) -> Result<usize, NpzError> {
        let mut filled = 0;
        while filled < buffer.len() && !self.ended {
            if self.used == self.input.len() {
                self.refill(source, member)?;
            }
            let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(&self.input[self.used..], &mut buffer[filled..], FlushDecompress::None)
                .map_err(|error| NpzError::Inflate { member: member.name.clone(), source: error.into() })?;
            let (taken, given) = (self.state.total_in() - before_in, self.state.total_out() - before_out);
            self.used += taken as usize;
            filled += given as usize;
            let is_stuck = taken == 0 && given == 0 && self.read == member.packed;
            self.ended = status == Status::StreamEnd || is_stuck;
        }
        Ok(filled)
    }

    fn refill(&mut self, source: &impl ReadAt, member: &Member) -> Result<(), NpzError> {
        let n = (member.packed - self.read).min(PACKED_BLOCK as u64) as usize;
        self.input.resize(n, 0);
        read_full(source, member.offset + self.read, &mut self.input)?;
        self.read += n as u64;
        self.used = 0;
        Ok(())
    }
}
