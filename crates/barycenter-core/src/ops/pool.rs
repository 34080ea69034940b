//! Global average pooling.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{elements, read, tensor};

/// Mean over height and width: [batch, height, width, channels] gives [batch, channels]. Sums are taken in `f64`.
pub fn global_average_pool(inputs: &Tensor) -> Result<Tensor> {
    inputs.apply_op1(GlobalAveragePool)
}

struct GlobalAveragePool;

impl CustomOp1 for GlobalAveragePool {
    fn name(&self) -> &'static str {
        "global-average-pool"
    }

    fn cpu_fwd(&self, inputs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = layout.shape().dims4()?;
        let inputs = elements(inputs, layout)?;
        let pixels = height * width;
        let mut result = vec![0.0; batch * channels];
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
        Ok((CpuStorage::F32(result), Shape::from((batch, channels))))
    }

    fn bwd(&self, inputs: &Tensor, _result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, channels) = inputs.dims4()?;
        let pixels = height * width;
        let gradient = gradient.contiguous()?;
        let mut spread = vec![0.0; inputs.elem_count()];
        read(&gradient, |gradient| {
            let images = spread.par_chunks_mut(pixels * channels).zip(gradient.par_chunks(channels));
            images.for_each(|(image, means)| {
                let share: Vec<f32> = means.iter().map(|mean| mean / pixels as f32).collect();
                for pixel in image.chunks_exact_mut(channels) {
                    pixel.copy_from_slice(&share);
                }
            });
        })?;
        Ok(Some(tensor(spread, inputs.dims())?))
    }
}
