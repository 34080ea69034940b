//! Looks for NaN and infinity in a safetensors file while it streams past.
//!
//! This is the only look that the server takes at numbers: a checkpoint with a NaN would spoil every average it enters, and
//! here the bytes pass anyway.

use barycenter_core::checkpoint::{Dtype, Layout, TensorLayout};

/// Follows the bytes of one file.
pub struct FiniteScan {
    /// Floating tensors in file order.
    tensors: Vec<TensorLayout>,
    /// The first of them that is not wholly seen.
    current: usize,
    /// Bytes seen, from the start of the file.
    position: u64,
    header_bytes: u64,
    /// The beginning of an element that a chunk's end has cut.
    partial: Vec<u8>,
    /// Bytes of an element that began before this scan; they are passed over.
    skip: usize,
}

impl FiniteScan {
    /// For a file of this layout.
    pub fn new(layout: &Layout) -> Self {
        Self::starting_at(layout, 0)
    }

    /// For a file of this layout from a byte on. An element that this byte or the end of the scan cuts is passed over: it is
    /// for [`cut_element`].
    pub fn starting_at(layout: &Layout, position: u64) -> Self {
        let floating = layout.tensors.iter().filter(|tensor| tensor.dtype.is_averageable());
        let ahead = floating.filter(|tensor| layout.header_bytes + tensor.range.end > position);
        Self {
            tensors: ahead.cloned().collect(),
            current: 0,
            position,
            header_bytes: layout.header_bytes,
            partial: Vec::new(),
            skip: cut_element(layout, position).map_or(0, |cut| cut.after),
        }
    }

    /// Takes the next bytes of the file; returns the tensor that holds NaN or infinity in them.
    pub fn scan(&mut self, chunk: &[u8]) -> Result<(), &str> {
        let start = self.position;
        let end = start + chunk.len() as u64;
        self.position = end;
        while let Some(tensor) = self.tensors.get(self.current) {
            let (from, to) = (self.header_bytes + tensor.range.start, self.header_bytes + tensor.range.end);
            if from >= end {
                break;
            }
            let inside = &chunk[(from.max(start) - start) as usize..(to.min(end) - start) as usize];
            let skipped = self.skip.min(inside.len());
            self.skip -= skipped;
            let inside = &inside[skipped..];
            if !is_finite(tensor.dtype, &mut self.partial, inside) {
                return Err(&self.tensors[self.current].name);
            }
            if to > end {
                break;
            }
            self.current += 1;
        }
        Ok(())
    }
}

/// An element of a floating tensor that has bytes on both sides of a boundary.
#[derive(Clone, Copy, Debug)]
pub struct CutElement<'a> {
    /// Its tensor.
    pub tensor: &'a TensorLayout,
    /// Bytes of it before the boundary.
    pub before: usize,
    /// Bytes of it from the boundary on.
    pub after: usize,
}

impl CutElement<'_> {
    /// Whether it is NaN or infinity, given what lies on both sides of the boundary; `None` where that is too little.
    pub fn is_not_finite(&self, before: &[u8], after: &[u8]) -> Option<bool> {
        let begin = before.get(before.len().checked_sub(self.before)?..)?;
        let element = [begin, after.get(..self.after)?].concat();
        Some(self.tensor.dtype.holds_not_finite(&element))
    }
}

/// The element that a boundary at this byte of the file cuts.
pub fn cut_element(layout: &Layout, boundary: u64) -> Option<CutElement<'_>> {
    let at = boundary.checked_sub(layout.header_bytes)?;
    // Tensors lie in order, without a gap.
    let tensor = layout.tensors.get(layout.tensors.partition_point(|tensor| tensor.range.end <= at))?;
    let size = tensor.dtype.size();
    let before = (at.checked_sub(tensor.range.start)? % size as u64) as usize;
    (before > 0 && tensor.dtype.is_averageable()).then_some(CutElement { tensor, before, after: size - before })
}

