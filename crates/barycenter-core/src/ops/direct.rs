//! 3x3 convolution of stride 1 without columns, for processors with AVX-512.
//!
//! A tile of the output stays in registers while all taps and channels are added to it; the image is copied once, with a
//! frame of zeros, in place of nine times. `conv2d` takes this way for what `winograd` cannot take (three channels, images of
//! odd height) and [`usable`] can; a test holds it together with that of `columns`.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::columns::Geometry;
use crate::memory::written;

#[cfg(target_arch = "x86_64")]
use x86::{add_kernel_gradient, convolve};

#[cfg(target_arch = "x86_64")]
pub(super) use x86::usable;

#[cfg(not(target_arch = "x86_64"))]
use other::{add_kernel_gradient, convolve};

#[cfg(not(target_arch = "x86_64"))]
pub(super) use other::usable;

/// The outputs of all images; `kernel` is [3 · 3 · channels, outputs].
pub(super) fn convolve_images(inputs: &[f32], kernel: &[f32], geometry: &Geometry) -> Vec<f32> {
    let convolve_all = |result: &mut [MaybeUninit<f32>]| {
        let images =
            result.par_chunks_exact_mut(geometry.output_length()).zip(inputs.par_chunks(geometry.input_length()));
        images.for_each_init(
            || vec![0.0; framed_length(geometry)],
            |framed, (result, image)| {
                fill_frame(image, geometry, framed);
                convolve(framed, kernel, geometry, result);
            },
        );
    };
    let images = inputs.len() / geometry.input_length();
    #[expect(unsafe_code, reason = "outputs are written tile by tile, without zeros before")]
    // SAFETY: there is an image for each output, and `convolve` writes every element of an output.
    unsafe {
        written(images * geometry.output_length(), convolve_all)
    }
}

/// The kernel gradient of a few images, as a matrix [3 · 3 · channels, outputs].
pub(super) fn part_of_gradient(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let mut framed = vec![0.0; framed_length(geometry)];
    let mut sum = vec![0.0; geometry.patch_length() * geometry.outputs];
    let images = inputs.chunks_exact(geometry.input_length());
    for (image, gradient) in images.zip(gradient.chunks_exact(geometry.output_length())) {
        fill_frame(image, geometry, &mut framed);
        add_kernel_gradient(&framed, gradient, geometry, &mut sum);
    }
    sum
}

/// Elements of an image with its frame.
fn framed_length(geometry: &Geometry) -> usize {
    (geometry.height + 2) * (geometry.width + 2) * geometry.channels
}

