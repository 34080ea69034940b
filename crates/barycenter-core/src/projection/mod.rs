//! The projection: centre, norms and packed directions of a candidate set, with the two passes a fit makes over it.
//!
//! Every averaged tensor is cut into *tiles* of 256 consecutive elements. A tile holds the codes of all candidates, one
//! candidate after the other, and one f32 scale a candidate: both passes stream memory once, in order, and columns can be
//! shared out over threads. What is coded is the deviation `d[i,l] = w_i[l] − c[l]`; the direction of section 1 of the
//! method is `û[i,l] = Q(d[i,l]) / (κ[i,l] · r[i,l])`, and `1 / (κ r)` is applied as one factor a candidate and block, so that
//! building needs a single pass even where a block spans several tensors. `κ = ⟨Q(d), d⟩ / r²` is what the codes keep of a
//! deviation: dividing by it makes `⟨û, u⟩ = 1`, so that `X` moves the weights as far along a deviation as the exact merge
//! with its coefficients will.
//!
//! Results do not depend on the number of threads: partial sums are made per fixed chunk of tiles and added in order.

mod build;
mod change;
mod codec;
mod coefficients;
mod columns;
mod directions;
mod geometry;
mod gram;
mod kernels;
mod packing;
mod revision;
mod store;

pub use change::Change;
pub use codec::{CODEC_VERSION, GROUP, Reconstruction, quantise, unpack};
pub use columns::Columns;
pub use geometry::{Geometry, NearDuplicate};
pub use revision::{MOST_DRIFT, Member, REVISION_VERSION, Revision};
pub use store::is_projection;

/// The projection of a candidate set.
///
/// `n` candidates, `L` blocks; matrices are candidate-major: entry `(i, l)` lies at `i · L + l`.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    pub(crate) n: usize,
    pub(crate) bits: u8,
    pub(crate) block_count: usize,
    /// `r[i,l]`, Euclidean norm of the unquantised deviation over all tensors of the block, to what the codec's units leave of it.
    pub(crate) norms: Vec<f64>,
    /// `κ[i,l]`, the part of a deviation that its codes keep, `⟨Q(d), d⟩ / r²`; 1 at 32 bits, 0 where the codes are null.
    pub(crate) kept: Vec<f64>,
    /// `‖w_i[l] − a[l]‖`, (n, L), where candidates came and went since the projection was built: what is coded is then
    /// the deviation from the anchor `a`, the centre of that time. Absent where the centre is still the anchor.
    pub(crate) lengths: Option<Vec<f64>>,
    /// How often candidates came or went since.
    pub(crate) revisions: u32,
    pub(crate) tensors: Vec<Tensor>,
}

/// The part of a projection that belongs to one averaged tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) block: usize,
    /// Bits of a code, see [`stored_bits`].
    pub(crate) bits: u8,
    /// `c`, one a element.
    pub(crate) centre: Vec<f32>,
    /// `a`, one a element; empty where the centre is the anchor.
    pub(crate) anchor: Vec<f32>,
    /// One a tile and candidate; empty at 32 bits.
    pub(crate) scales: Vec<f32>,
    /// Tile by tile, candidate by candidate; f32 deviations, little-endian, at 32 bits.
    pub(crate) codes: Vec<u8>,
}

/// Elements up to which a tensor is small.
const SMALL: usize = 4096;

/// Bits of a small tensor where fewer are asked for.
const SMALL_BITS: u8 = 8;

/// Bits that a tensor of so many elements is stored at where `bits` are asked for. Biases and the scales of norms move a network's
/// output far more than their share of its elements, and take next to no room.
pub(crate) fn stored_bits(elements: usize, bits: u8) -> u8 {
    if elements <= SMALL { bits.max(SMALL_BITS) } else { bits }
}

impl Projection {
    /// Number of candidates.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bits of a stored direction: 1, 2, 4, 8, or 32 for f32. Tensors of at most 4096 elements have 8 where this is less.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Number of blocks, `L`.
    pub fn block_count(&self) -> usize {
        self.block_count
    }

    /// Norms `r`, (n, L).
    pub fn norms(&self) -> &[f64] {
        &self.norms
    }

    /// How often candidates came or went since it was built.
    pub fn revisions(&self) -> u32 {
        self.revisions
    }

    /// Averaged tensors in order: name and number of elements.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, usize)> {
        self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.centre.len()))
    }

    /// The centre `c`, the uniform average: one flat vector per averaged tensor.
    pub fn centre(&self) -> Vec<Vec<f32>> {
        self.tensors.iter().map(|tensor| tensor.centre.clone()).collect()
    }

    /// Bytes of codes and scales.
    pub fn packed_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| (tensor.codes.len() + 4 * tensor.scales.len()) as u64).sum()
    }

    /// Bytes that a projection of `n` candidates holds: codes and scales, padded to whole tiles, and the centre.
    ///
    /// `sizes` are the elements of the averaged tensors. The norms and kept parts, 16 · n · L bytes, come on top.
    /// A step of a fit adds two f32 vectors of that many elements: weights and gradient.
    pub fn memory_bytes(n: usize, sizes: &[usize], bits: u8) -> u64 {
        let bytes = |size: &usize| {
            let bits = stored_bits(*size, bits);
            let tile = n as u64 * (packing::code_bytes(bits) as u64 + if bits == 32 { 0 } else { 4 });
            size.div_ceil(GROUP) as u64 * tile + 4 * *size as u64
        };
        sizes.iter().map(bytes).sum()
    }

    /// Bytes of codes, scales, centre and anchor that are held.
    pub fn held_bytes(&self) -> u64 {
        let floats = |tensor: &Tensor| 4 * (tensor.centre.len() + tensor.anchor.len()) as u64;
        self.packed_bytes() + self.tensors.iter().map(floats).sum::<u64>()
    }
}