/// Whether all elements that end in these bytes are finite; `partial` carries a cut one from chunk to chunk.
fn is_finite(dtype: Dtype, partial: &mut Vec<u8>, mut bytes: &[u8]) -> bool {
    let size = dtype.size();
    if !partial.is_empty() {
        let (missing, rest) = bytes.split_at(bytes.len().min(size - partial.len()));
        partial.extend_from_slice(missing);
        bytes = rest;
        if partial.len() < size {
            return true;
        }
        if dtype.holds_not_finite(partial) {
            return false;
        }
        partial.clear();
    }
    let whole = bytes.len() - bytes.len() % size;
    partial.extend_from_slice(&bytes[whole..]);
    !dtype.holds_not_finite(&bytes[..whole])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with one tensor of each dtype, three elements each, written by hand.
    fn file(poison: Option<(usize, f64)>) -> (Layout, Vec<u8>) {
        let (mut header, mut data) = (Vec::new(), Vec::new());
        for (index, dtype) in ["I64", "F16", "BF16", "F32", "U8", "F64", "F8_E4M3", "F8_E5M2"].into_iter().enumerate() {
            let value = poison.filter(|(at, _)| *at == index).map_or(1.5, |(_, value)| value);
            let start = data.len();
            for element in [1.0, -2.0, value] {
                match dtype {
                    "I64" => data.extend(u64::MAX.to_le_bytes()),
                    "U8" => data.push(u8::MAX),
                    "F32" => data.extend((element as f32).to_le_bytes()),
                    "F64" => data.extend(element.to_le_bytes()),
                    "F8_E4M3" => data.push(if element.is_finite() { 0x38 } else { 0xff }),
                    "F8_E5M2" => data.push(if element.is_finite() { 0x3c } else { 0xfc }),
                    // The upper half of an f32 is a bf16; the narrower floats get a code of the value's class by hand.
                    "BF16" => data.extend(&(element as f32).to_le_bytes()[2..]),
                    _ => data.extend(if element.is_finite() { 0x3c00_u16 } else { 0xfc00 }.to_le_bytes()),
                }
            }
            let end = data.len();
            header.push(format!(r#""t{index}":{{"dtype":"{dtype}","shape":[3],"data_offsets":[{start},{end}]}}"#));
        }
        let header = format!("{{{}}}", header.join(","));
        let layout = Layout::parse(header.as_bytes()).unwrap();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        (layout, bytes)
    }

    fn scan(layout: &Layout, bytes: &[u8], chunk: usize) -> Option<String> {
        let mut scan = FiniteScan::new(layout);
        bytes.chunks(chunk).find_map(|chunk| scan.scan(chunk).err().map(str::to_owned))
    }

    proptest! {
        #[test]
        fn a_poisoned_tensor_is_named_however_the_file_is_cut(chunk in 1_usize..600, which in 0_usize..6) {
            let poisoned = [1, 2, 3, 5, 6, 7][which];
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let (layout, bytes) = file(Some((poisoned, value)));
                prop_assert_eq!(scan(&layout, &bytes, chunk), Some(format!("t{poisoned}")));
            }
        }

        #[test]
        fn a_poisoned_tensor_is_named_by_parts_that_are_scanned_apart(
            part in 8_usize..200,
            chunk in 1_usize..40,
            which in 0_usize..6,
        ) {
            let poisoned = [1, 2, 3, 5, 6, 7][which];
            let (layout, bytes) = file(Some((poisoned, f64::NAN)));
            let parts: Vec<&[u8]> = bytes.chunks(part).collect();
            let scanned = parts.iter().enumerate().find_map(|(index, bytes)| {
                let mut scan = FiniteScan::starting_at(&layout, (index * part) as u64);
                bytes.chunks(chunk).find_map(|chunk| scan.scan(chunk).err().map(str::to_owned))
            });
            let cut = (1..parts.len()).find_map(|index| {
                let cut = cut_element(&layout, (index * part) as u64)?;
                let not_finite = cut.is_not_finite(parts[index - 1], parts[index]).unwrap();
                not_finite.then(|| cut.tensor.name.clone())
            });
            prop_assert_eq!(scanned.or(cut), Some(format!("t{poisoned}")));
            let (layout, bytes) = file(None);
            for (index, bytes) in bytes.chunks(part).enumerate() {
                prop_assert!(FiniteScan::starting_at(&layout, (index * part) as u64).scan(bytes).is_ok());
            }
        }

        #[test]
        fn a_finite_file_passes_whatever_its_integers_are(chunk in 1_usize..600) {
            let (layout, bytes) = file(None);
            prop_assert_eq!(scan(&layout, &bytes, chunk), None);
        }
    }
}
