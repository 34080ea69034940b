//! A projection whose candidates come and go (`docs/method.md`, "Growing sets").
//!
//! Directions are coded against a fixed *anchor* `a`, the centre of the set that was built: those of candidates that stay are
//! kept as they are, those that come are coded from their files alone, and the centre is moved by what came and went. With
//! `D_i = Q(w_i − a) / κ_i` a direction is `û_i = (D_i − mean D) / r_i`: it points from the new centre, and
//! `Σ_i (1/n + β_i − mean β) = 1` holds as before, because a multiple of the anchor cancels.

mod chunk;

use std::ops::Range;

use rayon::prelude::*;

use self::chunk::{Chunk, Part};
use super::{
    GROUP, Projection, Tensor,
    build::Sums,
    kernels::{CHUNK, CHUNK_TILES},
    packing::code_bytes,
};
use crate::{Error, Result, checkpoint::CheckpointFile, memory::zeros};

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
    /// One pass over the codes that stay; holds one tensor of both projections at a time, and a vector of D floats.
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
    let (rows, bytes) = (places.rows, code_bytes(tensor.bits));
    let tiles = elements.div_ceil(GROUP);
    // The centre of one that was built is the anchor of all that it is revised to.
    let is_first = tensor.anchor.is_empty();
    let (mut centre, anchor) = if is_first { (zeros(elements), tensor.centre) } else { (tensor.centre, tensor.anchor) };
    let mut scales: Vec<f32> = zeros(if tensor.bits == 32 { 0 } else { tiles * rows });
    let mut codes: Vec<u8> = zeros(tiles * rows * bytes);
    let old = Chunk {
        name: &tensor.name,
        bits: tensor.bits,
        codes: &tensor.codes,
        scales: &tensor.scales,
        anchor: &anchor,
        is_first,
        n,
        places,
    };
    let mut of_chunks: Vec<&mut [f32]> = scales.chunks_mut(CHUNK_TILES * rows).collect();
    of_chunks.resize_with(elements.div_ceil(CHUNK), || &mut []);
    let found = centre
        .par_chunks_mut(CHUNK)
        .zip(codes.par_chunks_mut(CHUNK_TILES * rows * bytes))
        .zip(of_chunks)
        .enumerate()
        .map(|(chunk, ((centre, codes), scales))| old.revise(chunk, &mut Part { centre, codes, scales }));
    // Summed chunk by chunk, so that the number of threads changes no bit.
    let mut sum = Found::nothing(places);
    for of_chunk in found.collect::<Result<Vec<Found>>>()? {
        sum.add(of_chunk);
    }
    let Tensor { name, block, bits, .. } = tensor;
    Ok((Tensor { name, block, bits, centre, anchor, scales, codes }, sum))
}
