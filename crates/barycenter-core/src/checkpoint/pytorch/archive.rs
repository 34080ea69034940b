//! Zip archives: the part of the format that `torch.save` and `zip` write, every offset checked.

use std::{borrow::Cow, collections::HashMap, io::Read, ops::Range};

use super::Budget;
use crate::{Error, Result, checkpoint::layout::shown};

const END: u32 = 0x0605_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
const END_64: u32 = 0x0606_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// A field whose value stands in the zip64 extension instead.
const ELSEWHERE: u64 = 0xffff_ffff;
const ENCRYPTED: u16 = 1;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// An archive whose directory was read.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: HashMap<&'a str, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    flags: u16,
    method: u16,
    crc: u32,
    stored_bytes: u64,
    bytes: u64,
    local_header: u64,
}

/// Where an entry's content is.
pub(super) enum Content {
    /// In the file, as it is.
    InPlace(Range<usize>),
    /// Uncompressed.
    Inflated(Vec<u8>),
}

impl<'a> Archive<'a> {
    /// Reads the directory of an archive.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let (directory, count) = find_directory(bytes)?;
        let mut fields = Fields { bytes: &bytes[directory], at: 0 };
        let mut entries = HashMap::new();
        for _ in 0..count {
            let (name, entry) = read_entry(&mut fields)?;
            if entries.insert(name, entry).is_some() {
                return Err(Error::corrupt(format!("the archive has two entries `{}`", shown(name))));
            }
        }
        Ok(Self { bytes, entries })
    }

    /// Whether there is an entry of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The folder, with its slash, of the only `data.pkl`.
    pub(super) fn folder_of_pickle(&self) -> Result<&'a str> {
        let folders = self.entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
        let folders: Vec<&str> =
            folders.filter(|folder| folder.is_empty() || folder.find('/') == Some(folder.len() - 1)).collect();
        match folders[..] {
            [folder] => Ok(folder),
            [] => Err(Error::corrupt("a zip archive without `data.pkl`, not one that `torch.save` writes")),
            _ => Err(Error::corrupt("a zip archive with several `data.pkl`")),
        }
    }

    /// Size of an entry's content.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.bytes)
    }

    /// A small entry's content.
    pub(super) fn contents(&self, name: &str, most: u64, budget: &mut Budget) -> Result<Cow<'a, [u8]>> {
        if let Some(size) = self.size(name).filter(|size| *size > most) {
            return Err(Error::corrupt(format!("entry `{}` has {size} bytes, more than {most}", shown(name))));
        }
        Ok(match self.find(name, budget)? {
            Content::InPlace(range) => Cow::Borrowed(&self.bytes[range]),
            Content::Inflated(bytes) => Cow::Owned(bytes),
        })
    }

    /// An entry's content, uncompressed within the budget and compared with its checksum.
    pub(super) fn find(&self, name: &str, budget: &mut Budget) -> Result<Content> {
        let wrong = |what: &str| Error::corrupt(format!("entry `{}` {what}", shown(name)));
        let entry = self.entries.get(name).ok_or_else(|| wrong("is missing"))?;
        if entry.flags & ENCRYPTED != 0 {
            return Err(wrong("is encrypted"));
        }
        let range = self.locate(entry).ok_or_else(|| wrong("lies outside the file"))?;
        let content = match entry.method {
            STORED if entry.stored_bytes == entry.bytes => Content::InPlace(range),
            STORED => return Err(wrong("has two sizes")),
            DEFLATED => {
                budget.spend(entry.bytes)?;
                let inflated = inflate(&self.bytes[range], entry.bytes);
                Content::Inflated(inflated.ok_or_else(|| wrong("does not uncompress to its size"))?)
            }
            _ => return Err(wrong("is compressed in an unknown way")),
        };
        let bytes = match &content {
            Content::InPlace(range) => &self.bytes[range.clone()],
            Content::Inflated(bytes) => bytes,
        };
        // `torch.save` writes 0 where it was told to compute none.
        if entry.crc != 0 && crc32fast::hash(bytes) != entry.crc {
            return Err(wrong("does not match its checksum"));
        }
        Ok(content)
    }

    fn locate(&self, entry: &Entry) -> Option<Range<usize>> {
        let header = usize::try_from(entry.local_header).ok()?;
        let mut fields = Fields { bytes: self.bytes.get(header..)?, at: 0 };
        let signature = fields.u32().ok()?;
        fields.skip(22).ok()?;
        let (name, extra) = (fields.u16().ok()?, fields.u16().ok()?);
        let start = header.checked_add(30 + usize::from(name) + usize::from(extra))?;
        let end = start.checked_add(usize::try_from(entry.stored_bytes).ok()?)?;
        (signature == LOCAL && end <= self.bytes.len()).then_some(start..end)
    }
}

