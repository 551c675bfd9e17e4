//! The directory of a zip archive, read with bounds: at most 1 MiB and 256 members.

use super::{NpzError, ReadAt};

const END: u32 = 0x0605_4b50;
const END_SIZE: u64 = 22;
const END64: u32 = 0x0606_4b50;
const END64_LOCATOR: u32 = 0x0706_4b50;
const ENTRY: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const MAX_DIRECTORY: u64 = 1 << 20;
const MAX_MEMBERS: usize = 256;
const MARKER: u64 = 0xffff_ffff;

/// A file in the archive.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    pub deflated: bool,
    pub crc: u32,
    /// Bytes in the archive
    pub packed: u64,
    /// Bytes once unpacked
    pub size: u64,
    /// Where its local header starts, and after [`Member::locate`] its data
    pub offset: u64,
}

/// Read as much as is there, up to the buffer's end.
pub fn read_full(source: &impl ReadAt, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), NpzError> {
    while !buffer.is_empty() {
        match source.read_at(offset, buffer).map_err(NpzError::Read)? {
            0 => return Err(NpzError::Shrunk),
            n => {
                offset += n as u64;
                buffer = &mut buffer[n..];
            }
        }
    }
    Ok(())
}

/// All members, with unique names that stay inside the archive.
pub fn directory(source: &impl ReadAt) -> Result<Vec<Member>, NpzError> {
    let size = source.size();
    if size == 0 {
        return Err(NpzError::Empty);
    }
    let mut magic = [0; 4];
    let start = (size >= 4).then(|| read_full(source, 0, &mut magic)).transpose()?;
    if start.is_none() || (u32_at(&magic, 0) != LOCAL && u32_at(&magic, 0) != END) {
        return Err(NpzError::NoZip);
    }
    let (offset, length, count) = end_record(source, size)?;
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(NpzError::Directory("it points past the end of the file"));
    }
    if length > MAX_DIRECTORY || count > MAX_MEMBERS as u64 {
        return Err(NpzError::Directory("it claims more members than an NPZ file has"));
    }
    let mut bytes = vec![0; length as usize];
    read_full(source, offset, &mut bytes)?;
    let members = entries(&bytes, count as usize)?;
    check_names(&members)?;
    Ok(members)
}

/// Offset and length of the directory, and its number of members.
fn end_record(source: &impl ReadAt, size: u64) -> Result<(u64, u64, u64), NpzError> {
    // NumPy writes no comment, so the short look mostly suffices.
    for length in [1 << 10, END_SIZE + 0xffff] {
        let mut tail = vec![0; size.min(length) as usize];
        read_full(source, size - tail.len() as u64, &mut tail)?;
        let is_end = |&at: &usize| {
            let end = at + END_SIZE as usize + usize::from(u16_at(&tail, at + 20));
            u32_at(&tail, at) == END && end == tail.len()
        };
        let last = tail.len().checked_sub(END_SIZE as usize);
        let Some(at) = last.and_then(|last| (0..=last).rev().find(is_end)) else { continue };
        let record = &tail[at..];
        let (count, length, offset) = (u16_at(record, 10), u32_at(record, 12), u32_at(record, 16));
        if count == 0xffff || u64::from(length) == MARKER || u64::from(offset) == MARKER {
            return end_record_64(source, size - (tail.len() - at) as u64);
        }
        return Ok((offset.into(), length.into(), count.into()));
    }
    Err(NpzError::CutOff)
}

/// The same from the zip64 records before `end`.
fn end_record_64(source: &impl ReadAt, end: u64) -> Result<(u64, u64, u64), NpzError> {
    let damaged = || NpzError::Directory("its zip64 record is missing");
    let mut locator = [0; 20];
    read_full(source, end.checked_sub(20).ok_or_else(damaged)?, &mut locator)?;
    let at = u64_at(&locator, 8);
    if u32_at(&locator, 0) != END64_LOCATOR || at.checked_add(56).is_none_or(|to| to > end) {
        return Err(damaged());
    }
    let mut record = [0; 56];
    read_full(source, at, &mut record)?;
    if u32_at(&record, 0) != END64 {
        return Err(damaged());
    }
    Ok((u64_at(&record, 48), u64_at(&record, 40), u64_at(&record, 32)))
}

