//! Pooling of NHWC images: maximum, average over windows, average over the whole image.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::plan::Needs;
use super::storage::{read, tensor};

/// Mean over height and width: [batch, height, width, channels] gives [batch, channels]. Sums are taken in `f64`.
pub fn global_average_pool(graph: &Graph, inputs: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = inputs.dims4()?;
    if let Some(planned) = graph.planned(&[inputs], &[batch, channels], Needs::default()) {
        return planned;
    }
    let windows = Windows { rows: Axis::whole(height), columns: Axis::whole(width), channels, divisor: None };
    let output = tensor(read(inputs, |inputs| windows.means(inputs, batch))?, &[batch, channels])?;
    graph.record(windows, &[inputs], &output);
    Ok(output)
}

/// `PyTorch`'s `avg_pool2d`: means over square windows of `kernel` pixels, `stride` apart, with `padding` zeros around the
/// image which count as values. [batch, height, width, channels] gives [batch, out height, out width, channels].
pub fn average_pool2d(graph: &Graph, inputs: &Tensor, form: PoolForm) -> Result<Tensor> {
    let (_, height, width, channels) = inputs.dims4()?;
    let (rows, columns) = (form.axis(height)?, form.axis(width)?);
    let divisor = Some(form.kernel * form.kernel);
    average(graph, inputs, Windows { rows, columns, channels, divisor })
}

/// `PyTorch`'s `adaptive_avg_pool2d`: means over `size` (rows, columns) windows that cover the image as evenly as whole
/// pixels allow. [batch, height, width, channels] gives [batch, rows, columns, channels].
pub fn adaptive_average_pool2d(graph: &Graph, inputs: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    let (_, height, width, channels) = inputs.dims4()?;
    if size.0 == 0 || size.1 == 0 || height == 0 || width == 0 {
        bail!("adaptive pooling of {height}x{width} pixels to {}x{}", size.0, size.1);
    }
    let (rows, columns) = (Axis::adaptive(height, size.0), Axis::adaptive(width, size.1));
    average(graph, inputs, Windows { rows, columns, channels, divisor: None })
}

/// Square windows of a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolForm {
    /// Pixels of a window, on each axis.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Pixels added on each side of the image; at most half of `kernel`.
    pub padding: usize,
}

impl PoolForm {
    /// The parts of the windows that lie inside the image, along one axis.
    pub(super) fn axis(&self, length: usize) -> Result<Axis> {
        let Self { kernel, stride, padding } = *self;
        if stride == 0 || 2 * padding > kernel || length + 2 * padding < kernel || kernel == 0 {
            bail!("pooling of {length} pixels with kernel {kernel}, stride {stride} and padding {padding}");
        }
        let windows = (length + 2 * padding - kernel) / stride + 1;
        let inside = (0..windows).map(|window| {
            let start = window * stride;
            start.saturating_sub(padding)..(start + kernel - padding).min(length)
        });
        Ok(Axis { length, windows: inside.collect() })
    }
}

/// One axis of an image and the windows along it.
pub(super) struct Axis {
    pub(super) length: usize,
    pub(super) windows: Vec<std::ops::Range<usize>>,
}

impl Axis {
    fn whole(length: usize) -> Self {
        Self { length, windows: std::iter::once(0..length).collect() }
    }

    fn adaptive(length: usize, windows: usize) -> Self {
        let windows = (0..windows).map(|window| window * length / windows..((window + 1) * length).div_ceil(windows));
        Self { length, windows: windows.collect() }
    }
}

fn average(graph: &Graph, inputs: &Tensor, windows: Windows) -> Result<Tensor> {
    let batch = inputs.dim(0)?;
    let shape = [batch, windows.rows.windows.len(), windows.columns.windows.len(), windows.channels];
    if let Some(planned) = graph.planned(&[inputs], &shape, Needs::default()) {
        return planned;
    }
    let output = tensor(read(inputs, |inputs| windows.means(inputs, batch))?, &shape)?;
    graph.record(windows, &[inputs], &output);
    Ok(output)
}

/// Windows that are averaged, all of the same `divisor`, or each by the number of its pixels.
struct Windows {
    rows: Axis,
    columns: Axis,
    channels: usize,
    divisor: Option<usize>,
}

impl Windows {
    /// Elements of an image, and of its means.
    fn lengths(&self) -> (usize, usize) {
        let windows = self.rows.windows.len() * self.columns.windows.len();
        (self.rows.length * self.columns.length * self.channels, windows * self.channels)
    }

    /// Visits the windows of an image in order: number of the window, its divisor, and where its rows of elements lie.
    fn each(&self, mut visit: impl FnMut(usize, usize, &mut dyn Iterator<Item = std::ops::Range<usize>>)) {
        for (row, rows) in self.rows.windows.iter().enumerate() {
            for (column, columns) in self.columns.windows.iter().enumerate() {
                let number = row * self.columns.windows.len() + column;
                let divisor = self.divisor.unwrap_or(rows.len() * columns.len());
                let mut elements = rows.clone().map(|row| {
                    let first = row * self.columns.length;
                    (first + columns.start) * self.channels..(first + columns.end) * self.channels
                });
                visit(number, divisor, &mut elements);
            }
        }
    }

    fn means(&self, inputs: &[f32], batch: usize) -> Vec<f32> {
        let (image_length, means_length) = self.lengths();
        let mut result = vec![0.0; batch * means_length];
        let images = result.par_chunks_mut(means_length).zip(inputs.par_chunks(image_length));
        images.for_each_init(
            || vec![0.0_f64; self.channels],
            |sums, (result, image)| {
                self.each(|number, divisor, elements| {
                    sums.fill(0.0);
                    for pixel in elements.flat_map(|range| image[range].chunks_exact(self.channels)) {
                        for (sum, value) in sums.iter_mut().zip(pixel) {
                            *sum += f64::from(*value);
                        }
                    }
                    for (mean, sum) in result[number * self.channels..].iter_mut().zip(&*sums) {
                        *mean = (sum / divisor as f64) as f32;
                    }
                });
            },
        );
        result
    }
}

impl Operation for Windows {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let (image_length, means_length) = self.lengths();
        let mut spread = vec![0.0; node.inputs[0].elem_count()];
        let images = spread.par_chunks_mut(image_length).zip(gradient.par_chunks(means_length));
        images.for_each(|(image, means)| {
            self.each(|number, divisor, elements| {
                let means = &means[number * self.channels..][..self.channels];
                for range in elements {
                    for pixel in image[range].chunks_exact_mut(self.channels) {
                        for (sum, mean) in pixel.iter_mut().zip(means) {
                            *sum += mean / divisor as f32;
                        }
                    }
                }
            });
        });
        Ok(vec![Some(spread)])
    }
}
