//! Batch normalisation (Ioffe and Szegedy 2015) with what follows it in a residual block: `relu(norm(x) + shortcut)`.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::channels::{Terms, lanes, piece_length, sum_channels};
use super::moments::Moments;
use super::storage::{elements, read, tensor};

/// Which moments normalise, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNormForm {
    /// The moments are those of the inputs themselves, so the gradient passes through them.
    pub from_batch: bool,
    /// A `ReLU` follows.
    pub relu: bool,
}

/// `weight * (inputs - mean) / sqrt(variance + epsilon) + bias`, then `+ residual`, then `ReLU` where the form says so.
///
/// `inputs` and `residual` are [..., channels], `weight` and `bias` [channels].
pub fn batch_norm(
    inputs: &Tensor,
    affine: (&Tensor, &Tensor),
    residual: Option<&Tensor>,
    moments: &Moments,
    epsilon: f64,
    form: BatchNormForm,
) -> Result<Tensor> {
    let op = BatchNorm {
        mean: moments.mean.iter().map(|mean| *mean as f32).collect(),
        inverse_deviation: moments.variance.iter().map(|v| (1.0 / (v + epsilon).sqrt()) as f32).collect(),
        form,
    };
    let affine = Tensor::stack(&[affine.0, affine.1], 0)?;
    match residual {
        Some(residual) => inputs.apply_op3(&affine, residual, op),
        None => inputs.apply_op2(&affine, op),
    }
}

struct BatchNorm {
    mean: Vec<f32>,
    inverse_deviation: Vec<f32>,
    form: BatchNormForm,
}

/// `out = scale * x + shift`, one pair a channel.
struct Line {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl BatchNorm {
    fn channels(&self) -> usize {
        self.mean.len()
    }

    fn check(&self, inputs: &Layout, affine: &Layout) -> Result<()> {
        let channels = self.channels();
        if inputs.dims().last() != Some(&channels) || affine.dims() != [2, channels] {
            bail!("batch norm of {channels} channels: inputs {:?}, affine {:?}", inputs.dims(), affine.dims());
        }
        Ok(())
    }

    /// The line that normalises, repeated to the length of a piece so that the inner loop is long.
    fn line(&self, affine: &[f32]) -> Line {
        let (weight, bias) = affine.split_at(self.channels());
        let scale: Vec<f32> = weight.iter().zip(&self.inverse_deviation).map(|(w, inverse)| w * inverse).collect();
        let shift: Vec<f32> = bias.iter().zip(&self.mean).zip(&scale).map(|((b, mean), s)| b - mean * s).collect();
        let repeats = piece_length(self.channels()) / self.channels();
        Line { scale: scale.repeat(repeats), shift: shift.repeat(repeats) }
    }

    fn forward(&self, inputs: &[f32], affine: &[f32], residual: Option<&[f32]>) -> Vec<f32> {
        let line = self.line(affine);
        let length = line.scale.len();
        let mut result = vec![0.0; inputs.len()];
        let relu = self.form.relu;
        let pieces = result.par_chunks_mut(length).zip(inputs.par_chunks(length));
        match residual {
            None => pieces.for_each(|(result, inputs)| {
                let terms = inputs.iter().zip(&line.scale).zip(&line.shift);
                for (result, ((x, scale), shift)) in result.iter_mut().zip(terms) {
                    *result = rectified(x * scale + shift, relu);
                }
            }),
            Some(residual) => pieces.zip(residual.par_chunks(length)).for_each(|((result, inputs), residual)| {
                let terms = inputs.iter().zip(&line.scale).zip(&line.shift).zip(residual);
                for (result, (((x, scale), shift), residual)) in result.iter_mut().zip(terms) {
                    *result = rectified(x * scale + shift + residual, relu);
                }
            }),
        }
        result
    }

    /// Gradients of inputs, of affine, and of the sum before the `ReLU` (which is that of the residual).
    fn backward(&self, inputs: &[f32], affine: &[f32], result: &[f32], gradient: &[f32]) -> Gradients {
        let channels = self.channels();
        let length = piece_length(channels);
        let mut before_relu = gradient.to_vec();
        let sums: Vec<[Vec<f32>; 2]> = before_relu
            .par_chunks_mut(length)
            .zip(inputs.par_chunks(length))
            .zip(result.par_chunks(length))
            .map(|((gradient, inputs), result)| {
                if self.form.relu {
                    for (gradient, result) in gradient.iter_mut().zip(result) {
                        *gradient = if *result > 0.0 { *gradient } else { 0.0 };
                    }
                }
                sum_channels(inputs.len(), channels, &GradientTerms { gradient, inputs, means: &self.mean })
            })
            .collect();
        let (mut plain, mut centred) = (vec![0.0_f64; channels], vec![0.0_f64; channels]);
        for [piece_plain, piece_centred] in &sums {
            for channel in 0..channels {
                plain[channel] += f64::from(piece_plain[channel]);
                centred[channel] += f64::from(piece_centred[channel]);
            }
        }
        let inputs = self.input_gradient(inputs, affine, &before_relu, (&plain, &centred));
        let weight =
            centred.iter().zip(&self.inverse_deviation).map(|(sum, inverse)| (sum * f64::from(*inverse)) as f32);
        let affine = weight.chain(plain.iter().map(|sum| *sum as f32)).collect();
        Gradients { inputs, affine, before_relu }
    }

