//! A projection whose candidates come and go (`docs/method.md`, "Growing sets").
//!
//! Directions are coded against a fixed *anchor* `a`, the centre of the set that was built: those of candidates that stay are
//! kept as they are, those that come are coded from their files alone, and the centre is moved by what came and went. With
//! `D_i = Q(w_i − a) / κ_i` a direction is `û_i = (D_i − mean D) / r_i`: it points from the new centre, and
//! `Σ_i (1/n + β_i − mean β) = 1` holds as before, because a multiple of the anchor cancels.

use rayon::prelude::*;

use super::{
    GROUP, Projection, Tensor,
    build::Sums,
    codec::code_group,
    kernels::{CHUNK, CHUNK_TILES},
    packing::code_bytes,
};
use crate::{Error, Result, checkpoint::CheckpointFile, memory::zeros, processor::Processor};

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
    /// Row and former position of those that stay.
    staying: Vec<(usize, usize)>,
    /// Row and file of those that come.
    added: Vec<(usize, &'a CheckpointFile)>,
    dropped: Vec<&'a CheckpointFile>,
}

impl Places<'_> {
    fn rows(&self) -> usize {
        self.staying.len() + self.added.len()
    }
}

impl Projection {
    /// The projection of a revised set, from this one and the files of the candidates that come and go alone; nothing where the
    /// centre went further from the anchor than [`MOST_DRIFT`], so that one had better be built anew.
    ///
    /// Holds one tensor of both projections at a time, and two vectors of D floats.
    ///
    /// # Errors
    /// [`Error::Input`] where a position is no candidate, is named twice or not at all, fewer than two candidates are left, or a
    /// tensor of a file is missing, of another size or not finite.
    pub fn revised(mut self, revision: &Revision<'_>) -> Result<Option<Self>> {
        let places = self.places(revision)?;
        let (n, blocks) = (places.rows(), self.block_count);
        let entries = |of: &[f64]| -> Vec<f64> {
            let mut revised = vec![0.0; n * blocks];
            for (row, i) in &places.staying {
                revised[row * blocks..][..blocks].copy_from_slice(&of[i * blocks..][..blocks]);
            }
            revised
        };
        let mut lengths = entries(self.lengths.as_ref().unwrap_or(&self.norms));
        let mut kept = entries(&self.kept);
        let mut sums = vec![Sums::default(); places.added.len() * blocks];
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for tensor in std::mem::take(&mut self.tensors) {
            let (tensor, of_tensor) = revise_tensor(&tensor, self.n, &places)?;
            for (added, of_candidate) in of_tensor.into_iter().enumerate() {
                sums[added * blocks + tensor.block].add(of_candidate);
            }
            tensors.push(tensor);
        }
        for (place, sums) in sums.into_iter().enumerate() {
            let entry = places.added[place / blocks].0 * blocks + place % blocks;
            (lengths[entry], kept[entry]) = (sums.square.sqrt(), sums.kept(self.bits));
        }
        let mut revised = Self {
            n,
            norms: vec![0.0; n * blocks],
            kept,
            lengths: Some(lengths),
            revisions: self.revisions.saturating_add(1),
            tensors,
            ..self
        };
        revised.norms = revised.norms_from_the_centre();
        Ok((revised.drift() <= MOST_DRIFT).then_some(revised))
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
        let (mut staying, mut added) = (Vec::new(), Vec::new());
        for (row, member) in revision.members.iter().enumerate() {
            match member {
                Member::Stays(position) => {
                    take(*position)?;
                    staying.push((row, *position));
                }
                Member::Comes(file) => added.push((row, *file)),
            }
        }
        if let Some(position) = is_free.iter().position(|free| *free) {
            return Err(Error::input(format!("candidate {position} (from 0) neither stays nor goes")));
        }
        let places = Places { staying, added, dropped };
        if places.rows() < 2 {
            return Err(Error::input("averaging needs at least 2 candidates"));
        }
        Ok(places)
    }

