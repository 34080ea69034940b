//! Batch normalisation (Ioffe and Szegedy 2015) with what follows it in a residual block: `relu(norm(x) + shortcut)`.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use std::mem::MaybeUninit;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::channels::{Terms, lanes, piece_length, sum_channels};
use super::graph::{Graph, Node, Operation};
use super::moments::Moments;
use super::plan::Needs;
use super::relu::mask;
use super::storage::{read, read_two, tensor};
use crate::memory::written;
use crate::processor::{Processor, for_processor};

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
/// `inputs` and `residual` are [..., channels], `weight` and `bias` (together: `affine`) `[channels]`.
pub fn batch_norm(
    graph: &Graph,
    inputs: &Tensor,
    affine: (&Tensor, &Tensor),
    residual: Option<&Tensor>,
    moments: (&Moments, f64),
    form: BatchNormForm,
) -> Result<Tensor> {
    let channels = moments.0.mean.len();
    if inputs.dims().last() != Some(&channels) || affine.0.dims() != [channels] || affine.1.dims() != [channels] {
        bail!("batch norm of {channels} channels: inputs {:?}, affine {:?}", inputs.dims(), affine.0.dims());
    }
    if let Some(residual) = residual.filter(|residual| residual.dims() != inputs.dims()) {
        bail!("batch norm: inputs {:?}, residual {:?}", inputs.dims(), residual.dims());
    }
    let mut operands = vec![inputs, affine.0, affine.1];
    operands.extend(residual);
    let needs = Needs { in_place: true, ..Needs::default() };
    if let Some(planned) = graph.planned(&operands, inputs.dims(), needs) {
        return planned;
    }
    let operation = BatchNorm::new(moments.0, moments.1, form);
    let result = read_two(affine.0, affine.1, |weight, bias| {
        read(inputs, |inputs| match residual {
            None => Ok(operation.forward(inputs, (weight, bias), None)),
            Some(residual) => read(residual, |residual| operation.forward(inputs, (weight, bias), Some(residual))),
        })?
    })??;
    let output = tensor(result, inputs.dims())?;
    graph.record(operation, &operands, &output);
    Ok(output)
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
    fn new(moments: &Moments, epsilon: f64, form: BatchNormForm) -> Self {
        Self {
            mean: moments.mean.iter().map(|mean| *mean as f32).collect(),
            inverse_deviation: moments.variance.iter().map(|v| (1.0 / (v + epsilon).sqrt()) as f32).collect(),
            form,
        }
    }

    fn channels(&self) -> usize {
        self.mean.len()
    }

    /// The line that normalises, repeated to the length of a piece so that the inner loop is long.
    fn line(&self, (weight, bias): (&[f32], &[f32])) -> Line {
        let scale: Vec<f32> = weight.iter().zip(&self.inverse_deviation).map(|(w, inverse)| w * inverse).collect();
        let shift: Vec<f32> = bias.iter().zip(&self.mean).zip(&scale).map(|((b, mean), s)| b - mean * s).collect();
        let repeats = piece_length(self.channels()) / self.channels();
        Line { scale: scale.repeat(repeats), shift: shift.repeat(repeats) }
    }

    fn forward(&self, inputs: &[f32], affine: (&[f32], &[f32]), residual: Option<&[f32]>) -> Vec<f32> {
        let line = self.line(affine);
        let length = line.scale.len();
        let (relu, line) = (self.form.relu, &line);
        assert!(residual.is_none_or(|residual| residual.len() == inputs.len()), "the caller compared the shapes");
        let normalise_all = |result: &mut [MaybeUninit<f32>]| {
            let pieces = result.par_chunks_mut(length).zip(inputs.par_chunks(length));
            match residual {
                None => pieces.for_each(|(result, inputs)| normalise(line, (inputs, None), relu, result)),
                Some(residual) => pieces.zip(residual.par_chunks(length)).for_each(|((result, inputs), residual)| {
                    normalise(line, (inputs, Some(residual)), relu, result);
                }),
            }
        };
        #[expect(unsafe_code, reason = "results are written piece by piece, without zeros before")]
        // SAFETY: results, inputs and residual have the same length, and no piece is longer than the line.
        unsafe {
            written(inputs.len(), normalise_all)
        }
    }

    /// Sums of `g` and of `g (x - mean)` over all rows, with `g` the gradient before the `ReLU`, which takes the place of
    /// the one after it.
    fn gradient_sums(&self, inputs: &[f32], output: &[f32], gradient: &mut [f32]) -> (Vec<f64>, Vec<f64>) {
        let channels = self.channels();
        let length = piece_length(channels);
        let sums: Vec<[Vec<f32>; 2]> = gradient
            .par_chunks_mut(length)
            .zip(inputs.par_chunks(length))
            .zip(output.par_chunks(length))
            .map(|((gradient, inputs), output)| {
                if self.form.relu {
                    mask(gradient, output);
                }
                piece_sums(gradient, inputs, &self.mean)
            })
            .collect();
        let (mut plain, mut centred) = (vec![0.0_f64; channels], vec![0.0_f64; channels]);
        for [piece_plain, piece_centred] in &sums {
            for (sum, piece) in plain.iter_mut().zip(piece_plain) {
                *sum += f64::from(*piece);
            }
            for (sum, piece) in centred.iter_mut().zip(piece_centred) {
                *sum += f64::from(*piece);
            }
        }
        (plain, centred)
    }

    /// Turns `g` into the gradient of the inputs, `scale * (g - mean(g) - x̂ · mean(g · x̂))`: a line in `g` and `x`. The
    /// means fall away where the moments are given. In a vector of its own where `g` is kept, as the gradient of a residual.
    fn pass_to_inputs(
        &self,
        inputs: &[f32],
        weight: &[f32],
        sums: (&[f64], &[f64]),
        gradient: Gradient<'_>,
    ) -> Vec<f32> {
        let channels = self.channels();
        let rows = (inputs.len() / channels) as f64;
        let (mut of_gradient, mut of_input, mut shift) = (Vec::new(), Vec::new(), Vec::new());
        let moments = self.mean.iter().zip(&self.inverse_deviation);
        for ((weight, (mean, inverse)), (plain, centred)) in weight.iter().zip(moments).zip(sums.0.iter().zip(sums.1)) {
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
        let lines = [of_gradient.as_slice(), &of_input, &shift];
        let kept = match gradient {
            Gradient::Spent(mut gradient) => {
                let pieces = gradient.par_chunks_mut(length).zip(inputs.par_chunks(length));
                pieces.for_each(|(gradient, inputs)| apply(lines, inputs, gradient));
                return gradient;
            }
            Gradient::Kept(gradient) => gradient,
        };
        assert_eq!(kept.len(), inputs.len(), "a gradient has the shape of what it is of");
        let apply_all = |result: &mut [MaybeUninit<f32>]| {
            let pieces = result.par_chunks_mut(length).zip(inputs.par_chunks(length)).zip(kept.par_chunks(length));
            pieces.for_each(|((result, inputs), gradient)| apply_to(lines, inputs, gradient, result));
        };
        #[expect(unsafe_code, reason = "results are written piece by piece, without zeros before")]
        // SAFETY: results, inputs and gradient have the same length, and no piece is longer than the lines.
        unsafe {
            written(inputs.len(), apply_all)
        }
    }
}

/// What becomes of the gradient before the `ReLU`.
enum Gradient<'a> {
    /// Its place may be taken.
    Spent(Vec<f32>),
    /// It is asked for itself.
    Kept(&'a [f32]),
}

/// `result = line(inputs) + residual`, then `ReLU`; every element of `result` is written where nothing else is shorter.
fn normalise(line: &Line, addends: (&[f32], Option<&[f32]>), relu: bool, result: &mut [MaybeUninit<f32>]) {
    for_processor!(
        Processor::detected(),
        normalise_plain,
        (line: &Line, addends: (&[f32], Option<&[f32]>), relu: bool, result: &mut [MaybeUninit<f32>])
    );
}

#[inline(always)]
fn normalise_plain(
    line: &Line,
    (inputs, residual): (&[f32], Option<&[f32]>),
    relu: bool,
    result: &mut [MaybeUninit<f32>],
) {
    let terms = inputs.iter().zip(&line.scale).zip(&line.shift);
    match residual {
        None => {
            for (result, ((x, scale), shift)) in result.iter_mut().zip(terms) {
                result.write(rectified(x * scale + shift, relu));
            }
        }
        Some(residual) => {
            for (result, (((x, scale), shift), residual)) in result.iter_mut().zip(terms.zip(residual)) {
                result.write(rectified(x * scale + shift + residual, relu));
            }
        }
    }
}

/// Unlike `max`, lets a NaN through, so that a broken model shows.
#[inline(always)]
fn rectified(value: f32, relu: bool) -> f32 {
    if relu && value < 0.0 { 0.0 } else { value }
}

/// `gradient = of_gradient · gradient + (of_input · inputs + shift)`, the three lines in that order.
fn apply(lines: [&[f32]; 3], inputs: &[f32], gradient: &mut [f32]) {
    for_processor!(
        Processor::detected(),
        apply_plain,
        (lines: [&[f32]; 3], inputs: &[f32], gradient: &mut [f32])
    );
}

/// As [`apply`], with the result in another place, every element of which is written where nothing else is shorter.
fn apply_to(lines: [&[f32]; 3], inputs: &[f32], gradient: &[f32], result: &mut [MaybeUninit<f32>]) {
    for_processor!(
        Processor::detected(),
        apply_to_plain,
        (lines: [&[f32]; 3], inputs: &[f32], gradient: &[f32], result: &mut [MaybeUninit<f32>])
    );
}

#[inline(always)]
fn apply_to_plain(
    [of_gradient, of_input, shift]: [&[f32]; 3],
    inputs: &[f32],
    gradient: &[f32],
    result: &mut [MaybeUninit<f32>],
) {
    let lines = of_gradient.iter().zip(of_input).zip(shift);
    for ((result, (g, x)), ((a, b), d)) in result.iter_mut().zip(gradient.iter().zip(inputs)).zip(lines) {
        result.write(a * g + (b * x + d));
    }
}

#[inline(always)]
fn apply_plain([of_gradient, of_input, shift]: [&[f32]; 3], inputs: &[f32], gradient: &mut [f32]) {
    let lines = of_gradient.iter().zip(of_input).zip(shift);
    for ((g, x), ((a, b), d)) in gradient.iter_mut().zip(inputs).zip(lines) {
        *g = a * *g + (b * x + d);
    }
}

/// `Σ g` and `Σ g (x - mean)` of a piece, for each channel.
fn piece_sums(gradient: &[f32], inputs: &[f32], means: &[f32]) -> [Vec<f32>; 2] {
    for_processor!(
        Processor::detected(),
        piece_sums_plain,
        (gradient: &[f32], inputs: &[f32], means: &[f32]) -> [Vec<f32>; 2]
    )
}

#[inline(always)]
fn piece_sums_plain(gradient: &[f32], inputs: &[f32], means: &[f32]) -> [Vec<f32>; 2] {
    sum_channels(inputs.len(), means.len(), &GradientTerms { gradient, inputs, means })
}

/// Terms of `Σ g` and `Σ g (x - mean)`.
struct GradientTerms<'a> {
    gradient: &'a [f32],
    inputs: &'a [f32],
    means: &'a [f32],
}

