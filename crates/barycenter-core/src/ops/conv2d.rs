//! 2-d convolution of NHWC images: directly where that is possible, else by `im2col` tiles and matrix products. No columns
//! are kept for the gradient.

use candle_core::{Result, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::columns::{Geometry, gather, scatter_add};
use super::direct;
use super::graph::{Graph, Node, Operation};
use super::matrix::{Matrix, Write, multiply};
use super::storage::{read, read_two, tensor};

/// Fewest images whose kernel gradients are summed by one task.
const IMAGES_A_PART: usize = 8;
/// Most parts the kernel gradient is summed in; it bounds the memory of the partial sums.
const PARTS: usize = 32;

/// Convolution without bias: `inputs` [batch, height, width, channels], `weight` [outputs, channels, kernel, kernel]
/// (as `PyTorch` stores it), the same stride and zero padding on both axes.
pub fn conv2d(graph: &Graph, inputs: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    let geometry = Geometry::new(inputs.dims(), weight.dims(), stride, padding)?;
    let batch = inputs.dim(0)?;
    let mut result = vec![0.0; batch * geometry.output_length()];
    read_two(inputs, weight, |inputs, weight| {
        convolve(inputs, &by_patch(weight, &geometry), &geometry, &mut result);
    })?;
    let output = tensor(result, &[batch, geometry.out_height, geometry.out_width, geometry.outputs])?;
    graph.record(Conv2d { geometry }, &[inputs, weight], &output);
    Ok(output)
}

struct Conv2d {
    geometry: Geometry,
}

impl Operation for Conv2d {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let geometry = &self.geometry;
        let (inputs, weight) = (&node.inputs[0], &node.inputs[1]);
        let of_inputs = || {
            let mut product = vec![0.0; inputs.elem_count()];
            read(weight, |weight| input_gradient(&gradient, weight, geometry, &mut product))?;
            Ok::<_, candle_core::Error>(product)
        };
        let of_weight = || {
            let matrix = read(inputs, |inputs| kernel_gradient(inputs, &gradient, geometry))?;
            Ok::<_, candle_core::Error>(by_output(&matrix, geometry))
        };
        // Nobody wants the gradient of the images of a dataset.
        Ok(vec![node.wanted[0].then(of_inputs).transpose()?, node.wanted[1].then(of_weight).transpose()?])
    }
}

/// `weight` [outputs, channels, kernel, kernel] as a matrix [kernel · kernel · channels, outputs].
fn by_patch(weight: &[f32], geometry: &Geometry) -> Vec<f32> {
    let taps = geometry.kernel * geometry.kernel;
    let mut matrix = vec![0.0; weight.len()];
    for (output, filter) in weight.chunks_exact(geometry.channels * taps).enumerate() {
        for (channel, plane) in filter.chunks_exact(taps).enumerate() {
            for (tap, value) in plane.iter().enumerate() {
                matrix[(tap * geometry.channels + channel) * geometry.outputs + output] = *value;
            }
        }
    }
    matrix
}

/// The inverse of [`by_patch`].
fn by_output(matrix: &[f32], geometry: &Geometry) -> Vec<f32> {
    let taps = geometry.kernel * geometry.kernel;
    let mut weight = vec![0.0; matrix.len()];
    for (output, filter) in weight.chunks_exact_mut(geometry.channels * taps).enumerate() {
        for (channel, plane) in filter.chunks_exact_mut(taps).enumerate() {
            for (tap, value) in plane.iter_mut().enumerate() {
                *value = matrix[(tap * geometry.channels + channel) * geometry.outputs + output];
            }
        }
    }
    weight
}

/// The kernel turned by half a turn with inputs and outputs exchanged: [kernel · kernel · outputs, channels].
fn turned(weight: &[f32], geometry: &Geometry) -> Vec<f32> {
    let taps = geometry.kernel * geometry.kernel;
    let mut matrix = vec![0.0; weight.len()];
    for (output, filter) in weight.chunks_exact(geometry.channels * taps).enumerate() {
        for (channel, plane) in filter.chunks_exact(taps).enumerate() {
            for (tap, value) in plane.iter().rev().enumerate() {
                matrix[(tap * geometry.outputs + output) * geometry.channels + channel] = *value;
            }
        }
    }
    matrix
}

/// `result = patches · kernel`, image by image.
fn convolve(inputs: &[f32], kernel: &[f32], geometry: &Geometry, result: &mut [f32]) {
    if direct::usable(geometry) {
        convolve_directly(inputs, kernel, geometry, result);
    } else {
        convolve_by_columns(inputs, kernel, geometry, result);
    }
}

