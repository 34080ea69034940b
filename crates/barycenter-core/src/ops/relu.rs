//! `ReLU`, with gradient 0 at 0 as in `PyTorch` (candle's own has 1 there).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{elements, read, tensor};

/// Elements a task works on.
const PIECE: usize = 16 * 1024;

/// `max(x, 0)`, element by element.
pub fn relu(inputs: &Tensor) -> Result<Tensor> {
    inputs.apply_op1(Relu)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, inputs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut result = elements(inputs, layout)?.to_vec();
        result.par_chunks_mut(PIECE).for_each(|piece| {
            for value in piece {
                // Unlike `max`, this lets a NaN through, so that a broken model shows.
                if *value < 0.0 {
                    *value = 0.0;
                }
            }
        });
        Ok((CpuStorage::F32(result), layout.shape().clone()))
    }

    fn bwd(&self, _inputs: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let mut masked = read(&gradient, <[f32]>::to_vec)?;
        read(result, |result| {
            masked.par_chunks_mut(PIECE).zip(result.par_chunks(PIECE)).for_each(|(masked, result)| {
                for (gradient, result) in masked.iter_mut().zip(result) {
                    *gradient = if *result > 0.0 { *gradient } else { 0.0 };
                }
            });
        })?;
        Ok(Some(tensor(masked, result.dims())?))
    }
}