/// Bytes of the directory and how many entries it has.
fn find_directory(bytes: &[u8]) -> Result<(Range<usize>, u64)> {
    let broken = || Error::corrupt("not a whole zip archive: its end is missing");
    // The record has 22 bytes; a comment of at most 65535 may follow.
    let last = bytes.len().checked_sub(22).ok_or_else(broken)?;
    let ends = (last.saturating_sub(0xffff)..=last).rev();
    let is_end = |at: usize| {
        let mut fields = Fields { bytes: &bytes[at..], at: 0 };
        fields.u32() == Ok(END) && fields.skip(16).is_ok() && fields.u16() == Ok((last - at) as u16)
    };
    let end = ends.into_iter().find(|at| is_end(*at)).ok_or_else(broken)?;
    let mut fields = Fields { bytes: &bytes[end..], at: 10 };
    let (mut count, mut size, mut start) =
        (u64::from(fields.u16()?), u64::from(fields.u32()?), u64::from(fields.u32()?));
    if let Some(at) = locate_end_64(bytes, end) {
        let mut fields = Fields { bytes: bytes.get(at..).ok_or_else(broken)?, at: 0 };
        if fields.u32()? != END_64 {
            return Err(broken());
        }
        fields.skip(28)?;
        (count, size, start) = (fields.u64()?, fields.u64()?, fields.u64()?);
    }
    let range = start.checked_add(size).filter(|stop| *stop <= end as u64).map(|stop| start as usize..stop as usize);
    Ok((range.ok_or_else(broken)?, count))
}

fn locate_end_64(bytes: &[u8], end: usize) -> Option<usize> {
    let mut fields = Fields { bytes: &bytes[end.checked_sub(20)?..], at: 0 };
    if fields.u32().ok()? != END_64_LOCATOR {
        return None;
    }
    fields.skip(4).ok()?;
    usize::try_from(fields.u64().ok()?).ok()
}

fn read_entry<'a>(fields: &mut Fields<'a>) -> Result<(&'a str, Entry)> {
    if fields.u32()? != CENTRAL {
        return Err(Torn.into());
    }
    fields.skip(4)?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.skip(4)?;
    let crc = fields.u32()?;
    let (mut stored_bytes, mut bytes) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
    let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
    fields.skip(8)?;
    let mut local_header = u64::from(fields.u32()?);
    let name = std::str::from_utf8(fields.take(name.into())?);
    let name = name.map_err(|_| Error::corrupt("the archive has an entry whose name is not text"))?;
    let mut extra = Fields { bytes: fields.take(extra.into())?, at: 0 };
    fields.skip(comment.into())?;
    while let (Ok(kind), Ok(length)) = (extra.u16(), extra.u16()) {
        let mut field = Fields { bytes: extra.take(length.into())?, at: 0 };
        if kind == 1 {
            // Only those fields are here that have no room where they belong, in this order.
            for value in [&mut bytes, &mut stored_bytes, &mut local_header] {
                if *value == ELSEWHERE {
                    *value = field.u64()?;
                }
            }
        }
    }
    Ok((name, Entry { flags, method, crc, stored_bytes, bytes, local_header }))
}

fn inflate(compressed: &[u8], size: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut decoder = flate2::read::DeflateDecoder::new(compressed).take(size.checked_add(1)?);
    decoder.read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == size).then_some(bytes)
}

/// The directory ends within a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Torn;

impl From<Torn> for Error {
    fn from(_: Torn) -> Self {
        Self::corrupt("the directory of the zip archive is damaged")
    }
}

/// Little-endian fields one after another.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Torn> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count)).ok_or(Torn)?;
        self.at += count;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), Torn> {
        self.take(count).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Torn> {
        self.take(N).map(|bytes| bytes.try_into().expect("N bytes were taken"))
    }

    fn u16(&mut self) -> Result<u16, Torn> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Torn> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Torn> {
        self.array().map(u64::from_le_bytes)
    }
}
