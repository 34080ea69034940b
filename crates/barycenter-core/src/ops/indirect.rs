//! Convolution of any kernel and stride without columns, for processors with AVX2 or AVX-512: see [`walk`](super::walk).

use rayon::prelude::*;

use super::columns::Geometry;
use super::tiles::{
    Columns, LEAST, Patches, ROWS, Starts, WIDTH, add_outer_products, available, multiply_patches, pack, widest,
};
use super::walk::Walk;

/// Pixels a task works on, as far as whole images allow.
const PIXELS_A_TASK: usize = 128;
/// Elements of patches that stay in the second-level cache while a kernel gradient is summed.
const CACHED: usize = 64 * 1024;
/// Fewest and most pixels of such a block: six elements of the patch and 16 gradients of each stay in the first-level one.
const PIXELS_A_BLOCK: std::ops::RangeInclusive<usize> = 128..=256;
/// Outputs whose kernel gradient is one task.
const OUTPUTS_A_TASK: usize = 64;
/// Tasks a kernel gradient is cut into, unless images or outputs run out.
const GRADIENT_TASKS: usize = 16;
/// Most elements of all partial sums together, as long as there is more than one part.
const PARTS_ELEMENTS: usize = 4 << 20;

/// Whether [`convolve`] and [`kernel_gradient`] can compute this convolution on this machine.
pub(super) fn usable(geometry: &Geometry) -> bool {
    geometry.outputs.is_multiple_of(LEAST) && available()
}

/// Whether [`input_gradient`] can.
pub(super) fn input_gradient_usable(geometry: &Geometry) -> bool {
    geometry.channels.is_multiple_of(LEAST) && available()
}

/// The outputs of all images; `weight` is [outputs, channels, kernel, kernel].
pub(super) fn convolve(inputs: &[f32], weight: &[f32], bias: Option<&[f32]>, geometry: &Geometry) -> Vec<f32> {
    let walk = Walk::forward(geometry);
    let Geometry { channels, outputs, .. } = *geometry;
    let taps = geometry.kernel * geometry.kernel;
    let panels =
        panels(&walk, channels, outputs, |tap, channel, output| weight[(output * channels + channel) * taps + tap]);
    let mut result = vec![0.0; inputs.len() / geometry.input_length() * geometry.output_length()];
    let lengths = (geometry.input_length(), geometry.output_length());
    multiply(&[(walk, panels)], inputs, bias, lengths, outputs, &mut result);
    result
}

/// Gradient of the inputs of all images.
pub(super) fn input_gradient(gradient: &[f32], weight: &[f32], geometry: &Geometry) -> Vec<f32> {
    let Geometry { channels, outputs, .. } = *geometry;
    let taps = geometry.kernel * geometry.kernel;
    let walks = Walk::backward(geometry).into_iter().map(|walk| {
        let panels =
            panels(&walk, outputs, channels, |tap, output, channel| weight[(output * channels + channel) * taps + tap]);
        (walk, panels)
    });
    let walks: Vec<_> = walks.collect();
    let mut result = vec![0.0; gradient.len() / geometry.output_length() * geometry.input_length()];
    let lengths = (geometry.output_length(), geometry.input_length());
    multiply(&walks, gradient, None, lengths, channels, &mut result);
    result
}

/// The weights of each 16 neighbouring columns (the last may be 8) as [depth, columns], one after the other; `weight` tells
/// that of a tap, a channel of the patch and a column.
fn panels(
    walk: &Walk,
    channels: usize,
    columns: usize,
    weight: impl Fn(usize, usize, usize) -> f32 + Sync,
) -> Vec<f32> {
    let depth = walk.depth();
    let mut panels = vec![0.0; depth * columns];
    panels.par_chunks_mut(depth * WIDTH).enumerate().for_each(|(index, panel)| {
        let width = panel.len() / depth;
        for channel in 0..channels {
            for (position, tap) in walk.taps.iter().enumerate() {
                let row = &mut panel[(position * channels + channel) * width..][..width];
                for (lane, value) in row.iter_mut().enumerate() {
                    *value = weight(*tap, channel, index * WIDTH + lane);
                }
            }
        }
    });
    panels
}

/// Images a task takes so that it has enough pixels.
fn images_a_task(pixels: usize) -> usize {
    PIXELS_A_TASK.div_ceil(pixels.max(1))
}

/// Where each image's patches start or end up, image after image.
fn repeated(positions: &[usize], images: usize, length: usize) -> Vec<usize> {
    (0..images).flat_map(|image| positions.iter().map(move |position| image * length + position)).collect()
}

