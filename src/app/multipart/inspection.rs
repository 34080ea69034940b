//! What is seen of a part while it passes.

use std::ops::Range;

use barycenter_api::tree::PartHasher;
use bytes::Bytes;

use super::header::Header;
use crate::{
    app::{AppResult, finite::FiniteScan, tensor_file::not_finite},
    domain::upload::EDGE_BYTES,
};

/// Follows the bytes of one part.
pub(super) struct Inspection {
    hasher: PartHasher,
    /// Bytes that are still to come; what comes beyond them is the store's to refuse, and no part of any tree.
    left: u64,
    scan: Option<FiniteScan>,
    /// First bytes.
    pub(super) head: Vec<u8>,
    /// Last bytes so far.
    pub(super) tail: Vec<u8>,
}

impl Inspection {
    /// Of a part that lies here in the file; without the file's header its numbers cannot be looked at.
    pub(super) fn new(hasher: PartHasher, header: Option<&Header>, range: Range<u64>) -> Self {
        let scan = header.map(|header| FiniteScan::starting_at(&header.layout, range.start));
        Self { hasher, left: range.end - range.start, scan, head: Vec::new(), tail: Vec::new() }
    }

    /// Takes the next bytes and hands them on; refuses those that hold NaN or infinity.
    pub(super) fn take(&mut self, chunk: Bytes) -> AppResult<Bytes> {
        let inside = self.left.min(chunk.len() as u64);
        self.left -= inside;
        self.hasher.update(&chunk[..inside as usize]);
        let missing = EDGE_BYTES.saturating_sub(self.head.len()).min(chunk.len());
        self.head.extend_from_slice(&chunk[..missing]);
        self.tail.extend_from_slice(&chunk[chunk.len().saturating_sub(EDGE_BYTES)..]);
        let superfluous = self.tail.len().saturating_sub(EDGE_BYTES);
        self.tail.drain(..superfluous);
        match self.scan.as_mut().map(|scan| scan.scan(&chunk)) {
            Some(Err(tensor)) => Err(not_finite(tensor)),
            Some(Ok(())) | None => Ok(chunk),
        }
    }

    /// The chaining value of what was taken, which must be something.
    pub(super) fn chaining_value(&self) -> [u8; 32] {
        self.hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use barycenter_api::tree::PartPlan;

    use super::*;

    #[test]
    fn the_edges_are_kept_however_a_part_arrives() {
        let bytes: Vec<u8> = (0..40).collect();
        for chunk in 1..=40 {
            let hasher = PartPlan::new(40, 1024).unwrap().hasher(1).unwrap();
            let mut inspection = Inspection::new(hasher, None, 0..40);
            for chunk in bytes.chunks(chunk) {
                inspection.take(Bytes::copy_from_slice(chunk)).unwrap();
            }
            assert_eq!((inspection.head.as_slice(), inspection.tail.as_slice()), (&bytes[..7], &bytes[33..]));
            assert_eq!(inspection.chaining_value(), *blake3::hash(&bytes).as_bytes());
        }
    }
}