/// Copies an image into the middle of `framed`, whose frame is zero already.
fn fill_frame(image: &[f32], geometry: &Geometry, framed: &mut [f32]) {
    let row_length = geometry.width * geometry.channels;
    let framed_row_length = row_length + 2 * geometry.channels;
    let rows = framed.chunks_exact_mut(framed_row_length).skip(1).zip(image.chunks_exact(row_length));
    for (framed, row) in rows {
        framed[geometry.channels..][..row_length].copy_from_slice(row);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps},
        mem::MaybeUninit,
    };

    use super::super::registers::{LANES, load, store, write};
    use super::Geometry;

    /// Neighbouring output pixels of a tile.
    const PIXELS: usize = 8;

    /// Whether the functions here can compute this convolution on this machine.
    pub(in super::super) fn usable(geometry: &Geometry) -> bool {
        geometry.kernel == 3
            && geometry.reversed().is_some()
            && geometry.width.is_multiple_of(PIXELS)
            && geometry.outputs.is_multiple_of(LANES)
            && matches!(geometry.channels, 3 | 16 | 32 | 64)
            && is_x86_feature_detected!("avx512f")
    }

    /// `result = patches · kernel` of one image, every element of it; `framed` is the image with its frame, `kernel`
    /// [3 · 3 · channels, outputs].
    pub(super) fn convolve(framed: &[f32], kernel: &[f32], geometry: &Geometry, result: &mut [MaybeUninit<f32>]) {
        assert!(usable(geometry), "asked only after `usable`");
        #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
        // SAFETY: `usable` found AVX-512 on this processor.
        unsafe {
            match geometry.channels {
                3 => convolve_channels::<3>(framed, kernel, geometry, result),
                16 => convolve_channels::<16>(framed, kernel, geometry, result),
                32 => convolve_channels::<32>(framed, kernel, geometry, result),
                _ => convolve_channels::<64>(framed, kernel, geometry, result),
            }
        }
    }

    /// Adds one image's share to `sum`, the gradient of `kernel` in its layout.
    pub(super) fn add_kernel_gradient(framed: &[f32], gradient: &[f32], geometry: &Geometry, sum: &mut [f32]) {
        assert!(usable(geometry), "asked only after `usable`");
        let wide = geometry.outputs.is_multiple_of(2 * LANES);
        #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
        // SAFETY: `usable` found AVX-512 on this processor.
        unsafe {
            match (geometry.channels, wide) {
                (3, _) => add_gradient_channels::<3, 3, 1>(framed, gradient, geometry, sum),
                (16, false) => add_gradient_channels::<16, 16, 1>(framed, gradient, geometry, sum),
                (16, true) => add_gradient_channels::<16, 8, 2>(framed, gradient, geometry, sum),
                (32, false) => add_gradient_channels::<32, 16, 1>(framed, gradient, geometry, sum),
                (32, true) => add_gradient_channels::<32, 8, 2>(framed, gradient, geometry, sum),
                (_, false) => add_gradient_channels::<64, 16, 1>(framed, gradient, geometry, sum),
                (_, true) => add_gradient_channels::<64, 8, 2>(framed, gradient, geometry, sum),
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn convolve_channels<const C: usize>(
        framed: &[f32],
        kernel: &[f32],
        geometry: &Geometry,
        result: &mut [MaybeUninit<f32>],
    ) {
        let (pixels, _) = framed.as_chunks::<C>();
        let (width, outputs) = (geometry.width, geometry.outputs);
        let wide = outputs.is_multiple_of(2 * LANES);
        for (row, result) in result.chunks_exact_mut(width * outputs).enumerate() {
            for output in (0..outputs).step_by(if wide { 2 * LANES } else { LANES }) {
                for column in (0..width).step_by(PIXELS) {
                    let corner = &pixels[row * (width + 2) + column..];
                    let (kernel, result) = (&kernel[output..], &mut result[column * outputs + output..]);
                    if wide {
                        tile::<C, 2>(corner, kernel, (width + 2, outputs), result);
                    } else {
                        tile::<C, 1>(corner, kernel, (width + 2, outputs), result);
                    }
                }
            }
        }
    }

    /// `PIXELS` pixels by `R` registers of outputs; `sizes` are the length of a framed row and the number of outputs.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn tile<const C: usize, const R: usize>(
        corner: &[[f32; C]],
        kernel: &[f32],
        sizes: (usize, usize),
        result: &mut [MaybeUninit<f32>],
    ) {
        let (framed_width, outputs) = sizes;
        let mut sums = [[_mm512_setzero_ps(); R]; PIXELS];
        for tap in 0..9 {
            let start = tap / 3 * framed_width + tap % 3;
            let pixels: &[[f32; C]; PIXELS] = corner[start..].first_chunk().expect("a tile lies inside the frame");
            for channel in 0..C {
                let weights = &kernel[(tap * C + channel) * outputs..][..R * LANES];
                let mut registers = [_mm512_setzero_ps(); R];
                for (index, register) in registers.iter_mut().enumerate() {
                    *register = load(&weights[index * LANES..]);
                }
                for (sums, pixel) in sums.iter_mut().zip(pixels) {
                    let value = _mm512_set1_ps(pixel[channel]);
                    for (sum, register) in sums.iter_mut().zip(registers) {
                        *sum = _mm512_fmadd_ps(value, register, *sum);
                    }
                }
            }
        }
        for (pixel, sums) in sums.into_iter().enumerate() {
            for (index, sum) in sums.into_iter().enumerate() {
                write(sum, &mut result[pixel * outputs + index * LANES..]);
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn add_gradient_channels<const C: usize, const B: usize, const R: usize>(
        framed: &[f32],
        gradient: &[f32],
        geometry: &Geometry,
        sum: &mut [f32],
    ) {
        let (pixels, _) = framed.as_chunks::<C>();
        for tap in 0..9 {
            let corner = &pixels[tap / 3 * (geometry.width + 2) + tap % 3..];
            for channel in (0..C).step_by(B) {
                for output in (0..geometry.outputs).step_by(R * LANES) {
                    let sum = &mut sum[(tap * C + channel) * geometry.outputs + output..];
                    add_gradient_tile::<C, B, R>(corner, gradient, geometry, (channel, output), sum);
                }
            }
        }
    }

    /// One tap, `B` channels by `R` registers of outputs from `first` on, over all pixels of an image.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add_gradient_tile<const C: usize, const B: usize, const R: usize>(
        corner: &[[f32; C]],
        gradient: &[f32],
        geometry: &Geometry,
        first: (usize, usize),
        sum: &mut [f32],
    ) {
        let (width, outputs) = (geometry.width, geometry.outputs);
        let mut sums = [[_mm512_setzero_ps(); R]; B];
        for (row, gradient) in gradient.chunks_exact(width * outputs).enumerate() {
            let pixels = &corner[row * (width + 2)..][..width];
            for (pixel, gradient) in pixels.iter().zip(gradient.chunks_exact(outputs)) {
                let channels: &[f32; B] = pixel[first.0..].first_chunk().expect("blocks divide the channels");
                let gradient = &gradient[first.1..][..R * LANES];
                let mut registers = [_mm512_setzero_ps(); R];
                for (index, register) in registers.iter_mut().enumerate() {
                    *register = load(&gradient[index * LANES..]);
                }
                for (sums, value) in sums.iter_mut().zip(channels) {
                    let value = _mm512_set1_ps(*value);
                    for (sum, register) in sums.iter_mut().zip(registers) {
                        *sum = _mm512_fmadd_ps(value, register, *sum);
                    }
                }
            }
        }
        for (channel, sums) in sums.into_iter().enumerate() {
            for (index, register) in sums.into_iter().enumerate() {
                let target = &mut sum[channel * outputs + index * LANES..];
                store(_mm512_add_ps(load(target), register), target);
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod other {
    use std::mem::MaybeUninit;

    use super::Geometry;

    pub(in super::super) fn usable(_: &Geometry) -> bool {
        false
    }

    pub(super) fn convolve(_: &[f32], _: &[f32], _: &Geometry, _: &mut [MaybeUninit<f32>]) {
        unreachable!("asked only after `usable`");
    }

    pub(super) fn add_kernel_gradient(_: &[f32], _: &[f32], _: &Geometry, _: &mut [f32]) {
        unreachable!("asked only after `usable`");
    }
}
