//! `y = f(x) Wᵀ + b + residual`: the linear layer with what stands before and after it in a network.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use candle_core::{Result, Tensor, bail};

use rayon::prelude::*;

use super::activation::Activation;
use super::channels::column_sums;
use super::graph::{Graph, Node, Operation};
use super::matrix::{Matrix, all_threads, product};
use super::plan::Needs;
use super::relu::mask;
use super::storage::{read, read_two, tensor};
use crate::processor::{Processor, for_processor};

/// Elements a task works on.
const PIECE: usize = 16 * 1024;

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// [outputs, inputs], as in `nn.Linear`; a kernel [outputs, channels, height, width] counts as one row an output.
    OutputsByInputs,
    /// [inputs, outputs], as in GPT-2's `Conv1D`.
    InputsByOutputs,
}

/// A linear layer's parameters, and what is fused with it.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// The matrix.
    pub weight: &'a Tensor,
    /// How it lies in memory.
    pub orientation: Orientation,
    /// Added to every row of the output: `[outputs]`.
    pub bias: Option<&'a Tensor>,
    /// Applied to the inputs first. Its values are not kept: the backward pass computes them again along with the
    /// derivative, which has the same exponential in it.
    pub activation: Option<Activation>,
    /// Added to the output: [rows, outputs].
    pub residual: Option<&'a Tensor>,
    /// A `ReLU` follows.
    pub relu: bool,
}

impl<'a> Affine<'a> {
    /// A product with a weight, alone.
    pub fn new(weight: &'a Tensor, orientation: Orientation) -> Self {
        Self { weight, orientation, bias: None, activation: None, residual: None, relu: false }
    }
}

/// Linear layer: `inputs` [batch, in], `weight` [out, in], `bias` `[out]` give [batch, out].
pub fn linear(graph: &Graph, inputs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    affine(graph, inputs, Affine { bias: Some(bias), ..Affine::new(weight, Orientation::OutputsByInputs) })
}

/// `relu(activation(inputs) · weight + bias + residual)`, each part where the layer has it: [rows, in] give [rows, out].
pub fn affine(graph: &Graph, inputs: &Tensor, layer: Affine<'_>) -> Result<Tensor> {
    let operation = Linear::new(inputs, &layer)?;
    let mut operands = vec![inputs, layer.weight];
    operands.extend(layer.bias);
    operands.extend(layer.residual);
    // The values of an activation are made anew while going backward.
    let scratch = if layer.activation.is_some() { size_of::<f32>() * inputs.elem_count() } else { 0 };
    let needs = Needs { scratch: scratch as u64, ..Needs::default() };
    if let Some(planned) = graph.planned(&operands, &[operation.rows, operation.outputs], needs) {
        return planned;
    }
    let mut result = read_two(inputs, layer.weight, |inputs, weight| {
        let activated = layer.activation.map(|activation| apply(activation, inputs));
        let inputs = activated.as_deref().unwrap_or(inputs);
        let left = Matrix::new(inputs, operation.rows, operation.width);
        product(left, operation.weight(weight), all_threads())
    })?;
    operation.follow(&layer, &mut result)?;
    let output = tensor(result, &[operation.rows, operation.outputs])?;
    graph.record(operation, &operands, &output);
    Ok(output)
}

/// Adds a row of `bias` to every row, then `residual`, and puts 0 in the place of negative values where a `ReLU` follows; a
/// NaN stays one, so that a broken model shows.
fn add_and_rectify(bias: Option<&[f32]>, residual: Option<&[f32]>, relu: bool, result: &mut [f32]) {
    for_processor!(
        Processor::detected(),
        add_and_rectify_plain,
        (bias: Option<&[f32]>, residual: Option<&[f32]>, relu: bool, result: &mut [f32])
    );
}

#[inline(always)]
fn add_and_rectify_plain(bias: Option<&[f32]>, residual: Option<&[f32]>, relu: bool, result: &mut [f32]) {
    if let Some(bias) = bias {
        for row in result.chunks_exact_mut(bias.len()) {
            for (value, bias) in row.iter_mut().zip(bias) {
                *value += bias;
            }
        }
    }
    if let Some(residual) = residual {
        for (value, residual) in result.iter_mut().zip(residual) {
            *value += residual;
        }
    }
    if relu {
        for value in result {
            *value = if *value < 0.0 { 0.0 } else { *value };
        }
    }
}

fn apply(activation: Activation, inputs: &[f32]) -> Vec<f32> {
    let mut values = vec![0.0; inputs.len()];
    let pieces = values.par_chunks_mut(PIECE).zip(inputs.par_chunks(PIECE));
    pieces.for_each(|(values, inputs)| activation.apply(inputs, values));
    values
}

struct Linear {
    rows: usize,
    width: usize,
    outputs: usize,
    orientation: Orientation,
    activation: Option<Activation>,
    has_bias: bool,
    has_residual: bool,
    relu: bool,
}

