//! The layers that networks are put together from. A layer knows where its parameters lie, not what they are.

use candle_core::Tensor;

use super::layout::Layout;
use super::statistics::Mode;
use super::weights::Weights;
use crate::ops::{self, Affine, BatchNormForm, ConvolutionForm, Moments, Orientation};
use crate::{Error, Result};

/// `PyTorch`'s default.
const EPSILON: f64 = 1e-5;

/// `nn.Linear`.
pub(super) struct Linear {
    weight: usize,
    bias: usize,
}

impl Linear {
    pub(super) fn new(layout: &mut Layout, name: &str, inputs: usize, outputs: usize) -> Self {
        Self {
            weight: layout.parameter(format!("{name}.weight"), vec![outputs, inputs]),
            bias: layout.parameter(format!("{name}.bias"), vec![outputs]),
        }
    }

    pub(super) fn forward(&self, weights: &Weights, inputs: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(weights.graph(), inputs, weights.parameter(self.weight), weights.parameter(self.bias))?)
    }

    /// `relu(linear(inputs))`.
    pub(super) fn forward_relu(&self, weights: &Weights, inputs: &Tensor) -> Result<Tensor> {
        let weight = Affine::new(weights.parameter(self.weight), Orientation::OutputsByInputs);
        let layer = Affine { bias: Some(weights.parameter(self.bias)), relu: true, ..weight };
        Ok(ops::affine(weights.graph(), inputs, layer)?)
    }
}

/// `nn.Conv2d(kernel_size=kernel, stride=stride, padding=kernel // 2)`.
pub(super) struct Convolution {
    weight: usize,
    bias: Option<usize>,
    form: ConvolutionForm,
}

impl Convolution {
    /// With `bias=False`. `channels` are those of the inputs and of the outputs.
    pub(super) fn new(layout: &mut Layout, name: &str, channels: (usize, usize), kernel: usize, stride: usize) -> Self {
        let shape = vec![channels.1, channels.0, kernel, kernel];
        let weight = layout.parameter(format!("{name}.weight"), shape);
        Self { weight, bias: None, form: ConvolutionForm::new(stride, kernel / 2) }
    }

    /// With a bias.
    pub(super) fn biased(
        layout: &mut Layout,
        name: &str,
        channels: (usize, usize),
        kernel: usize,
        stride: usize,
    ) -> Self {
        let plain = Self::new(layout, name, channels, kernel, stride);
        Self { bias: Some(layout.parameter(format!("{name}.bias"), vec![channels.1])), ..plain }
    }

    pub(super) fn forward(&self, weights: &Weights, inputs: &Tensor) -> Result<Tensor> {
        let bias = self.bias.map(|bias| weights.parameter(bias));
        Ok(ops::conv2d(weights.graph(), inputs, weights.parameter(self.weight), bias, self.form)?)
    }
}

/// `nn.BatchNorm2d`, with the `ReLU` and the addition that may follow it.
pub(super) struct BatchNorm {
    weight: usize,
    bias: usize,
    statistics: usize,
}

impl BatchNorm {
    pub(super) fn new(layout: &mut Layout, name: &str, channels: usize) -> Self {
        Self {
            weight: layout.parameter(format!("{name}.weight"), vec![channels]),
            bias: layout.parameter(format!("{name}.bias"), vec![channels]),
            statistics: layout.statistics(name, channels),
        }
    }

    /// `norm(inputs)`.
    pub(super) fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        self.apply(weights, inputs, None, false, mode)
    }

    /// `relu(norm(inputs))`.
    pub(super) fn forward_relu(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        self.apply(weights, inputs, None, true, mode)
    }

    /// `relu(norm(inputs) + shortcut)`.
    pub(super) fn forward_add_relu(
        &self,
        weights: &Weights,
        inputs: &Tensor,
        shortcut: &Tensor,
        mode: &mut Mode<'_>,
    ) -> Result<Tensor> {
        self.apply(weights, inputs, Some(shortcut), true, mode)
    }

    fn apply(
        &self,
        weights: &Weights,
        inputs: &Tensor,
        shortcut: Option<&Tensor>,
        relu: bool,
        mode: &mut Mode<'_>,
    ) -> Result<Tensor> {
        let moments = match mode {
            Mode::Evaluate(statistics) => statistics.moments(self.statistics),
            Mode::Train | Mode::Recompute(_) if weights.graph().is_planning() => Moments::unknown(inputs),
            Mode::Train | Mode::Recompute(_) => batch_moments(inputs)?,
        };
        if let Mode::Recompute(sum) = mode {
            sum.add(self.statistics, &moments);
        }
        let form = BatchNormForm { from_batch: !matches!(mode, Mode::Evaluate(_)), relu };
        let affine = (weights.parameter(self.weight), weights.parameter(self.bias));
        Ok(ops::batch_norm(weights.graph(), inputs, affine, shortcut, (&moments, EPSILON), form)?)
    }
}

fn batch_moments(inputs: &Tensor) -> Result<Moments> {
    let moments = Moments::of(inputs)?;
    if moments.count < 2 {
        return Err(Error::input("batch norm needs more than one value a channel: use a larger batch"));
    }
    Ok(moments)
}
