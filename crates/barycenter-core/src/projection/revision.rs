//! A projection whose candidates come and go (`docs/method.md`, "Growing sets").
//!
//! Directions are coded against a fixed *anchor* `a`, the centre of the set that was built: those of candidates that stay are
//! kept as they are, those that come are coded from their files alone, and the centre is moved by what came and went. With
//! `D_i = Q(w_i − a) / κ_i` a direction is `û_i = (D_i − mean D) / r_i`: it points from the new centre, and
//! `Σ_i (1/n + β_i − mean β) = 1` holds as before, because a multiple of the anchor cancels.

mod chunk;

use std::ops::Range;

use rayon::prelude::*;

use self::chunk::{Old, Part};
use super::{
    GROUP, Projection, Tensor,
    build::Sums,
    codec::Batch,
    kernels::{CHUNK, CHUNK_TILES},
    packing::code_bytes,
};
use crate::{
    Error, Result,
    checkpoint::CheckpointFile,
    memory::{room, zeros},
};

/// Version of what a revision makes of a projection and the files that come and go; part of the key of one that extends another.
pub const REVISION_VERSION: u32 = 2;

/// How far the centre may be from the anchor, as a part of the root mean square of the deviations from it. Codes err by a part of
/// what they code: at this distance their error is 1.4 times that of a projection that is built anew.
pub const MOST_DRIFT: f64 = 1.0;

/// Candidates that come and go.
#[derive(Clone, Debug, Default)]
pub struct Revision<'a> {
    /// The candidates of the revised set, in order.
    pub members: Vec<Member<'a>>,
    /// Positions and files of those that go.
    pub dropped: Vec<(usize, &'a CheckpointFile)>,
}

/// A candidate of a revised set.
#[derive(Clone, Copy, Debug)]
pub enum Member<'a> {
    /// The one that stood at this position.
    Stays(usize),
    /// One that comes, from its file.
    Comes(&'a CheckpointFile),
}

/// A revision with its candidates in their places.
struct Places<'a> {
    /// Runs of neighbours that stay so: their rows, and the former position of the first.
    staying: Vec<(Range<usize>, usize)>,
    /// Row and file of those that come.
    added: Vec<(usize, &'a CheckpointFile)>,
    dropped: Vec<&'a CheckpointFile>,
    /// Candidates of the revised set.
    rows: usize,
}

impl Projection {
    /// The projection of a revised set, from this one and the files of the candidates that come and go alone; nothing where the
    /// centre went further from the anchor than [`MOST_DRIFT`], so that one had better be built anew.
    ///
    /// One pass over the codes, where they are; holds a tensor's twice at most, where it has no room to grow.
    ///
    /// # Errors
    /// [`Error::Input`] where a position is no candidate, is named twice or not at all, fewer than two candidates are left, or a
    /// tensor of a file is missing, of another size or not finite.
    pub fn revised(mut self, revision: &Revision<'_>) -> Result<Option<Self>> {
        let places = self.places(revision)?;
        let (n, blocks) = (places.rows, self.block_count);
        let entries = |of: &[f64]| -> Vec<f64> {
            let mut revised = vec![0.0; n * blocks];
            for (rows, first) in &places.staying {
                let of_run = &of[first * blocks..][..rows.len() * blocks];
                revised[rows.start * blocks..][..of_run.len()].copy_from_slice(of_run);
            }
            revised
        };
        let mut lengths = entries(self.lengths.as_ref().unwrap_or(&self.norms));
        let mut kept = entries(&self.kept);
        let mut sums = vec![Sums::default(); places.added.len() * blocks];
        let (mut products, mut moved) = (vec![0.0; n * blocks], vec![0.0; blocks]);
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for tensor in std::mem::take(&mut self.tensors) {
            let (tensor, found) = revise_tensor(tensor, self.n, &places)?;
            for (added, of_candidate) in found.sums.into_iter().enumerate() {
                sums[added * blocks + tensor.block].add(of_candidate);
            }
            for (row, product) in found.products.into_iter().enumerate() {
                products[row * blocks + tensor.block] += product;
            }
            moved[tensor.block] += found.moved;
            tensors.push(tensor);
        }
        for (place, sums) in sums.into_iter().enumerate() {
            let entry = places.added[place / blocks].0 * blocks + place % blocks;
            (lengths[entry], kept[entry]) = (sums.square.sqrt(), sums.kept(self.bits));
        }
        let mut revised = Self {
            n,
            norms: Vec::new(),
            kept,
            lengths: Some(lengths),
            revisions: self.revisions.saturating_add(1),
            tensors,
            ..self
        };
        revised.norms = revised.norms_from_the_centre(&products, &moved);
        Ok((revised.drift(&moved) <= MOST_DRIFT).then_some(revised))
    }