/// `result = patches · panels` for every walk, a few images a task.
fn multiply(
    walks: &[(Walk, Vec<f32>)],
    images: &[f32],
    bias: Option<&[f32]>,
    lengths: (usize, usize),
    columns: usize,
    result: &mut [f32],
) {
    let Some((first, _)) = walks.first() else { return };
    let count = images_a_task(first.starts.len()).min(images.len() / lengths.0);
    let places: Vec<_> = walks
        .iter()
        .map(|(walk, _)| {
            (repeated(&walk.starts, count, walk.frame.length()), repeated(&walk.targets, count, lengths.1))
        })
        .collect();
    let tasks = result.par_chunks_mut(count * lengths.1).zip(images.par_chunks(count * lengths.0));
    tasks.for_each_init(Vec::new, |buffer, (result, images)| {
        // All walks of a gradient share a frame.
        let framed = first.frame.fill(images, buffer);
        let share = |places: &Vec<usize>| places.len() / count * (images.len() / lengths.0);
        for ((walk, panels), (starts, targets)) in walks.iter().zip(&places) {
            let (starts, targets) = (&starts[..share(starts)], &targets[..share(targets)]);
            let patches = Patches { framed, starts, targets, runs: &walk.runs };
            let mut column = 0;
            while column < columns {
                let width = widest(columns - column);
                let panel = &panels[column * walk.depth()..];
                let bias = bias.map(|bias| &bias[column..]);
                multiply_patches(&patches, panel, bias, width, &mut result[column..]);
                column += width;
            }
        }
    });
}

/// How a kernel gradient is shared out, by sizes alone.
struct Shares {
    /// Images of a part.
    images: usize,
    /// Outputs of a task.
    outputs: usize,
}

impl Shares {
    fn new(geometry: &Geometry, batch: usize) -> Self {
        let outputs = geometry.outputs.min(OUTPUTS_A_TASK);
        let most_parts = (PARTS_ELEMENTS / (geometry.patch_length() * geometry.outputs)).max(1);
        let parts = GRADIENT_TASKS.div_ceil(geometry.outputs.div_ceil(outputs)).min(most_parts).min(batch);
        Self { images: batch.div_ceil(parts), outputs }
    }
}

/// Bytes of the partial sums of [`kernel_gradient`].
pub(super) fn kernel_gradient_bytes(geometry: &Geometry, batch: usize) -> u64 {
    let parts = batch.div_ceil(Shares::new(geometry, batch).images);
    (parts * geometry.patch_length() * geometry.outputs * size_of::<f32>()) as u64
}

/// Gradient of the weight, [outputs, channels, kernel, kernel]: parts of whole images, added in order.
pub(super) fn kernel_gradient(inputs: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let walk = Walk::forward(geometry);
    let batch = inputs.len() / geometry.input_length();
    let shares = Shares::new(geometry, batch);
    let tasks: Vec<(usize, usize)> = (0..geometry.outputs)
        .step_by(shares.outputs)
        .flat_map(|output| (0..batch).step_by(shares.images).map(move |image| (output, image)))
        .collect();
    let sums: Vec<Vec<f32>> = tasks
        .par_iter()
        .map(|(output, image)| {
            let images = *image..(image + shares.images).min(batch);
            let outputs = *output..(output + shares.outputs).min(geometry.outputs);
            part_of_gradient(inputs, gradient, geometry, &walk, images, outputs)
        })
        .collect();
    let parts = batch.div_ceil(shares.images);
    let mut weight = vec![0.0; geometry.outputs * geometry.patch_length()];
    let tasks = weight.par_chunks_mut(shares.outputs * geometry.patch_length()).zip(sums.par_chunks(parts));
    tasks.for_each(|(weight, parts)| add_parts(parts, geometry, weight));
    weight
}

/// Adds sums [patch, outputs] and writes them as [outputs, channels, kernel, kernel].
fn add_parts(parts: &[Vec<f32>], geometry: &Geometry, weight: &mut [f32]) {
    let (taps, channels) = (geometry.kernel * geometry.kernel, geometry.channels);
    let outputs = weight.len() / geometry.patch_length();
    for channel in 0..channels {
        for tap in 0..taps {
            let targets = weight[channel * taps + tap..].iter_mut().step_by(channels * taps);
            let row = (tap * channels + channel) * outputs..(tap * channels + channel + 1) * outputs;
            match parts {
                [only] => targets.zip(&only[row]).for_each(|(target, value)| *target = *value),
                _ => targets.zip(row).for_each(|(target, at)| *target = parts.iter().map(|part| part[at]).sum()),
            }
        }
    }
}