    /// `‖w_i − c‖`, (n, L), from the lengths of the coded deviations, which are exact, and their angles, which are as good as
    /// the codes: `‖d_i‖² − 2 ⟨d_i, mean d⟩ + ‖mean d‖²`.
    fn norms_from_the_centre(&self) -> Vec<f64> {
        let (n, blocks) = (self.n, self.block_count);
        let square = |entry: usize| self.lengths.as_ref().map_or(0.0, |lengths| lengths[entry] * lengths[entry]);
        // ⟨D_i, Σ_j D_j⟩. What `D_i` has of itself in it is longer than `d_i` by the noise of its codes: `‖D_i‖² = ‖d_i‖² / κ_i`.
        let mut products = self.products_with_the_sum();
        for (entry, product) in products.iter_mut().enumerate() {
            *product += square(entry) * (1.0 - self.inverse_kept(entry / blocks, entry % blocks));
        }
        let with_sum = |l: usize| products.iter().skip(l).step_by(blocks).sum::<f64>();
        let squares: Vec<f64> = (0..blocks).map(|l| with_sum(l) / (n * n) as f64).collect();
        let norm = |entry: usize| square(entry) - 2.0 * products[entry] / n as f64 + squares[entry % blocks];
        (0..n * blocks).map(|entry| norm(entry).max(0.0).sqrt()).collect()
    }

    /// `⟨D_i, Σ_j D_j⟩`, (n, L).
    fn products_with_the_sum(&self) -> Vec<f64> {
        let (processor, columns) = (Processor::detected(), self.all_columns());
        let factors: Vec<f64> = (0..self.kept.len())
            .map(|entry| self.inverse_kept(entry / self.block_count, entry % self.block_count))
            .collect();
        let mut sum: Vec<Vec<f32>> = self.tensors.iter().map(|tensor| zeros(tensor.centre.len())).collect();
        self.reconstruct_codes(processor, &factors, &columns, &mut sum);
        for (tensor, sum) in self.tensors.iter().zip(&mut sum) {
            sum.par_iter_mut().zip(&tensor.centre).for_each(|(sum, centre)| *sum -= centre);
        }
        let mut products = self.project_codes(processor, &sum, &columns);
        products.iter_mut().zip(factors).for_each(|(product, factor)| *product *= factor);
        products
    }

    /// Distance of the centre from the anchor over the root mean square of the deviations.
    fn drift(&self) -> f64 {
        let apart = |tensor: &Tensor| -> f64 {
            let chunks = tensor.centre.par_chunks(CHUNK).zip(tensor.anchor.par_chunks(CHUNK));
            let square = |(c, a): (&f32, &f32)| (f64::from(*c) - f64::from(*a)).powi(2);
            // Summed chunk by chunk, so that the number of threads changes no bit.
            let parts: Vec<f64> = chunks.map(|(c, a)| c.iter().zip(a).map(square).sum()).collect();
            parts.into_iter().sum()
        };
        let moved: f64 = self.tensors.iter().map(apart).sum();
        let spread = self.norms.iter().map(|r| r * r).sum::<f64>() / self.n as f64;
        if moved > 0.0 { (moved / spread).sqrt() } else { 0.0 }
    }
}

/// One tensor of the revised projection, and the sums of the candidates that come.
fn revise_tensor(tensor: &Tensor, n: usize, places: &Places<'_>) -> Result<(Tensor, Vec<Sums>)> {
    let elements = tensor.centre.len();
    let come = places.added.iter().map(|(_, file)| *file);
    for file in places.dropped.iter().copied().chain(come) {
        let held = file.tensor(&tensor.name)?.elements();
        if held != elements {
            let name = &tensor.name;
            return Err(Error::input(format!("tensor `{name}` has {held} elements in a candidate, {elements} before")));
        }
    }
    let (rows, bytes) = (places.rows(), code_bytes(tensor.bits));
    let tiles = elements.div_ceil(GROUP);
    let anchor = if tensor.anchor.is_empty() { &tensor.centre } else { &tensor.anchor };
    let mut revised = Tensor {
        name: tensor.name.clone(),
        block: tensor.block,
        bits: tensor.bits,
        centre: zeros(elements),
        anchor: anchor.clone(),
        scales: vec![0.0; if tensor.bits == 32 { 0 } else { tiles * rows }],
        codes: zeros(tiles * rows * bytes),
    };
    let mut scales: Vec<&mut [f32]> = revised.scales.chunks_mut(CHUNK_TILES * rows).collect();
    scales.resize_with(elements.div_ceil(CHUNK), || &mut []);
    let (centre, codes) =
        (revised.centre.par_chunks_mut(CHUNK), revised.codes.par_chunks_mut(CHUNK_TILES * rows * bytes));
    let chunks = centre.zip(codes).zip(scales).enumerate().map(|(chunk, ((centre, codes), scales))| {
        let old = Chunk { tensor, anchor, n, places, first: chunk * CHUNK };
        old.stay(codes, scales);
        old.move_centre(centre)?;
        old.add(codes, scales)
    });
    let mut sums = vec![Sums::default(); places.added.len()];
    for of_chunk in chunks.collect::<Result<Vec<Vec<Sums>>>>()? {
        sums.iter_mut().zip(of_chunk).for_each(|(sum, part)| sum.add(part));
    }
    Ok((revised, sums))
}