    /// The candidates in their places: every former position stays or goes.
    fn places<'a>(&self, revision: &Revision<'a>) -> Result<Places<'a>> {
        let mut is_free = vec![true; self.n];
        let mut take = |position: usize| match is_free.get_mut(position) {
            Some(free) if *free => {
                *free = false;
                Ok(())
            }
            _ => Err(Error::input(format!("candidate {position} (from 0) is not there to stay or go"))),
        };
        let mut dropped = Vec::with_capacity(revision.dropped.len());
        for (position, file) in &revision.dropped {
            take(*position)?;
            dropped.push(*file);
        }
        let (mut staying, mut added) = (Vec::<(Range<usize>, usize)>::new(), Vec::new());
        for (row, member) in revision.members.iter().enumerate() {
            match member {
                Member::Stays(position) => {
                    take(*position)?;
                    match staying.last_mut() {
                        Some((rows, first)) if rows.end == row && *first + rows.len() == *position => rows.end += 1,
                        _ => staying.push((row..row + 1, *position)),
                    }
                }
                Member::Comes(file) => added.push((row, *file)),
            }
        }
        if let Some(position) = is_free.iter().position(|free| *free) {
            return Err(Error::input(format!("candidate {position} (from 0) neither stays nor goes")));
        }
        let rows = revision.members.len();
        if rows < 2 {
            return Err(Error::input("averaging needs at least 2 candidates"));
        }
        Ok(Places { staying, added, dropped, rows })
    }

    /// `‖w_i − c‖`, (n, L), from the lengths of the coded deviations and how far the centre moved from the anchor, which are exact,
    /// and the angles between the two, which are as good as the codes: `‖d_i‖² − 2 ⟨d_i, c − a⟩ + ‖c − a‖²`.
    fn norms_from_the_centre(&self, products: &[f64], moved: &[f64]) -> Vec<f64> {
        let norm = |entry: usize| {
            let (i, l) = (entry / self.block_count, entry % self.block_count);
            let length = self.lengths.as_ref().map_or(0.0, |lengths| lengths[entry]);
            let square = length * length - 2.0 * products[entry] * self.inverse_kept(i, l) + moved[l];
            square.max(0.0).sqrt()
        };
        (0..self.n * self.block_count).map(norm).collect()
    }

    /// Distance of the centre from the anchor over the root mean square of the deviations.
    fn drift(&self, moved: &[f64]) -> f64 {
        let moved: f64 = moved.iter().sum();
        let spread = self.norms.iter().map(|r| r * r).sum::<f64>() / self.n as f64;
        if moved > 0.0 { (moved / spread).sqrt() } else { 0.0 }
    }
}

/// What is summed while a tensor is revised.
struct Found {
    /// Of each candidate that comes.
    sums: Vec<Sums>,
    /// `⟨Q(d_i), c − a⟩` of every candidate.
    products: Vec<f64>,
    /// `‖c − a‖²`.
    moved: f64,
}

impl Found {
    fn nothing(places: &Places<'_>) -> Self {
        Self { sums: vec![Sums::default(); places.added.len()], products: vec![0.0; places.rows], moved: 0.0 }
    }

    fn add(&mut self, other: Self) {
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, part)| sum.add(part));
        self.products.iter_mut().zip(other.products).for_each(|(sum, part)| *sum += part);
        self.moved += other.moved;
    }
}

