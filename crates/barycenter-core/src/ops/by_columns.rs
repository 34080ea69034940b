//! Convolution by `im2col` tiles and matrix products: the way for every size and every processor. No columns are kept for
//! the gradient.

use gemm::Parallelism;
use rayon::prelude::*;

use super::columns::{Geometry, gather, scatter_add};
use super::matrix::{Matrix, Write, multiply};

/// Fewest images whose kernel gradients are summed by one task.
const IMAGES_A_PART: usize = 8;
/// Most parts the kernel gradient is summed in.
const PARTS: usize = 32;
/// Most elements of all partial sums together, as long as there is more than one part.
const PARTS_ELEMENTS: usize = 4 << 20;

/// `patches · kernel`, image by image; `kernel` is [kernel · kernel · channels, outputs].
pub(super) fn convolve(inputs: &[f32], kernel: &[f32], geometry: &Geometry) -> Vec<f32> {
    let mut result = vec![0.0; inputs.len() / geometry.input_length() * geometry.output_length()];
    let (patch, row_length) = (geometry.patch_length(), geometry.out_width * geometry.outputs);
    let images = result.par_chunks_mut(geometry.output_length()).zip(inputs.par_chunks(geometry.input_length()));
    images.for_each_init(
        || vec![0.0; geometry.tile_length()],
        |columns, (result, image)| {
            for rows in geometry.tiles() {
                let pixels = rows.len() * geometry.out_width;
                gather(image, geometry, rows.clone(), columns);
                let left = Matrix::new(columns, pixels, patch);
                let right = Matrix::new(kernel, patch, geometry.outputs);
                multiply(&mut result[rows.start * row_length..], left, right, Write::Replace, Parallelism::None);
            }
        },
    );
    result
}

/// Gradient of the inputs, from that of the outputs.
pub(super) fn input_gradient(gradient: &[f32], kernel: &[f32], geometry: &Geometry) -> Vec<f32> {
    let mut product = vec![0.0; gradient.len() / geometry.output_length() * geometry.input_length()];
    let (patch, row_length) = (geometry.patch_length(), geometry.out_width * geometry.outputs);
    let images = product.par_chunks_mut(geometry.input_length()).zip(gradient.par_chunks(geometry.output_length()));
    images.for_each_init(
        || vec![0.0; geometry.tile_length()],
        |columns, (product, gradient)| {
            for rows in geometry.tiles() {
                let pixels = rows.len() * geometry.out_width;
                let left = Matrix::new(&gradient[rows.start * row_length..], pixels, geometry.outputs);
                let right = Matrix::new(kernel, patch, geometry.outputs).transposed();
                multiply(columns, left, right, Write::Replace, Parallelism::None);
                scatter_add(columns, geometry, rows, product);
            }
        },
    );
    product
}

/// The kernel gradient of a few images, as a matrix [kernel · kernel · channels, outputs].
pub(super) type PartOfGradient = fn(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32>;

/// Images whose kernel gradients are summed by one task: it depends on sizes alone, and bounds the memory of the sums.
fn images_a_part(geometry: &Geometry, batch: usize) -> usize {
    let most_parts = (PARTS_ELEMENTS / (geometry.patch_length() * geometry.outputs)).clamp(1, PARTS);
    batch.div_ceil(most_parts).max(IMAGES_A_PART)
}

/// Bytes of the partial sums of [`kernel_gradient`], and before they are added up of the `work` that one part takes besides.
pub(super) fn kernel_gradient_bytes(geometry: &Geometry, batch: usize, work: u64) -> u64 {
    let parts = batch.div_ceil(images_a_part(geometry, batch)) as u64;
    let sum = (geometry.patch_length() * geometry.outputs * size_of::<f32>()) as u64;
    parts * sum + work.max(sum)
}

/// Gradient of the kernel as a matrix [kernel · kernel · channels, outputs]: parts of whole images, added in order.
pub(super) fn kernel_gradient(
    inputs: &[f32],
    gradient: &[f32],
    geometry: &Geometry,
    part_of_gradient: PartOfGradient,
) -> Vec<f32> {
    let images = images_a_part(geometry, inputs.len() / geometry.input_length());
    let parts: Vec<Vec<f32>> = inputs
        .par_chunks(images * geometry.input_length())
        .zip(gradient.par_chunks(images * geometry.output_length()))
        .map(|(inputs, gradient)| part_of_gradient(inputs, gradient, geometry))
        .collect();
    let mut total = vec![0.0; geometry.patch_length() * geometry.outputs];
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    total
}

/// [`PartOfGradient`] by columns.
pub(super) fn part_of_gradient(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let (patch, row_length) = (geometry.patch_length(), geometry.out_width * geometry.outputs);
    let mut columns = vec![0.0; geometry.tile_length()];
    let mut sum = vec![0.0; patch * geometry.outputs];
    let images = inputs.chunks_exact(geometry.input_length());
    for (image, gradient) in images.zip(gradient.chunks_exact(geometry.output_length())) {
        for rows in geometry.tiles() {
            let pixels = rows.len() * geometry.out_width;
            gather(image, geometry, rows.clone(), &mut columns);
            let left = Matrix::new(&columns, pixels, patch).transposed();
            let right = Matrix::new(&gradient[rows.start * row_length..], pixels, geometry.outputs);
            multiply(&mut sum, left, right, Write::Accumulate, Parallelism::None);
        }
    }
    sum
}
