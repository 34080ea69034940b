//! `y = x Wᵀ + b`.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::matrix::{Matrix, Write, all_threads, multiply};
use super::storage::{elements, read, tensor};

/// Linear layer: `inputs` [batch, in], `weight` [out, in], `bias` [out] give [batch, out].
pub fn linear(inputs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let op = Linear { input_gradient: inputs.track_op() };
    inputs.contiguous()?.apply_op3(weight, bias, op)
}

struct Linear {
    /// Whether anybody asks for the gradient of the inputs.
    input_gradient: bool,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        inputs: &CpuStorage,
        inputs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, width) = inputs_layout.shape().dims2()?;
        let (outputs, weight_width) = weight_layout.shape().dims2()?;
        if width != weight_width || bias_layout.dims() != [outputs] {
            bail!("linear: inputs {batch}x{width}, weight {outputs}x{weight_width}, bias {:?}", bias_layout.dims());
        }
        let (inputs, weight) = (elements(inputs, inputs_layout)?, elements(weight, weight_layout)?);
        let mut result = elements(bias, bias_layout)?.repeat(batch);
        let transposed_weight = Matrix::new(weight, outputs, width).transposed();
        let inputs = Matrix::new(inputs, batch, width);
        multiply(&mut result, inputs, transposed_weight, Write::Accumulate, all_threads());
        Ok((CpuStorage::F32(result), Shape::from((batch, outputs))))
    }

    fn bwd(
        &self,
        inputs: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (batch, width) = inputs.dims2()?;
        let outputs = weight.dim(0)?;
        let input_gradient = if self.input_gradient {
            let mut product = vec![0.0; batch * width];
            read(&gradient, |gradient| {
                read(weight, |weight| {
                    let (left, right) = (Matrix::new(gradient, batch, outputs), Matrix::new(weight, outputs, width));
                    multiply(&mut product, left, right, Write::Replace, all_threads());
                })
            })??;
            Some(tensor(product, &[batch, width])?)
        } else {
            None
        };
        let mut weight_gradient = vec![0.0; outputs * width];
        read(&gradient, |gradient| {
            read(inputs, |inputs| {
                let left = Matrix::new(gradient, batch, outputs).transposed();
                let right = Matrix::new(inputs, batch, width);
                multiply(&mut weight_gradient, left, right, Write::Replace, all_threads());
            })
        })??;
        let bias_gradient = read(&gradient, |gradient| column_sums(gradient, outputs))?;
        Ok((
            input_gradient,
            Some(tensor(weight_gradient, &[outputs, width])?),
            Some(tensor(bias_gradient, &[outputs])?),
        ))
    }
}

/// Sum of each column of a row-major matrix, each summed in `f64` from the first row to the last.
fn column_sums(rows: &[f32], columns: usize) -> Vec<f32> {
    const COLUMNS_A_PIECE: usize = 64;
    let mut sums = vec![0.0_f32; columns];
    sums.par_chunks_mut(COLUMNS_A_PIECE).enumerate().for_each(|(piece, sums)| {
        let mut exact = vec![0.0_f64; sums.len()];
        for row in rows.chunks_exact(columns) {
            for (sum, value) in exact.iter_mut().zip(&row[piece * COLUMNS_A_PIECE..]) {
                *sum += f64::from(*value);
            }
        }
        for (sum, exact) in sums.iter_mut().zip(exact) {
            *sum = exact as f32;
        }
    });
    sums
}
