//! `im2col`: the patches of an image as rows of a matrix, a few output rows at a time.

use candle_core::{Result, bail};

use super::conv2d::ConvolutionForm;

/// Elements a tile of columns may hold: it stays in the second-level cache.
const TILE_ELEMENTS: usize = 48 * 1024;

/// Sizes of one group of one convolution of one image, square kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    pub(super) outputs: usize,
}

impl Geometry {
    /// From inputs [batch, height, width, channels] and weight [outputs, channels / groups, kernel, kernel].
    pub(super) fn new(inputs: &[usize], weight: &[usize], form: ConvolutionForm) -> Result<Self> {
        let ConvolutionForm { stride, padding, groups } = form;
        let (&[_, height, width, channels], &[outputs, weight_channels, kernel, kernel_width]) = (inputs, weight)
        else {
            bail!("convolution: inputs {inputs:?} or weight {weight:?} is not 4-dimensional");
        };
        if groups == 0 || !channels.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
            bail!("convolution: {channels} channels and {outputs} outputs in {groups} groups");
        }
        let (channels, outputs) = (channels / groups, outputs / groups);
        if channels != weight_channels || kernel != kernel_width || kernel == 0 || stride == 0 {
            bail!("convolution: inputs {inputs:?} do not fit weight {weight:?} at stride {stride}");
        }
        if height + 2 * padding < kernel || width + 2 * padding < kernel {
            bail!("convolution: an image of {height}x{width} is smaller than its kernel of {kernel}");
        }
        let out_height = (height + 2 * padding - kernel) / stride + 1;
        let out_width = (width + 2 * padding - kernel) / stride + 1;
        Ok(Self { height, width, channels, kernel, stride, padding, out_height, out_width, outputs })
    }

    /// The convolution whose inputs are this one's output gradient and whose outputs are its input gradient, where that
    /// is a plain convolution (with the kernel turned round): stride 1 and size kept.
    pub(super) fn reversed(&self) -> Option<Self> {
        (self.stride == 1 && 2 * self.padding + 1 == self.kernel).then_some(Self {
            channels: self.outputs,
            outputs: self.channels,
            ..*self
        })
    }

    /// Elements of an input image.
    pub(super) fn input_length(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Elements of an output image.
    pub(super) fn output_length(&self) -> usize {
        self.out_height * self.out_width * self.outputs
    }

    /// Elements of one patch.
    pub(super) fn patch_length(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    /// Output rows a tile has.
    pub(super) fn tile_rows(&self) -> usize {
        (TILE_ELEMENTS / (self.out_width * self.patch_length())).clamp(1, self.out_height)
    }

    /// Elements of a full tile of columns.
    pub(super) fn tile_length(&self) -> usize {
        self.tile_rows() * self.out_width * self.patch_length()
    }

    /// Ranges of output rows, tile by tile.
    pub(super) fn tiles(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (rows, end) = (self.tile_rows(), self.out_height);
        (0..end).step_by(rows).map(move |start| start..(start + rows).min(end))
    }

    /// Input row that kernel row `kernel_row` meets at output row `out_row`, where it is inside the image.
    fn input_row(&self, out_row: usize, kernel_row: usize) -> Option<usize> {
        (out_row * self.stride + kernel_row).checked_sub(self.padding).filter(|row| *row < self.height)
    }

    /// Kernel columns that meet the image at output column `out_column`, and the input column the first of them meets.
    fn columns_inside(&self, out_column: usize) -> (std::ops::Range<usize>, usize) {
        let left = out_column * self.stride;
        let first = self.padding.saturating_sub(left).min(self.kernel);
        let last = (self.width + self.padding).saturating_sub(left).min(self.kernel).max(first);
        (first..last, (left + first).saturating_sub(self.padding))
    }
}

/// Writes the patches of `image` [height, width, channels] under the output rows `rows` into `columns`
/// [pixels, kernel, kernel, channels], with zeros outside the image.
pub(super) fn gather(image: &[f32], geometry: &Geometry, rows: std::ops::Range<usize>, columns: &mut [f32]) {
    let channels = geometry.channels;
    let kernel_row_length = geometry.kernel * channels;
    let mut patches = columns.chunks_exact_mut(geometry.patch_length());
    for out_row in rows {
        for out_column in 0..geometry.out_width {
            let patch = patches.next().expect("columns hold a patch for each output pixel");
            let (inside, column) = geometry.columns_inside(out_column);
            for (kernel_row, target) in patch.chunks_exact_mut(kernel_row_length).enumerate() {
                let Some(row) = geometry.input_row(out_row, kernel_row) else {
                    target.fill(0.0);
                    continue;
                };
                let (start, end) = (inside.start * channels, inside.end * channels);
                let source = (row * geometry.width + column) * channels;
                target[..start].fill(0.0);
                target[start..end].copy_from_slice(&image[source..source + end - start]);
                target[end..].fill(0.0);
            }
        }
    }
}

/// Adds every element of `columns` to the element of `image` that [`gather`] reads it from.
pub(super) fn scatter_add(columns: &[f32], geometry: &Geometry, rows: std::ops::Range<usize>, image: &mut [f32]) {
    let channels = geometry.channels;
    let kernel_row_length = geometry.kernel * channels;
    let mut patches = columns.chunks_exact(geometry.patch_length());
    for out_row in rows {
        for out_column in 0..geometry.out_width {
            let patch = patches.next().expect("columns hold a patch for each output pixel");
            let (inside, column) = geometry.columns_inside(out_column);
            for (kernel_row, source) in patch.chunks_exact(kernel_row_length).enumerate() {
                let Some(row) = geometry.input_row(out_row, kernel_row) else { continue };
                let source = &source[inside.start * channels..inside.end * channels];
                let target = (row * geometry.width + column) * channels;
                for (sum, value) in image[target..target + source.len()].iter_mut().zip(source) {
                    *sum += value;
                }
            }
        }
    }
}
