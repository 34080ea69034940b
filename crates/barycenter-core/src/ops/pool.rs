//! Global average pooling.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::storage::{read, tensor};

/// Mean over height and width: [batch, height, width, channels] gives [batch, channels]. Sums are taken in `f64`.
pub fn global_average_pool(graph: &Graph, inputs: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = inputs.dims4()?;
    let pixels = height * width;
    let mut result = vec![0.0; batch * channels];
    read(inputs, |inputs| {
        result.par_chunks_mut(channels).zip(inputs.par_chunks(pixels * channels)).for_each(|(means, image)| {
            let mut sums = vec![0.0_f64; channels];
            for pixel in image.chunks_exact(channels) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += f64::from(*value);
                }
            }
            for (mean, sum) in means.iter_mut().zip(sums) {
                *mean = (sum / pixels as f64) as f32;
            }
        });
    })?;
    let output = tensor(result, &[batch, channels])?;
    graph.record(GlobalAveragePool { pixels, channels }, &[inputs], &output);
    Ok(output)
}

struct GlobalAveragePool {
    pixels: usize,
    channels: usize,
}

impl Operation for GlobalAveragePool {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let mut spread = vec![0.0; node.inputs[0].elem_count()];
        let images = spread.par_chunks_mut(self.pixels * self.channels).zip(gradient.par_chunks(self.channels));
        images.for_each(|(image, means)| {
            let share: Vec<f32> = means.iter().map(|mean| mean / self.pixels as f32).collect();
            for pixel in image.chunks_exact_mut(self.channels) {
                pixel.copy_from_slice(&share);
            }
        });
        Ok(vec![Some(spread)])
    }
}
