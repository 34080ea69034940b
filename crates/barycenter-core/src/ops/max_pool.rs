//! Maximum over windows.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::plan::Needs;
use super::pool::{Axis, PoolForm};
use super::storage::{read, tensor};

/// Widest window: the place of a maximum inside it is kept in a byte.
const WIDEST: usize = 16;

/// `PyTorch`'s `max_pool2d`: the largest value of each square window; the padding never wins.
/// [batch, height, width, channels] gives [batch, out height, out width, channels].
///
/// Of equal values the first in row order gets the gradient; a NaN beats every number, so that a broken model shows.
pub fn max_pool2d(graph: &Graph, inputs: &Tensor, form: PoolForm) -> Result<Tensor> {
    let (batch, height, width, channels) = inputs.dims4()?;
    if form.kernel > WIDEST {
        bail!("max pooling with kernel {}, at most {WIDEST} is allowed", form.kernel);
    }
    let (rows, columns) = (form.axis(height)?, form.axis(width)?);
    let shape = [batch, rows.windows.len(), columns.windows.len(), channels];
    let count = shape.iter().product();
    let needs = Needs { kept: count as u64, ..Needs::default() };
    if let Some(planned) = graph.planned(&[inputs], &shape, needs) {
        return planned;
    }
    let mut operation = MaxPool { rows, columns, channels, kernel: form.kernel, places: vec![0; count] };
    let mut places = std::mem::take(&mut operation.places);
    let maxima = read(inputs, |inputs| operation.forward(inputs, &mut places))?;
    operation.places = places;
    let output = tensor(maxima, &shape)?;
    graph.record(operation, &[inputs], &output);
    Ok(output)
}

struct MaxPool {
    rows: Axis,
    columns: Axis,
    channels: usize,
    kernel: usize,
    /// For each output, `row * kernel + column` of its maximum inside the part of the window that lies in the image.
    places: Vec<u8>,
}

impl MaxPool {
    /// Elements of an image, and of its maxima.
    fn lengths(&self) -> (usize, usize) {
        let windows = self.rows.windows.len() * self.columns.windows.len();
        (self.rows.length * self.columns.length * self.channels, windows * self.channels)
    }

    fn forward(&self, inputs: &[f32], places: &mut [u8]) -> Vec<f32> {
        let (image_length, maxima_length) = self.lengths();
        let mut result = vec![0.0; places.len()];
        let images = result.par_chunks_mut(maxima_length).zip(places.par_chunks_mut(maxima_length));
        images.zip(inputs.par_chunks(image_length)).for_each(|((maxima, places), image)| {
            let mut outputs = maxima.chunks_exact_mut(self.channels).zip(places.chunks_exact_mut(self.channels));
            for rows in &self.rows.windows {
                for columns in &self.columns.windows {
                    let (maxima, places) = outputs.next().expect("an output for each window");
                    self.window(image, (rows, columns), maxima, places);
                }
            }
        });
        result
    }

    /// The maxima of one window, channel by channel.
    fn window(
        &self,
        image: &[f32],
        (rows, columns): (&std::ops::Range<usize>, &std::ops::Range<usize>),
        maxima: &mut [f32],
        places: &mut [u8],
    ) {
        maxima.copy_from_slice(self.pixel(image, rows.start, columns.start));
        for row in rows.clone() {
            for column in columns.clone() {
                let place = ((row - rows.start) * self.kernel + column - columns.start) as u8;
                let pixel = self.pixel(image, row, column);
                for ((maximum, found), value) in maxima.iter_mut().zip(places.iter_mut()).zip(pixel) {
                    let larger = *value > *maximum || value.is_nan();
                    *maximum = if larger { *value } else { *maximum };
                    *found = if larger { place } else { *found };
                }
            }
        }
    }

    fn pixel<'a>(&self, image: &'a [f32], row: usize, column: usize) -> &'a [f32] {
        &image[(row * self.columns.length + column) * self.channels..][..self.channels]
    }
}

impl Operation for MaxPool {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let (image_length, maxima_length) = self.lengths();
        let mut spread = vec![0.0; node.inputs[0].elem_count()];
        let images = spread.par_chunks_mut(image_length).zip(gradient.par_chunks(maxima_length));
        images.zip(self.places.par_chunks(maxima_length)).for_each(|((image, gradient), places)| {
            let mut outputs = gradient.chunks_exact(self.channels).zip(places.chunks_exact(self.channels));
            for rows in &self.rows.windows {
                for columns in &self.columns.windows {
                    let (gradient, places) = outputs.next().expect("an output for each window");
                    for (channel, (gradient, place)) in gradient.iter().zip(places).enumerate() {
                        let (row, column) = (usize::from(*place) / self.kernel, usize::from(*place) % self.kernel);
                        let pixel = (rows.start + row) * self.columns.length + columns.start + column;
                        image[pixel * self.channels + channel] += gradient;
                    }
                }
            }
        });
        Ok(vec![Some(spread)])
    }
}