/// One tensor of the revised projection.
fn revise_tensor(tensor: Tensor, n: usize, places: &Places<'_>) -> Result<(Tensor, Found)> {
    let elements = tensor.centre.len();
    let come = places.added.iter().map(|(_, file)| *file);
    for file in places.dropped.iter().copied().chain(come) {
        let held = file.tensor(&tensor.name)?.elements();
        if held != elements {
            let name = &tensor.name;
            return Err(Error::input(format!("tensor `{name}` has {held} elements in a candidate, {elements} before")));
        }
    }
    let Tensor { name, block, bits, centre, anchor, mut scales, mut codes } = tensor;
    // The centre of one that was built is the anchor of all that it is revised to.
    let is_first = anchor.is_empty();
    let (mut centre, anchor) = if is_first { (zeros(elements), centre) } else { (centre, anchor) };
    let rows = places.rows;
    let (tiles, bytes) = (elements.div_ceil(GROUP), code_bytes(bits));
    grow(&mut codes, tiles * rows.max(n) * bytes);
    grow(&mut scales, if bits == 32 { 0 } else { tiles * rows.max(n) });
    let mut old = Old {
        name: &name,
        bits,
        anchor: &anchor,
        is_first,
        n,
        places,
        first: 0,
        codes: Vec::new(),
        scales: Vec::new(),
    };
    let mut of_waves = Vec::new();
    for wave in waves(tiles.div_ceil(CHUNK_TILES), rows > n) {
        let tiles = wave.start * CHUNK_TILES..(wave.end * CHUNK_TILES).min(tiles);
        old.take(tiles.clone(), &codes, &scales);
        let columns = wave.start * CHUNK..(wave.end * CHUNK).min(elements);
        let mut scales: Vec<&mut [f32]> = match bits {
            32 => Vec::new(),
            _ => scales[tiles.start * rows..tiles.end * rows].chunks_mut(CHUNK_TILES * rows).collect(),
        };
        scales.resize_with(wave.len(), || &mut []);
        let codes = &mut codes[tiles.start * rows * bytes..tiles.end * rows * bytes];
        let chunks = centre[columns].par_chunks_mut(CHUNK).zip(codes.par_chunks_mut(CHUNK_TILES * rows * bytes));
        let parts = wave.clone().into_par_iter().zip(chunks.zip(scales));
        let found = parts.map_init(Batch::new, |batch, (chunk, ((centre, codes), scales))| {
            old.revise(chunk, batch, &mut Part { centre, codes, scales })
        });
        of_waves.push((wave.start, found.collect::<Result<Vec<Found>>>()?));
    }
    codes.truncate(tiles * rows * bytes);
    scales.truncate(if bits == 32 { 0 } else { tiles * rows });
    // Summed chunk by chunk, so that neither the waves nor the number of threads change a bit.
    of_waves.sort_unstable_by_key(|(first, _)| *first);
    let mut sum = Found::nothing(places);
    of_waves.into_iter().flat_map(|(_, of_wave)| of_wave).for_each(|of_chunk| sum.add(of_chunk));
    Ok((Tensor { name, block, bits, centre, anchor, scales, codes }, sum))
}

/// Bytes that the room of a buffer takes at most; one that is as large as this gets none, since what nobody uses yet may be more than the
/// system promises.
const MOST_ROOM: usize = 1 << 28;

/// Makes a buffer as long as this, unless it is longer. It gets room for four times as much, which is address space alone until it is
/// used: a set that grows again does so where it is, on the pages that it has. Fresh pages can take longer to get than all else that
/// a refresh does, huge ones most of all where memory is full of cached files.
fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.capacity() < len {
        let with_room = (4 * len).min(MOST_ROOM / size_of::<T>());
        let mut larger = if len < with_room { Vec::with_capacity(with_room) } else { room(len) };
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.resize(len.max(buffer.len()), T::default());
}

/// Chunks that are revised together, in an order in which none is written over before it was taken: candidates of a tile lie side by
/// side, so that all tiles but the first move, to the back where the set `grows`, to the front where it shrinks.
fn waves(chunks: usize, grows: bool) -> Vec<Range<usize>> {
    let together = 2 * rayon::current_num_threads();
    let mut waves: Vec<Range<usize>> =
        (0..chunks).step_by(together).map(|first| first..chunks.min(first + together)).collect();
    if grows {
        waves.reverse();
    }
    waves
}