/// Columns of a tensor before it was revised.
struct Chunk<'a> {
    tensor: &'a Tensor,
    anchor: &'a [f32],
    n: usize,
    places: &'a Places<'a>,
    first: usize,
}

impl Chunk<'_> {
    /// Copies the codes of the candidates that stay.
    fn stay(&self, codes: &mut [u8], scales: &mut [f32]) {
        let bytes = code_bytes(self.tensor.bits);
        let tiles = (self.tensor.centre.len() - self.first).min(CHUNK).div_ceil(GROUP);
        let rows = self.places.rows();
        for tile in 0..tiles {
            for (row, i) in &self.places.staying {
                let (from, to) = ((self.first / GROUP + tile) * self.n + i, tile * rows + row);
                codes[to * bytes..][..bytes].copy_from_slice(&self.tensor.codes[from * bytes..][..bytes]);
                if let Some(scale) = scales.get_mut(to) {
                    *scale = self.tensor.scales[from];
                }
            }
        }
    }

    /// The mean of those that stay and come, by what came and went.
    fn move_centre(&self, centre: &mut [f32]) -> Result<()> {
        let before = &self.tensor.centre[self.first..][..centre.len()];
        let mut sums: Vec<f64> = before.iter().map(|c| f64::from(*c) * self.n as f64).collect();
        let mut values = vec![0.0; centre.len()];
        let signed = self.places.dropped.iter().map(|file| (*file, -1.0));
        for (file, sign) in signed.chain(self.places.added.iter().map(|(_, file)| (*file, 1.0))) {
            file.fill_f32(&self.tensor.name, self.first, &mut values)?;
            sums.iter_mut().zip(&values).for_each(|(sum, value)| *sum += sign * f64::from(*value));
        }
        let n = self.places.rows() as f64;
        centre.iter_mut().zip(sums).for_each(|(c, sum)| *c = (sum / n) as f32);
        Ok(())
    }

    /// Codes the candidates that come.
    fn add(&self, codes: &mut [u8], scales: &mut [f32]) -> Result<Vec<Sums>> {
        let Tensor { name, bits, .. } = self.tensor;
        let (bytes, len) = (code_bytes(*bits), (self.tensor.centre.len() - self.first).min(CHUNK));
        let rows = self.places.rows();
        let anchor = &self.anchor[self.first..][..len];
        let mut deviations = vec![0.0; len];
        let mut all = Vec::with_capacity(self.places.added.len());
        for (row, file) in &self.places.added {
            file.fill_f32(name, self.first, &mut deviations)?;
            deviations.iter_mut().zip(anchor).for_each(|(d, a)| *d -= a);
            let mut sums = Sums::default();
            for (tile, deviations) in deviations.chunks(GROUP).enumerate() {
                let place = tile * rows + row;
                let coded = code_group(Processor::detected(), deviations, *bits, &mut codes[place * bytes..][..bytes]);
                if let Some(scale) = scales.get_mut(place) {
                    *scale = coded.scale;
                }
                sums.add(Sums { square: coded.square, explained: coded.explained });
            }
            if !sums.square.is_finite() {
                return Err(Error::input(format!("tensor `{name}` of a new candidate is not finite in 32 bits")));
            }
            all.push(sums);
        }
        Ok(all)
    }
}
