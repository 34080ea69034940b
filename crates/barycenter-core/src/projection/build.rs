//! Building a projection in one pass over the candidates.

use std::{collections::HashSet, mem::MaybeUninit};

use rayon::prelude::*;

use super::{
    GROUP, Projection, Tensor,
    codec::{self, Ahead, BATCH, Batch, Group},
    kernels::{CHUNK, CHUNK_TILES, STREAMED},
    packing::code_bytes,
    stored_bits,
};
use crate::{
    Error, Result,
    blocks::Blocks,
    checkpoint::{CheckpointFile, TensorLayout},
    memory::room,
    processor::Processor,
};

/// Columns that are held at a time: those that come after them are on their way from memory meanwhile.
const STRIP: usize = 4 * GROUP;

impl Projection {
    /// Builds the projection of checked candidates (`checkpoint::check_candidates`), reading every byte once.
    ///
    /// `averaged` names the tensors in order, the order of `blocks`; `bits` is 1, 2, 4, 8 or 32. `on_tensor` is called
    /// with (tensors done, tensors in all) after each tensor and may end the building with an error. Each thread holds
    /// 1024 columns of all candidates; nothing else is held besides the result.
    ///
    /// # Errors
    /// [`Error::Input`] where `bits` is none of those, `blocks` speaks of other tensors, fewer than two candidates are
    /// given, or a tensor is missing or cannot be averaged; what `on_tensor` returns.
    pub fn build(
        candidates: &[CheckpointFile],
        averaged: &[String],
        blocks: &Blocks,
        bits: u8,
        on_tensor: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Self> {
        check_bits(bits)?;
        if candidates.len() < 2 {
            return Err(Error::input("averaging needs at least 2 candidates"));
        }
        check_names(averaged)?;
        if averaged.len() != blocks.tensor_count() {
            let (names, cut) = (averaged.len(), blocks.tensor_count());
            return Err(Error::input(format!("{names} tensors are averaged, the blocks are cut for {cut}")));
        }
        let (n, block_count) = (candidates.len(), blocks.len());
        let elements = averaged.iter().filter_map(|name| candidates[0].tensor(name).ok()).map(TensorLayout::elements);
        let stream = elements.sum::<usize>() > STREAMED;
        let mut sums = vec![Sums::default(); n * block_count];
        let mut tensors = Vec::with_capacity(averaged.len());
        for (t, name) in averaged.iter().enumerate() {
            let block = blocks.block_of(t);
            let (tensor, of_tensor) = build_tensor(candidates, name, block, (bits, stream))?;
            for (i, of_candidate) in of_tensor.into_iter().enumerate() {
                if !of_candidate.square.is_finite() {
                    return Err(not_finite(candidates, name, i));
                }
                sums[i * block_count + block].add(of_candidate);
            }
            tensors.push(tensor);
            on_tensor(t + 1, averaged.len())?;
        }
        let norms = sums.iter().map(|sums| sums.square.sqrt()).collect();
        let kept = sums.iter().map(|sums| sums.kept(bits)).collect();
        Ok(Self { n, bits, block_count, norms, kept, lengths: None, revisions: 0, tensors })
    }
}

pub(super) fn check_bits(bits: u8) -> Result<()> {
    match bits {
        1 | 2 | 4 | 8 | 32 => Ok(()),
        _ => Err(Error::input(format!("bits: {bits} is not one of 1, 2, 4, 8, 32"))),
    }
}

fn check_names(averaged: &[String]) -> Result<()> {
    if averaged.is_empty() {
        return Err(Error::input("no tensor is averaged"));
    }
    let mut seen = HashSet::new();
    match averaged.iter().find(|name| !seen.insert(*name)) {
        Some(name) => Err(Error::input(format!("tensor `{name}` is named twice"))),
        None => Ok(()),
    }
}

/// Names the candidate that has an infinity of 32 bits, whose centre spoils all others; or else the `spoilt` one, whose deviation is
/// too large.
fn not_finite(candidates: &[CheckpointFile], name: &str, spoilt: usize) -> Error {
    let is_bad = |candidate: &CheckpointFile| {
        let (elements, mut values) = (candidate.tensor(name)?.elements(), vec![0.0; CHUNK]);
        for first in (0..elements).step_by(CHUNK) {
            let values = &mut values[..CHUNK.min(elements - first)];
            candidate.fill_f32(name, first, values)?;
            if values.iter().any(|value| !value.is_finite()) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    for (i, candidate) in candidates.iter().enumerate() {
        match is_bad(candidate) {
            Ok(true) => {
                return Error::input(format!("tensor `{name}` of candidate {i} (from 0) is not finite in 32 bits"));
            }
            Ok(false) => {}
            Err(error) => return error,
        }
    }
    Error::input(format!("tensor `{name}`: the deviation of candidate {spoilt} (from 0) is too large for 32 bits"))
}

fn build_tensor(
    candidates: &[CheckpointFile],
    name: &str,
    block: usize,
    (bits, stream): (u8, bool),
) -> Result<(Tensor, Vec<Sums>)> {
    let (n, elements) = (candidates.len(), candidates[0].tensor(name)?.elements());
    for candidate in candidates {
        let held = candidate.tensor(name)?.elements();
        if held != elements {
            return Err(Error::input(format!(
                "tensor `{name}` has {elements} elements in one candidate, {held} in another"
            )));
        }
    }
    let tiles = elements.div_ceil(GROUP);
    let bits = stored_bits(elements, bits);
    let (mut centre, mut codes) = (room::<f32>(elements), room::<u8>(tiles * n * code_bytes(bits)));
    let mut scales = vec![0.0; if bits == 32 { 0 } else { tiles * n }];
    let chunks = {
        // At 32 bits there are no scales: every chunk gets an empty part of them.
        let chunks = elements.div_ceil(CHUNK);
        let mut scales: Vec<&mut [f32]> = scales.chunks_mut(CHUNK_TILES * n).collect();
        scales.resize_with(chunks, || &mut []);
        let (centre, codes) = (centre.spare_capacity_mut(), codes.spare_capacity_mut());
        let centre = centre[..elements].par_chunks_mut(CHUNK);
        let codes = codes[..tiles * n * code_bytes(bits)].par_chunks_mut(CHUNK_TILES * n * code_bytes(bits));
        centre
            .zip(codes)
            .zip(scales)
            .enumerate()
            .map_init(Batch::new, |batch, (chunk, ((centre, codes), scales))| {
                build_chunk(candidates, name, chunk, (bits, stream), (batch, Part { centre, codes, scales }))
            })
            .collect::<Result<Vec<Vec<Sums>>>>()?
    };
    #[expect(unsafe_code, reason = "only what was filled above tells that every element is there")]
    // SAFETY: there is room for as many, the chunks cover them, and every chunk that ends well fills its part.
    unsafe {
        centre.set_len(elements);
        codes.set_len(tiles * n * code_bytes(bits));
    }
    let tensor = Tensor { name: name.to_owned(), block, bits, centre, anchor: Vec::new(), scales, codes };
    let mut sums = vec![Sums::default(); n];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, part)| sum.add(part));
    }
    Ok((tensor, sums))
}