impl Terms<2> for GradientTerms<'_> {
    #[inline(always)]
    fn at<const N: usize>(&self, position: usize, channel: usize) -> [[f32; N]; 2] {
        let gradient = lanes::<N>(self.gradient, position);
        let (inputs, means) = (lanes::<N>(self.inputs, position), lanes::<N>(self.means, channel));
        [*gradient, std::array::from_fn(|lane| gradient[lane] * (inputs[lane] - means[lane]))]
    }
}

impl Operation for BatchNorm {
    fn backward(&self, node: &Node, mut gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let (inputs, weight) = (&node.inputs[0], &node.inputs[1]);
        let (plain, centred) =
            read_two(inputs, &node.output, |inputs, output| self.gradient_sums(inputs, output, &mut gradient))?;
        let of_weight = centred.iter().zip(&self.inverse_deviation);
        let of_weight = of_weight.map(|(sum, inverse)| (sum * f64::from(*inverse)) as f32).collect();
        let of_bias = plain.iter().map(|sum| *sum as f32).collect();
        let wants_residual = node.wanted.get(3) == Some(&true);
        let pass = |gradient: Gradient<'_>| {
            read_two(inputs, weight, |inputs, weight| self.pass_to_inputs(inputs, weight, (&plain, &centred), gradient))
        };
        let (of_inputs, of_residual) = match (node.wanted[0], wants_residual) {
            (true, true) => (Some(pass(Gradient::Kept(&gradient))?), Some(gradient)),
            (true, false) => (Some(pass(Gradient::Spent(gradient))?), None),
            (false, wanted) => (None, wanted.then_some(gradient)),
        };
        let mut gradients = vec![of_inputs, Some(of_weight), Some(of_bias)];
        if node.wanted.len() > 3 {
            gradients.push(of_residual);
        }
        Ok(gradients)
    }
}
