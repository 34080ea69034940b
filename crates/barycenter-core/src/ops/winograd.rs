//! 3x3 convolution of stride 1 with 16 products for each channel of a tile of 2x2 outputs, in place of 36, for processors
//! with AVX-512: F(2x2, 3x3) of Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308).
//!
//! Outputs of a tile are `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A` of the kernel `g` and the 4x4 inputs `d` around the tile, with
//!
//! ```text
//!      ⎡1  0 -1  0⎤       ⎡ 1   0   0⎤
//! Bᵀ = ⎢0  1  1  0⎥   G = ⎢ ½   ½   ½⎥   Aᵀ = ⎡1  1  1  0⎤
//!      ⎢0 -1  1  0⎥       ⎢ ½  -½   ½⎥        ⎣0  1 -1  1⎦
//!      ⎣0 -1  0  1⎦       ⎣ 0   0   1⎦
//! ```
//!
//! The sum over channels is taken between the transforms, so each of the 16 elements is a matrix product of its own, a
//! *plane*. The gradient of the kernel goes the same way backwards: `Gᵀ [Σ (A y Aᵀ) ⊙ (Bᵀ d B)] G` with the gradients `y` of
//! the tiles' outputs. The transforms cost about as many operations as they have elements; rounding errors are about
//! twice those of a plain sum, and a number that is not finite spoils its tile.
//!
//! Work is cut into blocks of whole rows of tiles. `conv2d` takes this way wherever [`usable`] says so.

mod planes;
mod products;
#[cfg(test)]
mod tests;
mod transforms;

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::columns::Geometry;
use super::registers::LANES;
use crate::memory::written;
use planes::{Kernel, PLANES, Tile, Tiles};
use products::TOGETHER;

/// Tiles a block has, as far as whole rows of tiles allow: with 16 channels they stay in the first-level cache.
const TILES_A_BLOCK: usize = 16;
/// As many while a kernel gradient is summed: the sums are read and written once a block.
const TILES_A_GRADIENT_BLOCK: usize = 32;

/// Whether the functions here can compute this convolution on this machine.
pub(super) fn usable(geometry: &Geometry) -> bool {
    geometry.kernel == 3
        && geometry.reversed().is_some()
        && geometry.height.is_multiple_of(2)
        && geometry.width.is_multiple_of(2)
        && geometry.channels.is_multiple_of(LANES)
        && geometry.outputs.is_multiple_of(LANES)
        && is_x86_feature_detected!("avx512f")
}

/// The outputs of all images; `kernel` is [3 · 3 · channels, outputs].
pub(super) fn convolve_images(inputs: &[f32], kernel: &[f32], geometry: &Geometry) -> Vec<f32> {
    assert!(usable(geometry), "asked only after `usable`");
    let kernel = transformed(kernel, geometry);
    let blocks = Blocks::new(geometry, TILES_A_BLOCK);
    let convolve_all = |result: &mut [MaybeUninit<f32>]| {
        let results = result.par_chunks_mut(blocks.rows * blocks.output_row()).enumerate();
        results.for_each_init(
            || (blocks.room(geometry.channels), blocks.room(geometry.outputs)),
            |(transformed, products), (block, result)| {
                let tiles = blocks.transform_inputs(inputs, block * blocks.rows, result.len(), transformed);
                #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
                // SAFETY: `usable` found AVX-512 on this processor.
                unsafe {
                    products::multiply(transformed, &kernel, tiles, products);
                }
                blocks.write_outputs(products, result);
            },
        );
    };
    let images = inputs.len() / geometry.input_length();
    #[expect(unsafe_code, reason = "outputs are written tile by tile, without zeros before")]
    // SAFETY: blocks cover all rows of tiles, and `write_outputs` writes every element of a row.
    unsafe {
        written(images * geometry.output_length(), convolve_all)
    }
}

/// The kernel gradient of a few images, as a matrix [3 · 3 · channels, outputs].
pub(super) fn part_of_gradient(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    assert!(usable(geometry), "asked only after `usable`");
    let blocks = Blocks::new(geometry, TILES_A_GRADIENT_BLOCK);
    let (mut of_inputs, mut of_outputs) = (blocks.room(geometry.channels), blocks.room(geometry.outputs));
    let mut sums = Kernel::new(geometry.channels, geometry.outputs);
    for (block, gradient) in gradient.chunks(blocks.rows * blocks.output_row()).enumerate() {
        let tiles = blocks.transform_inputs(inputs, block * blocks.rows, gradient.len(), &mut of_inputs);
        blocks.transform_gradient(gradient, &mut of_outputs);
        #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
        // SAFETY: `usable` found AVX-512 on this processor.
        unsafe {
            products::add_outer_products(&of_inputs, &of_outputs, tiles, &mut sums);
        }
    }
    gradient_of(&sums, geometry)
}

