//! Multi-layer perceptron: `nn.Sequential(Linear, ReLU, Linear, ReLU, ..., Linear)`.

use candle_core::Tensor;

use super::layers::Linear;
use super::layout::{Layout, TensorSpec};
use super::{MOST_PARAMETERS, Mode, Network, Weights, check_bounds, plan};
use crate::{Error, Result};

/// Widest layer.
const MOST_FEATURES: usize = 1 << 20;
/// Most widths.
const MOST_LAYERS: usize = 256;

pub(super) struct Mlp {
    features: Vec<usize>,
    layers: Vec<Linear>,
    tensors: Vec<TensorSpec>,
}

impl Mlp {
    /// Widths of the input, of each hidden layer and of the output.
    pub(super) fn new(features: &[usize]) -> Result<Self> {
        check_bounds("number of mlp features", features.len(), 2..=MOST_LAYERS)?;
        for width in features {
            check_bounds("mlp feature", *width, 1..=MOST_FEATURES)?;
        }
        let parameters: usize = features.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum();
        check_bounds("number of mlp parameters", parameters, 1..=MOST_PARAMETERS)?;
        let mut layout = Layout::default();
        // Every second module of the Sequential is a ReLU, which has no tensors.
        let pairs = features.windows(2).enumerate();
        let layers = pairs.map(|(i, pair)| Linear::new(&mut layout, &(2 * i).to_string(), pair[0], pair[1])).collect();
        Ok(Self { features: features.to_vec(), layers, tensors: layout.finish() })
    }
}

impl Network for Mlp {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, _mode: &mut Mode<'_>) -> Result<Tensor> {
        let mut x = inputs.clone();
        let (last, hidden) = self.layers.split_last().expect("at least two widths were asked for");
        for layer in hidden {
            x = layer.forward_relu(weights, &x)?;
        }
        last.forward(weights, &x)
    }

    fn outputs(&self) -> usize {
        self.features[self.features.len() - 1]
    }

    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        if sample_shape == [self.features[0]] {
            return Ok(());
        }
        let message = format!("an input has shape {sample_shape:?}, the mlp takes [{}]", self.features[0]);
        Err(Error::input(message))
    }

    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize {
        plan::activation_bytes(self, sample_shape, batch_size)
    }
}