/// The kernel gradient of some images and outputs, [patch, outputs].
fn part_of_gradient(
    inputs: &[f32],
    gradient: &[f32],
    geometry: &Geometry,
    walk: &Walk,
    images: std::ops::Range<usize>,
    outputs: std::ops::Range<usize>,
) -> Vec<f32> {
    let pixels = walk.starts.len();
    let block = (CACHED / (geometry.channels * geometry.stride * geometry.stride))
        .clamp(*PIXELS_A_BLOCK.start(), *PIXELS_A_BLOCK.end());
    let group = block.div_ceil(pixels).min(images.len());
    let starts = repeated(&walk.starts, group, walk.frame.length());
    let mut sum = vec![0.0; geometry.patch_length() * outputs.len()];
    let mut work = Work { gradients: Vec::new(), packed: vec![0.0; block * LEAST] };
    let mut buffer = Vec::new();
    for first in images.clone().step_by(group) {
        let group = group.min(images.end - first);
        let inputs = &inputs[first * geometry.input_length()..][..group * geometry.input_length()];
        let gradient = &gradient[first * geometry.output_length()..][..group * geometry.output_length()];
        let framed = walk.frame.fill(inputs, &mut buffer);
        for (starts, gradient) in starts[..group * pixels].chunks(block).zip(gradient.chunks(block * geometry.outputs))
        {
            let gradient = Gradient { elements: gradient, stride: geometry.outputs, outputs: outputs.clone() };
            work.add_block(framed, walk, starts, &gradient, &mut sum);
        }
    }
    sum
}

/// Gradients of a block of pixels, [pixels, stride], and the outputs that are wanted.
struct Gradient<'a> {
    elements: &'a [f32],
    stride: usize,
    outputs: std::ops::Range<usize>,
}

/// Arrays that are used again from block to block.
struct Work {
    /// Gradients, 16 outputs at a time.
    gradients: Vec<f32>,
    /// Up to six elements of the patch of every pixel, eight apart.
    packed: Vec<f32>,
}

impl Work {
    /// Adds the products of a block of pixels to `sum` [patch, outputs].
    fn add_block(&mut self, framed: &[f32], walk: &Walk, starts: &[usize], gradient: &Gradient<'_>, sum: &mut [f32]) {
        let count = gradient.outputs.len();
        let single = count <= WIDTH && gradient.stride == count;
        if !single {
            self.pack_gradients(gradient, starts.len());
        }
        let apart: Vec<usize> = (0..starts.len()).map(|pixel| pixel * LEAST).collect();
        let (starts, apart) = (Starts::new(starts), Starts::new(&apart));
        let mut row = 0;
        for run in &walk.runs {
            for element in (0..run.length).step_by(ROWS) {
                let rows = (run.length - element).min(ROWS);
                let elements = &framed[run.offset + element..];
                let sum = &mut sum[(row + element) * count..];
                if single {
                    let columns = Columns { elements, starts, gradient: gradient.elements, stride: count };
                    add_outer_products(&columns, rows, count, sum, count);
                    continue;
                }
                pack(elements, starts, rows, &mut self.packed);
                let mut output = 0;
                while output < count {
                    let width = widest(count - output);
                    let gradient = &self.gradients[output * apart.len()..];
                    let stride = width.min(WIDTH);
                    let columns = Columns { elements: &self.packed, starts: apart, gradient, stride };
                    add_outer_products(&columns, rows, width, &mut sum[output..], count);
                    output += width;
                }
            }
            row += run.length;
        }
    }

    /// [pixels, stride] to [outputs / 16, pixels, 16]; the last may be 8 wide.
    fn pack_gradients(&mut self, gradient: &Gradient<'_>, pixels: usize) {
        let count = gradient.outputs.len();
        self.gradients.resize(pixels * count, 0.0);
        for output in (0..count).step_by(WIDTH) {
            let width = (count - output).min(WIDTH);
            let packed = &mut self.gradients[output * pixels..][..width * pixels];
            let from = gradient.outputs.start + output;
            for (packed, pixel) in packed.chunks_exact_mut(width).zip(gradient.elements.chunks_exact(gradient.stride)) {
                packed.copy_from_slice(&pixel[from..from + width]);
            }
        }
    }
}