fn convolve_directly(inputs: &[f32], kernel: &[f32], geometry: &Geometry, result: &mut [f32]) {
    let images = result.par_chunks_mut(geometry.output_length()).zip(inputs.par_chunks(geometry.input_length()));
    images.for_each_init(
        || vec![0.0; direct::framed_length(geometry)],
        |framed, (result, image)| {
            direct::fill_frame(image, geometry, framed);
            direct::convolve(framed, kernel, geometry, result);
        },
    );
}

fn convolve_by_columns(inputs: &[f32], kernel: &[f32], geometry: &Geometry, result: &mut [f32]) {
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
}

/// Gradient of the inputs, into `product` (all zeros before).
fn input_gradient(gradient: &[f32], weight: &[f32], geometry: &Geometry, product: &mut [f32]) {
    if let Some(reversed) = geometry.reversed() {
        return convolve(gradient, &turned(weight, geometry), &reversed, product);
    }
    let kernel = by_patch(weight, geometry);
    let (patch, row_length) = (geometry.patch_length(), geometry.out_width * geometry.outputs);
    let images = product.par_chunks_mut(geometry.input_length()).zip(gradient.par_chunks(geometry.output_length()));
    images.for_each_init(
        || vec![0.0; geometry.tile_length()],
        |columns, (product, gradient)| {
            for rows in geometry.tiles() {
                let pixels = rows.len() * geometry.out_width;
                let left = Matrix::new(&gradient[rows.start * row_length..], pixels, geometry.outputs);
                let right = Matrix::new(&kernel, patch, geometry.outputs).transposed();
                multiply(columns, left, right, Write::Replace, Parallelism::None);
                scatter_add(columns, geometry, rows, product);
            }
        },
    );
}

/// Gradient of the kernel as a matrix [kernel · kernel · channels, outputs]: parts of whole images, added in order.
fn kernel_gradient(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let batch = inputs.len() / geometry.input_length();
    let images = batch.div_ceil(PARTS).max(IMAGES_A_PART);
    let parts: Vec<Vec<f32>> = inputs
        .par_chunks(images * geometry.input_length())
        .zip(gradient.par_chunks(images * geometry.output_length()))
        .map(|(inputs, gradient)| {
            if direct::usable(geometry) {
                part_directly(inputs, gradient, geometry)
            } else {
                part_by_columns(inputs, gradient, geometry)
            }
        })
        .collect();
    let mut total = vec![0.0; geometry.patch_length() * geometry.outputs];
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    total
}

/// The kernel gradient of a few images.
fn part_directly(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let mut framed = vec![0.0; direct::framed_length(geometry)];
    let mut sum = vec![0.0; geometry.patch_length() * geometry.outputs];
    let images = inputs.chunks_exact(geometry.input_length());
    for (image, gradient) in images.zip(gradient.chunks_exact(geometry.output_length())) {
        direct::fill_frame(image, geometry, &mut framed);
        direct::add_kernel_gradient(&framed, gradient, geometry, &mut sum);
    }
    sum
}

/// The kernel gradient of a few images.
fn part_by_columns(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| ((i as f32 + 0.5) * step).fract() * 2.0 - 1.0).collect()
    }

    fn assert_near(got: &[f32], expected: &[f32], depth: usize) {
        let bound = 1e-6 * depth as f32;
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < bound, "{got} {expected}");
        }
    }

    /// On a processor without AVX-512 there is no direct way, and nothing to compare.
    #[test]
    fn the_direct_way_agrees_with_columns() {
        for (channels, outputs, width) in
            [(3, 16, 8), (16, 16, 16), (16, 32, 8), (32, 16, 8), (32, 32, 16), (32, 64, 8), (64, 48, 8), (64, 64, 8)]
        {
            let geometry = Geometry::new(&[3, 5, width, channels], &[outputs, channels, 3, 3], 1, 1).unwrap();
            if !direct::usable(&geometry) {
                continue;
            }
            let inputs = values(3 * geometry.input_length(), 0.618_034);
            let kernel = values(geometry.patch_length() * outputs, 0.381_966);
            let mut results = [vec![0.0; 3 * geometry.output_length()], vec![0.0; 3 * geometry.output_length()]];
            convolve_directly(&inputs, &kernel, &geometry, &mut results[0]);
            convolve_by_columns(&inputs, &kernel, &geometry, &mut results[1]);
            assert_near(&results[0], &results[1], geometry.patch_length());
            let gradient = values(3 * geometry.output_length(), 0.732_051);
            let directly = part_directly(&inputs, &gradient, &geometry);
            assert_near(&directly, &part_by_columns(&inputs, &gradient, &geometry), 3 * 5 * width);
        }
    }
}