fn entries(mut bytes: &[u8], count: usize) -> Result<Vec<Member>, NpzError> {
    let damaged = || NpzError::Directory("an entry is malformed");
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        if bytes.len() < 46 || u32_at(bytes, 0) != ENTRY {
            return Err(damaged());
        }
        let name_end = 46 + usize::from(u16_at(bytes, 28));
        let extra_end = name_end + usize::from(u16_at(bytes, 30));
        let end = extra_end + usize::from(u16_at(bytes, 32));
        let name = bytes.get(46..name_end).ok_or_else(damaged)?;
        let extra = bytes.get(name_end..extra_end).ok_or_else(damaged)?;
        members.push(entry(bytes, String::from_utf8_lossy(name).into_owned(), extra)?);
        bytes = bytes.get(end..).ok_or_else(damaged)?;
    }
    Ok(members)
}

fn entry(bytes: &[u8], name: String, extra: &[u8]) -> Result<Member, NpzError> {
    if u16_at(bytes, 8) & 1 != 0 {
        return Err(NpzError::Encrypted(name));
    }
    let deflated = match u16_at(bytes, 10) {
        0 => false,
        8 => true,
        method => return Err(NpzError::Method { member: name, method }),
    };
    let mut sizes = [u32_at(bytes, 24).into(), u32_at(bytes, 20).into(), u32_at(bytes, 42).into()];
    large_sizes(extra, &mut sizes)?;
    let [size, packed, offset] = sizes;
    if !deflated && packed != size {
        return Err(NpzError::Directory("a stored member has two sizes"));
    }
    Ok(Member { name, deflated, crc: u32_at(bytes, 16), packed, size, offset })
}

/// Replace the sizes that are marked as too large for 32 bits by those of the zip64 extra field.
fn large_sizes(mut extra: &[u8], sizes: &mut [u64; 3]) -> Result<(), NpzError> {
    let damaged = || NpzError::Directory("an extra field is malformed");
    if sizes.iter().all(|&size| size != MARKER) {
        return Ok(());
    }
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let mut field = extra.get(4..4 + length).ok_or_else(damaged)?;
        if id == 1 {
            for size in sizes.iter_mut().filter(|size| **size == MARKER) {
                *size = u64_at(field.get(..8).ok_or_else(damaged)?, 0);
                field = &field[8..];
            }
            return Ok(());
        }
        extra = &extra[4 + length..];
    }
    Err(damaged())
}

fn check_names(members: &[Member]) -> Result<(), NpzError> {
    for (index, member) in members.iter().enumerate() {
        let name = &member.name;
        let leaves = name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..");
        if leaves {
            return Err(NpzError::Traversal(name.clone()));
        }
        if members[..index].iter().any(|other| other.name == *name) {
            return Err(NpzError::Duplicate(name.clone()));
        }
    }
    Ok(())
}

/// The members' names for a message.
pub fn names(members: &[Member]) -> String {
    if members.is_empty() {
        return "no arrays".to_owned();
    }
    let names: Vec<_> = members.iter().take(8).map(|member| format!("`{}`", member.name)).collect();
    names.join(", ")
}

impl Member {
    /// Move `offset` from the local header to the data and check that they lie inside the file.
    pub fn locate(&mut self, source: &impl ReadAt) -> Result<(), NpzError> {
        let mut local = [0; 30];
        let outside = NpzError::Directory("a member lies past the end of the file");
        if self.offset.checked_add(30).is_none_or(|end| end > source.size()) {
            return Err(outside);
        }
        read_full(source, self.offset, &mut local)?;
        if u32_at(&local, 0) != LOCAL {
            return Err(NpzError::Directory("a member is not where it should be"));
        }
        self.offset += 30 + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        if self.offset.checked_add(self.packed).is_none_or(|end| end > source.size()) {
            return Err(outside);
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