    /// `scale * (g - mean(g) - x̂ · mean(g · x̂))`, as a line in `g` and `x`; without the means where the moments are given.
    fn input_gradient(&self, inputs: &[f32], affine: &[f32], gradient: &[f32], sums: (&[f64], &[f64])) -> Vec<f32> {
        let channels = self.channels();
        let rows = (inputs.len() / channels) as f64;
        let (mut of_gradient, mut of_input, mut shift) = (Vec::new(), Vec::new(), Vec::new());
        let moments = self.mean.iter().zip(&self.inverse_deviation);
        for ((weight, (mean, inverse)), (plain, centred)) in affine.iter().zip(moments).zip(sums.0.iter().zip(sums.1)) {
            let inverse = f64::from(*inverse);
            let scale = f64::from(*weight) * inverse;
            let (slope, offset) = if self.form.from_batch {
                let slope = -scale * inverse * inverse * centred / rows;
                (slope, -scale * plain / rows - slope * f64::from(*mean))
            } else {
                (0.0, 0.0)
            };
            of_gradient.push(scale as f32);
            of_input.push(slope as f32);
            shift.push(offset as f32);
        }
        let length = piece_length(channels);
        let repeats = length / channels;
        let [of_gradient, of_input, shift] = [of_gradient, of_input, shift].map(|line| line.repeat(repeats));
        let mut product = vec![0.0; inputs.len()];
        let pieces = product.par_chunks_mut(length).zip(inputs.par_chunks(length)).zip(gradient.par_chunks(length));
        pieces.for_each(|((product, inputs), gradient)| {
            let lines = of_gradient.iter().zip(&of_input).zip(&shift);
            let terms = inputs.iter().zip(gradient).zip(lines);
            for (product, ((x, g), ((a, b), d))) in product.iter_mut().zip(terms) {
                *product = a * g + (b * x + d);
            }
        });
        product
    }
}

/// Unlike `max`, lets a NaN through, so that a broken model shows.
#[inline]
fn rectified(value: f32, relu: bool) -> f32 {
    if relu && value < 0.0 { 0.0 } else { value }
}

struct Gradients {
    inputs: Vec<f32>,
    affine: Vec<f32>,
    before_relu: Vec<f32>,
}

/// Terms of `Σ g` and `Σ g (x - mean)`.
struct GradientTerms<'a> {
    gradient: &'a [f32],
    inputs: &'a [f32],
    means: &'a [f32],
}

impl Terms<2> for GradientTerms<'_> {
    #[inline]
    fn at<const N: usize>(&self, position: usize, channel: usize) -> [[f32; N]; 2] {
        let gradient = lanes::<N>(self.gradient, position);
        let (inputs, means) = (lanes::<N>(self.inputs, position), lanes::<N>(self.means, channel));
        [*gradient, std::array::from_fn(|lane| gradient[lane] * (inputs[lane] - means[lane]))]
    }
}

impl CustomOp2 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        inputs: &CpuStorage,
        inputs_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.check(inputs_layout, affine_layout)?;
        let result = self.forward(elements(inputs, inputs_layout)?, elements(affine, affine_layout)?, None);
        Ok((CpuStorage::F32(result), inputs_layout.shape().clone()))
    }

    fn bwd(
        &self,
        inputs: &Tensor,
        affine: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradients = self.read_and_backward(inputs, affine, result, gradient)?;
        Ok((Some(tensor(gradients.inputs, inputs.dims())?), Some(tensor(gradients.affine, affine.dims())?)))
    }
}

impl BatchNorm {
    fn read_and_backward(
        &self,
        inputs: &Tensor,
        affine: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<Gradients> {
        let gradient = gradient.contiguous()?;
        read(inputs, |inputs| {
            read(affine, |affine| {
                read(result, |result| read(&gradient, |gradient| self.backward(inputs, affine, result, gradient)))
            })
        })???
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm-residual"
    }

    fn cpu_fwd(
        &self,
        inputs: &CpuStorage,
        inputs_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.check(inputs_layout, affine_layout)?;
        if residual_layout.dims() != inputs_layout.dims() {
            bail!("batch norm: inputs {:?}, residual {:?}", inputs_layout.dims(), residual_layout.dims());
        }
        let residual = elements(residual, residual_layout)?;
        let result = self.forward(elements(inputs, inputs_layout)?, elements(affine, affine_layout)?, Some(residual));
        Ok((CpuStorage::F32(result), inputs_layout.shape().clone()))
    }

    fn bwd(
        &self,
        inputs: &Tensor,
        affine: &Tensor,
        _residual: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradients = self.read_and_backward(inputs, affine, result, gradient)?;
        Ok((
            Some(tensor(gradients.inputs, inputs.dims())?),
            Some(tensor(gradients.affine, affine.dims())?),
            Some(tensor(gradients.before_relu, inputs.dims())?),
        ))
    }
}