fn transformed(kernel: &[f32], geometry: &Geometry) -> Kernel {
    let mut transformed = Kernel::new(geometry.channels, geometry.outputs);
    #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
    // SAFETY: `usable` found AVX-512 on this processor.
    unsafe {
        transforms::transform_kernel(kernel, &mut transformed);
    }
    transformed
}

/// The gradient of a kernel from that of the transformed one.
fn gradient_of(transformed: &Kernel, geometry: &Geometry) -> Vec<f32> {
    let mut gradient = vec![0.0; geometry.patch_length() * geometry.outputs];
    #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
    // SAFETY: `usable` found AVX-512 on this processor.
    unsafe {
        transforms::write_kernel(transformed, &mut gradient);
    }
    gradient
}

/// Bytes of a transformed kernel and of the tiles that a thread works on, at most.
pub(super) fn bytes(geometry: &Geometry) -> u64 {
    let Geometry { channels, outputs, .. } = *geometry;
    let tiles = Blocks::new(geometry, TILES_A_GRADIENT_BLOCK).tiles;
    let tiles = tiles * (channels + outputs) / LANES * size_of::<Tile>();
    (tiles + PLANES * channels * outputs * size_of::<f32>()) as u64
}

/// How rows of tiles are shared out, by sizes alone. Images lie one after the other, so rows of tiles are counted
/// through all of them.
struct Blocks<'a> {
    geometry: &'a Geometry,
    /// Rows of tiles in a block.
    rows: usize,
    /// Tiles that a block's planes have room for.
    tiles: usize,
    /// A row of inputs outside the image.
    outside: Vec<f32>,
}

impl<'a> Blocks<'a> {
    fn new(geometry: &'a Geometry, tiles: usize) -> Self {
        let row = geometry.width / 2;
        let rows = (tiles / row).max(1);
        let outside = vec![0.0; geometry.width * geometry.channels];
        Self { geometry, rows, tiles: (rows * row).next_multiple_of(TOGETHER), outside }
    }

    fn room(&self, channels: usize) -> Tiles {
        Tiles::new(channels, self.tiles)
    }

    /// Elements of the outputs of a row of tiles.
    fn output_row(&self) -> usize {
        2 * self.geometry.width * self.geometry.outputs
    }

    /// Transforms the inputs of the rows of tiles from `first` on that have `outputs` elements of outputs; returns the number of
    /// tiles.
    fn transform_inputs(&self, inputs: &[f32], first: usize, outputs: usize, transformed: &mut Tiles) -> usize {
        let Geometry { width, channels, .. } = *self.geometry;
        let (rows, tiles) = (outputs / self.output_row(), width / 2);
        let ahead = self.rows * 2 * width * channels;
        for row in 0..rows {
            let input_rows = self.input_rows(inputs, first + row);
            #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
            // SAFETY: `usable` found AVX-512 on this processor.
            unsafe {
                transforms::transform_inputs(input_rows, channels, ahead, transformed, row * tiles);
            }
        }
        rows * tiles
    }

    /// The four rows of inputs under a row of tiles.
    fn input_rows<'b>(&'b self, inputs: &'b [f32], row: usize) -> [&'b [f32]; 4] {
        let Geometry { height, width, channels, .. } = *self.geometry;
        let (image, row) = (row / (height / 2), row % (height / 2));
        let inputs = &inputs[image * self.geometry.input_length()..];
        std::array::from_fn(|index| match (2 * row + index).checked_sub(1) {
            Some(row) if row < height => &inputs[row * width * channels..][..width * channels],
            _ => self.outside.as_slice(),
        })
    }

    fn transform_gradient(&self, gradient: &[f32], transformed: &mut Tiles) {
        let ahead = self.rows * self.output_row();
        for (row, gradient) in gradient.chunks_exact(self.output_row()).enumerate() {
            let (upper, lower) = gradient.split_at(gradient.len() / 2);
            let tile = row * self.geometry.width / 2;
            #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
            // SAFETY: `usable` found AVX-512 on this processor.
            unsafe {
                transforms::transform_gradient([upper, lower], self.geometry.outputs, ahead, transformed, tile);
            }
        }
    }

    fn write_outputs(&self, products: &Tiles, result: &mut [MaybeUninit<f32>]) {
        for (row, result) in result.chunks_exact_mut(self.output_row()).enumerate() {
            let (upper, lower) = result.split_at_mut(result.len() / 2);
            let tile = row * self.geometry.width / 2;
            #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
            // SAFETY: `usable` found AVX-512 on this processor.
            unsafe {
                transforms::write_outputs(products, tile, self.geometry.outputs, [upper, lower]);
            }
        }
    }
}
