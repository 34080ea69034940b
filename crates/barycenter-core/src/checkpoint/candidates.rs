//! Checks of a candidate set: can these files be averaged?

use std::cmp::Ordering;

use rayon::prelude::*;

use super::{CheckpointFile, Dtype, Layout, TensorLayout, layout::shown};
use crate::{Error, Result};

/// Differences that a message lists before it only counts.
const LISTED: usize = 5;
/// Elements looked at by one task.
const CHUNK: usize = 1 << 18;

/// Checks that there are at least two candidates and that all have the tensors of the first: names, shapes, dtypes.
///
/// `names` are what messages call the candidates, one each.
///
/// # Errors
/// [`Error::Input`] naming the candidate and the first tensors that differ.
pub fn check_candidates(candidates: &[CheckpointFile], names: &[String]) -> Result<()> {
    let layouts: Vec<&Layout> = candidates.iter().map(CheckpointFile::layout).collect();
    check_layouts(&layouts, names)
}

/// As [`check_candidates`], for callers that hold headers only.
///
/// # Errors
/// As [`check_candidates`].
pub fn check_layouts(layouts: &[&Layout], names: &[String]) -> Result<()> {
    if layouts.len() != names.len() {
        return Err(Error::input(format!("{} candidates with {} names", layouts.len(), names.len())));
    }
    let [first, others @ ..] = layouts else {
        return Err(Error::input("there is no candidate; averaging needs at least 2"));
    };
    if others.is_empty() {
        return Err(Error::input("there is one candidate; averaging needs at least 2"));
    }
    for (other, name) in others.iter().zip(&names[1..]) {
        let differences = differences(first, other, &names[0]);
        if !differences.is_empty() {
            let listed = differences.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join("; ");
            let more = differences.len().saturating_sub(LISTED);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            return Err(Error::input(format!("candidate `{}` {listed}{more}", shown(name))));
        }
    }
    Ok(())
}

/// What sets another candidate apart from the first, in the order of names.
fn differences(first: &Layout, other: &Layout, first_name: &str) -> Vec<String> {
    let first_name = shown(first_name);
    let (ours, theirs) = (by_name(first), by_name(other));
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    let mut differences = Vec::new();
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (None, None) => return differences,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.name.cmp(&b.name),
        };
        let a = ours.next_if(|_| order.is_le());
        let b = theirs.next_if(|_| order.is_ge());
        differences.extend(match (a, b) {
            (Some(a), None) => Some(format!("has no tensor `{}`, which `{first_name}` has", shown(&a.name))),
            (None, Some(b)) => Some(format!("has a tensor `{}`, which `{first_name}` has not", shown(&b.name))),
            (Some(a), Some(b)) => different(a, b, &first_name),
            (None, None) => None,
        });
    }
}

fn different(a: &TensorLayout, b: &TensorLayout, first_name: &str) -> Option<String> {
    let name = shown(&a.name);
    if a.shape != b.shape {
        return Some(format!("tensor `{name}` has shape {:?}, in `{first_name}` {:?}", b.shape, a.shape));
    }
    (a.dtype != b.dtype).then(|| format!("tensor `{name}` is {}, in `{first_name}` {}", b.dtype, a.dtype))
}

fn by_name(layout: &Layout) -> Vec<&TensorLayout> {
    let mut tensors: Vec<&TensorLayout> = layout.tensors.iter().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// Checks that no floating-point tensor of any candidate holds NaN or an infinity.
///
/// Reads every byte once, on all threads. `names` as in [`check_candidates`].
///
/// # Errors
/// [`Error::Input`] naming the first such candidate, tensor and element.
pub fn check_finite(candidates: &[CheckpointFile], names: &[String]) -> Result<()> {
    for (file, candidate) in candidates.iter().zip(names) {
        let first = file.layout().tensors.par_iter().find_map_first(|tensor| {
            first_not_finite(tensor.dtype, file.bytes_of(tensor)).map(|element| (tensor, element))
        });
        if let Some((tensor, element)) = first {
            let (candidate, name) = (shown(candidate), shown(&tensor.name));
            let what = format!("candidate `{candidate}`: tensor `{name}` holds NaN or infinity at element {element}");
            return Err(Error::input(what));
        }
    }
    Ok(())
}

fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    match dtype {
        Dtype::F64 => search(bytes, |b| exponent_full(u64::from_le_bytes(b), 0x7ff0_0000_0000_0000)),
        Dtype::F32 => search(bytes, |b| exponent_full(u32::from_le_bytes(b), 0x7f80_0000)),
        Dtype::F16 => search(bytes, |b| exponent_full(u16::from_le_bytes(b), 0x7c00)),
        Dtype::Bf16 => search(bytes, |b| exponent_full(u16::from_le_bytes(b), 0x7f80)),
        Dtype::F8E5M2 => search(bytes, |[b]: [u8; 1]| exponent_full(b, 0x7c)),
        // E4M3 has no infinities and one NaN of either sign.
        Dtype::F8E4M3 => search(bytes, |[b]: [u8; 1]| exponent_full(b, 0x7f)),
        _ => None,
    }
}

/// In the number's own width, so that a register holds as many of them as it can.
fn exponent_full<T: Copy + PartialEq + std::ops::BitAnd<Output = T>>(bits: T, mask: T) -> bool {
    bits & mask == mask
}

fn search<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool + Copy + Sync) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.par_chunks(CHUNK).enumerate().find_map_first(|(i, chunk)| {
        // The fold has no branch, so it runs at memory speed; the place is looked for only where there is one.
        let any = chunk.iter().fold(false, |any, element| any | bad(*element));
        any.then(|| chunk.iter().position(|element| bad(*element)))?.map(|place| i * CHUNK + place)
    })
}