impl Linear {
    fn new(inputs: &Tensor, layer: &Affine<'_>) -> Result<Self> {
        let (rows, width) = inputs.dims2()?;
        let dims = layer.weight.dims();
        let first = dims.first().copied().unwrap_or(0);
        let others: usize = dims.iter().skip(1).product();
        let (weight_width, outputs) = match layer.orientation {
            Orientation::OutputsByInputs => (others, first),
            Orientation::InputsByOutputs => (first, others),
        };
        if width != weight_width || layer.bias.is_some_and(|bias| bias.dims() != [outputs]) {
            let bias = layer.bias.map(Tensor::dims);
            bail!("linear: inputs {rows}x{width}, weight {dims:?}, bias {bias:?}");
        }
        if let Some(residual) = layer.residual.filter(|residual| residual.dims() != [rows, outputs]) {
            bail!("linear: output {rows}x{outputs}, residual {:?}", residual.dims());
        }
        let Affine { orientation, activation, relu, .. } = *layer;
        let (has_bias, has_residual) = (layer.bias.is_some(), layer.residual.is_some());
        Ok(Self { rows, width, outputs, orientation, activation, has_bias, has_residual, relu })
    }

    /// What comes after the product: bias, residual and `ReLU`.
    fn follow(&self, layer: &Affine<'_>, result: &mut [f32]) -> Result<()> {
        let length = PIECE.div_ceil(self.outputs) * self.outputs;
        let mut follow = |bias: Option<&[f32]>, residual: Option<&[f32]>| {
            result.par_chunks_mut(length).enumerate().for_each(|(piece, result)| {
                let residual = residual.map(|residual| &residual[piece * length..][..result.len()]);
                add_and_rectify(bias, residual, self.relu, result);
            });
        };
        match (layer.bias, layer.residual) {
            (None, None) => {
                if self.relu {
                    follow(None, None);
                }
                Ok(())
            }
            (Some(bias), None) => read(bias, |bias| follow(Some(bias), None)),
            (None, Some(residual)) => read(residual, |residual| follow(None, Some(residual))),
            (Some(bias), Some(residual)) => {
                read_two(bias, residual, |bias, residual| follow(Some(bias), Some(residual)))
            }
        }
    }

    /// The weight as [in, out].
    fn weight<'a>(&self, elements: &'a [f32]) -> Matrix<'a> {
        match self.orientation {
            Orientation::OutputsByInputs => Matrix::new(elements, self.outputs, self.width).transposed(),
            Orientation::InputsByOutputs => Matrix::new(elements, self.width, self.outputs),
        }
    }

    /// Gradient of what entered the product.
    fn product_gradient(&self, weight: &Tensor, gradient: &[f32]) -> Result<Vec<f32>> {
        read(weight, |weight| {
            let gradient = Matrix::new(gradient, self.rows, self.outputs);
            product(gradient, self.weight(weight).transposed(), all_threads())
        })
    }

    /// Gradient of the weight, from what entered the product.
    fn weight_gradient(&self, entered: &[f32], gradient: &[f32]) -> Vec<f32> {
        let entered = Matrix::new(entered, self.rows, self.width);
        let gradient = Matrix::new(gradient, self.rows, self.outputs);
        let (left, right) = match self.orientation {
            Orientation::OutputsByInputs => (gradient.transposed(), entered),
            Orientation::InputsByOutputs => (entered.transposed(), gradient),
        };
        product(left, right, all_threads())
    }
}

impl Operation for Linear {
    fn backward(&self, node: &Node, mut gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        if self.relu {
            read(&node.output, |output| {
                let pieces = gradient.par_chunks_mut(PIECE).zip(output.par_chunks(PIECE));
                pieces.for_each(|(gradient, output)| mask(gradient, output));
            })?;
        }
        let of_product = || self.product_gradient(&node.inputs[1], &gradient);
        let mut of_inputs = node.wanted[0].then(of_product).transpose()?;
        let of_weight = read(&node.inputs[0], |inputs| match (self.activation, &mut of_inputs) {
            (Some(activation), Some(of_inputs)) => {
                let mut values = vec![0.0; inputs.len()];
                let pieces = values.par_chunks_mut(PIECE).zip(of_inputs.par_chunks_mut(PIECE));
                pieces.zip(inputs.par_chunks(PIECE)).for_each(|((values, gradient), inputs)| {
                    activation.apply_and_derive(inputs, values, gradient);
                });
                node.wanted[1].then(|| self.weight_gradient(&values, &gradient))
            }
            (Some(activation), None) => {
                node.wanted[1].then(|| self.weight_gradient(&apply(activation, inputs), &gradient))
            }
            (None, _) => node.wanted[1].then(|| self.weight_gradient(inputs, &gradient)),
        })?;
        let mut gradients = vec![of_inputs, of_weight];
        if self.has_bias {
            gradients.push(node.wanted[2].then(|| column_sums(&gradient, self.outputs)));
        }
        if self.has_residual {
            let wanted = node.wanted.last() == Some(&true);
            gradients.push(wanted.then_some(gradient));
        }
        Ok(gradients)
    }
}
