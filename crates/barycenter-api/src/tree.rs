//! BLAKE3 of a file in parts.
//!
//! BLAKE3 is a tree. A part whose size is a power of two, at a multiple of that size, is a complete subtree: its chaining value
//! can be computed by whoever has the part, in any order, and the digest of the whole file follows from the chaining values
//! alone. So nobody reads a file a second time to know its digest.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use blake3::{
    CHUNK_LEN, Hasher,
    hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use rayon::prelude::*;

/// Parts that a store takes for one file.
pub const MAX_PARTS: u64 = 10_000;
/// Smallest size of a part that is chosen where none is asked for.
const USUAL_PART_BYTES: u64 = 16 << 20;

/// The part size for a file of this size where none is asked for: 16 MiB, doubled until the parts are few enough.
pub fn usual_part_bytes(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(MAX_PARTS).next_power_of_two().max(USUAL_PART_BYTES)
}

/// How a file is cut: parts of one size, the last one shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPlan {
    size_bytes: u64,
    part_size_bytes: u64,
}

impl PartPlan {
    /// Cuts a file; `None` where it is empty or the part size is no power of two of at least 1 KiB, a chunk of BLAKE3.
    pub fn new(size_bytes: u64, part_size_bytes: u64) -> Option<Self> {
        let is_subtree = part_size_bytes.is_power_of_two() && part_size_bytes >= CHUNK_LEN as u64;
        (size_bytes > 0 && is_subtree).then_some(Self { size_bytes, part_size_bytes })
    }

    /// Bytes of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes of every part but the last.
    pub fn part_size_bytes(&self) -> u64 {
        self.part_size_bytes
    }

    /// Number of parts.
    pub fn part_count(&self) -> u64 {
        self.size_bytes.div_ceil(self.part_size_bytes)
    }

    /// Where a part lies in the file; parts are numbered from 1. `None` where there is no such part.
    pub fn range(&self, number: u64) -> Option<std::ops::Range<u64>> {
        let start = number.checked_sub(1)?.checked_mul(self.part_size_bytes)?;
        (start < self.size_bytes).then(|| start..(start + self.part_size_bytes).min(self.size_bytes))
    }

    /// A hasher for this part.
    pub fn hasher(&self, number: u64) -> Option<PartHasher> {
        let start = self.range(number)?.start;
        let mut hasher = Hasher::new();
        hasher.set_input_offset(start);
        Some(PartHasher { hasher, whole: self.part_count() == 1 })
    }

    /// The digest of the file, from the chaining values of its parts in order; `None` where their number is wrong.
    pub fn digest(&self, chaining_values: &[[u8; 32]]) -> Option<String> {
        if chaining_values.len() as u64 != self.part_count() {
            return None;
        }
        // The root of a tree is finished otherwise than its branches, see [`PartHasher::finish`].
        if let [whole] = chaining_values {
            return Some(to_hex(whole));
        }
        let (left, right, size) = self.split(chaining_values, self.size_bytes);
        let (left, right) = (self.merge(left, size), self.merge(right, self.size_bytes - size));
        let root = merge_subtrees_root(&left, &right, Mode::Hash);
        Some(root.to_hex().to_string())
    }

    /// The chaining value of a subtree of more than no bytes.
    fn merge(&self, chaining_values: &[[u8; 32]], size: u64) -> [u8; 32] {
        if let [one] = chaining_values {
            return *one;
        }
        let (left, right, left_size) = self.split(chaining_values, size);
        merge_subtrees_non_root(&self.merge(left, left_size), &self.merge(right, size - left_size), Mode::Hash)
    }

    fn split<'a>(&self, chaining_values: &'a [[u8; 32]], size: u64) -> (&'a [[u8; 32]], &'a [[u8; 32]], u64) {
        let left = left_subtree_len(size);
        let (a, b) = chaining_values.split_at((left / self.part_size_bytes) as usize);
        (a, b, left)
    }
}

/// Hashes one part.
#[derive(Clone, Debug)]
pub struct PartHasher {
    hasher: Hasher,
    whole: bool,
}

impl PartHasher {
    /// Takes the next bytes of the part.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The chaining value of the part; of the only part of a file, its digest.
    pub fn finish(&self) -> [u8; 32] {
        if self.whole { *self.hasher.finalize().as_bytes() } else { self.hasher.finalize_non_root() }
    }
}

/// A file's digest and those of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTree {
    /// How it is cut.
    pub plan: PartPlan,
    /// Chaining values of its parts, in order.
    pub chaining_values: Vec<[u8; 32]>,
    /// Its digest, lower-case hexadecimal.
    pub digest_blake3: String,
}

impl FileTree {
    /// Reads a file once, its parts on all threads; it must not change meanwhile.
    ///
    /// # Errors
    /// Those of reading; `InvalidInput` where the file is empty or the part size cannot be.
    pub fn read(path: &Path, part_size_bytes: u64) -> std::io::Result<Self> {
        let size_bytes = path.metadata()?.len();
        let refused = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "the file is empty");
        let plan = PartPlan::new(size_bytes, part_size_bytes).ok_or_else(refused)?;
        let read_part = |number| -> std::io::Result<[u8; 32]> {
            let (range, mut hasher) = plan.range(number).zip(plan.hasher(number)).ok_or_else(refused)?;
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(range.start))?;
            hasher.hasher.update_reader(file.take(range.end - range.start))?;
            Ok(hasher.finish())
        };
        let chaining_values =
            (1..=plan.part_count()).into_par_iter().map(read_part).collect::<std::io::Result<Vec<_>>>()?;
        let digest_blake3 = plan.digest(&chaining_values).ok_or_else(refused)?;
        Ok(Self { plan, chaining_values, digest_blake3 })
    }
}

/// A chaining value as it is written.
pub fn to_hex(chaining_value: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*chaining_value).to_hex().to_string()
}

/// A chaining value that [`to_hex`] wrote.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}

#[cfg(test)]
mod tests;