/// What is summed over the elements of a candidate's deviation.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    /// `‖d‖²`.
    pub square: f64,
    /// `⟨Q(d), d⟩`.
    pub explained: f64,
}

impl Sums {
    pub fn add(&mut self, other: Self) {
        self.square += other.square;
        self.explained += other.explained;
    }

    /// `κ` at so many bits.
    pub fn kept(self, bits: u8) -> f64 {
        if bits == 32 {
            1.0
        } else if self.square > 0.0 {
            self.explained / self.square
        } else {
            0.0
        }
    }
}

/// What one task fills.
struct Part<'a> {
    centre: &'a mut [MaybeUninit<f32>],
    codes: &'a mut [MaybeUninit<u8>],
    scales: &'a mut [f32],
}

/// The centre of a strip, none of whose registers crosses a cache line.
#[repr(align(64))]
struct Centre([f32; STRIP]);

/// What one task holds: as many columns of all candidates as stay in the near caches.
struct Columns<'a> {
    /// Of [`STRIP`] elements each; zeros where columns are not there.
    rows: Vec<&'a [f32]>,
    centre: &'a mut [f32; STRIP],
    batch: &'a mut Batch,
    /// Whether to write past the caches.
    stream: bool,
}

/// Fills one chunk of columns and returns the sums over the candidates' deviations in it.
fn build_chunk(
    candidates: &[CheckpointFile],
    name: &str,
    chunk: usize,
    (bits, stream): (u8, bool),
    (batch, part): (&mut Batch, Part<'_>),
) -> Result<Vec<Sums>> {
    let n = candidates.len();
    let (tiles, bytes) = (STRIP / GROUP, code_bytes(bits));
    let stored = candidates.iter().map(|candidate| candidate.as_f32(name)).collect::<Result<Vec<_>>>()?;
    let mut sums = vec![Sums::default(); n];
    let mut copies = vec![Vec::new(); n];
    let mut centre_of_strip = Centre([0.0; STRIP]);
    let mut scales = part.scales.chunks_mut(tiles * n);
    let strips = part.centre.chunks_mut(STRIP).zip(part.codes.chunks_mut(tiles * n * bytes));
    for (strip, (centre, codes)) in strips.enumerate() {
        let first = chunk * CHUNK + strip * STRIP;
        let mut rows = Vec::with_capacity(n);
        for ((candidate, stored), copy) in candidates.iter().zip(&stored).zip(&mut copies) {
            let whole = stored.and_then(|stored| stored.get(first..first + STRIP));
            if whole.is_none() {
                copy.clear();
                copy.resize(STRIP, 0.0);
                candidate.fill_f32(name, first, &mut copy[..centre.len()])?;
            }
            rows.push(whole.unwrap_or(copy));
        }
        let mut held = Columns { rows, centre: &mut centre_of_strip.0, batch: &mut *batch, stream };
        let mut strip = Part { centre, codes, scales: scales.next().unwrap_or_default() };
        code_columns(Processor::detected(), bits, &mut held, &mut strip, &mut sums);
    }
    codec::fence(Processor::detected());
    Ok(sums)
}

/// Makes the centre of some columns, and of each candidate the codes, scales and sums of its deviation.
fn code_columns(processor: Processor, bits: u8, held: &mut Columns<'_>, part: &mut Part<'_>, sums: &mut [Sums]) {
    let Columns { rows, centre, batch, stream } = held;
    let stream = *stream;
    let mut ahead = Ahead::behind(rows);
    codec::mean(processor, rows, &mut centre[..], &mut ahead);
    let columns = part.centre.len();
    if stream {
        codec::stream(processor, &centre[..columns], part.centre);
    } else {
        part.centre.write_copy_of_slice(&centre[..columns]);
    }
    let (n, bytes) = (rows.len(), code_bytes(bits));
    for (index, codes) in part.codes.chunks_mut(BATCH * bytes).enumerate() {
        let (first, count) = (index * BATCH, codes.len() / bytes);
        let nothing = Group { values: &[0.0; GROUP], centre: &[0.0; GROUP], len: 0 };
        let mut groups = [nothing; BATCH];
        for (place, group) in (first..).zip(&mut groups[..count]) {
            let (tile, i) = (place / n, place % n);
            let values = &rows[i].as_chunks::<GROUP>().0[tile];
            let len = (columns - tile * GROUP).min(GROUP);
            *group = Group { values, centre: &centre.as_chunks::<GROUP>().0[tile], len };
        }
        codec::code_groups(processor, bits, batch, &groups[..count], codes, (stream, &mut ahead));
        for (place, coded) in (first..).zip(&batch.coded[..count]) {
            if let Some(scale) = part.scales.get_mut(place) {
                *scale = coded.scale;
            }
            sums[place % n].add(Sums { square: coded.square, explained: coded.explained });
        }
    }
}
