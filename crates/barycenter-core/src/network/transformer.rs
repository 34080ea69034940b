//! The pre-norm transformer block that Vision Transformers, CLIP and GPT-2 share, and the layers it is put together from.
//!
//! Dropout is the identity: a fit of n coefficients needs no such noise, and checkpoints hold nothing of it.

use candle_core::Tensor;

use super::layout::Layout;
use super::weights::Weights;
use crate::Result;
use crate::ops::{self, Activation, Affine, AttentionForm, Orientation};

/// `nn.LayerNorm(width, eps=epsilon)`.
pub(super) struct LayerNorm {
    weight: usize,
    bias: usize,
    epsilon: f64,
}

impl LayerNorm {
    pub(super) fn new(layout: &mut Layout, name: &str, width: usize, epsilon: f64) -> Self {
        Self {
            weight: layout.parameter(format!("{name}.weight"), vec![width]),
            bias: layout.parameter(format!("{name}.bias"), vec![width]),
            epsilon,
        }
    }

    pub(super) fn forward(&self, weights: &Weights, inputs: &Tensor) -> Result<Tensor> {
        let affine = (weights.parameter(self.weight), weights.parameter(self.bias));
        Ok(ops::layer_norm(weights.graph(), inputs, affine, self.epsilon)?)
    }
}

/// A product with a weight, with a bias where the layer has one.
pub(super) struct Projection {
    weight: usize,
    bias: Option<usize>,
    orientation: Orientation,
}

/// Widths of the input and of the output.
type Widths = (usize, usize);

impl Projection {
    /// `nn.Linear(inputs, outputs)`.
    pub(super) fn linear(layout: &mut Layout, name: &str, widths: Widths) -> Self {
        Self::named(layout, [format!("{name}.weight"), format!("{name}.bias")], widths, Orientation::OutputsByInputs)
    }

    /// Weight and bias under these names.
    pub(super) fn named(layout: &mut Layout, names: [String; 2], widths: Widths, orientation: Orientation) -> Self {
        let [weight, bias] = names;
        let shape = match orientation {
            Orientation::OutputsByInputs => vec![widths.1, widths.0],
            Orientation::InputsByOutputs => vec![widths.0, widths.1],
        };
        let weight = layout.parameter(weight, shape);
        Self { weight, bias: Some(layout.parameter(bias, vec![widths.1])), orientation }
    }

    /// A weight that was added before, without a bias.
    pub(super) fn without_bias(weight: usize, orientation: Orientation) -> Self {
        Self { weight, bias: None, orientation }
    }

    /// A weight and a bias that were added before; kernels count as one row an output.
    pub(super) fn with_bias(weight: usize, bias: usize) -> Self {
        Self { weight, bias: Some(bias), orientation: Orientation::OutputsByInputs }
    }

    /// `inputs · weight + bias`.
    pub(super) fn forward(&self, weights: &Weights, inputs: &Tensor) -> Result<Tensor> {
        Ok(ops::affine(weights.graph(), inputs, self.layer(weights))?)
    }

    /// `residual + inputs · weight + bias`.
    fn forward_add(&self, weights: &Weights, inputs: &Tensor, residual: &Tensor) -> Result<Tensor> {
        Ok(ops::affine(weights.graph(), inputs, Affine { residual: Some(residual), ..self.layer(weights) })?)
    }

    fn layer<'a>(&self, weights: &'a Weights) -> Affine<'a> {
        let bias = self.bias.map(|bias| weights.parameter(bias));
        Affine { bias, ..Affine::new(weights.parameter(self.weight), self.orientation) }
    }
}

/// Self-attention of several heads from packed queries, keys and values.
pub(super) struct Attention {
    packed: Projection,
    out: Projection,
    form: AttentionForm,
}

impl Attention {
    pub(super) fn new(packed: Projection, out: Projection, form: AttentionForm) -> Self {
        Self { packed, out, form }
    }

    /// `nn.MultiheadAttention(width, heads, batch_first=True)`.
    pub(super) fn multihead(layout: &mut Layout, name: &str, width: usize, form: AttentionForm) -> Self {
        let names = [format!("{name}.in_proj_weight"), format!("{name}.in_proj_bias")];
        let packed = Projection::named(layout, names, (width, 3 * width), Orientation::OutputsByInputs);
        Self::new(packed, Projection::linear(layout, &format!("{name}.out_proj"), (width, width)), form)
    }

    /// `residual + attention(inputs)`; sequences may be shorter than the network's longest.
    fn forward_add(&self, weights: &Weights, inputs: &Tensor, residual: &Tensor, positions: usize) -> Result<Tensor> {
        let packed = self.packed.forward(weights, inputs)?;
        let attended = ops::attention(weights.graph(), &packed, AttentionForm { positions, ..self.form })?;
        self.out.forward_add(weights, &attended, residual)
    }
}

/// Two linear layers with an activation between them.
pub(super) struct FeedForward {
    expand: Projection,
    contract: Projection,
    activation: Activation,
}

impl FeedForward {
    pub(super) fn new(expand: Projection, contract: Projection, activation: Activation) -> Self {
        Self { expand, contract, activation }
    }

    /// `residual + contract(activation(expand(inputs)))`.
    fn forward_add(&self, weights: &Weights, inputs: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let hidden = self.expand.forward(weights, inputs)?;
        let contract = self.contract.layer(weights);
        let layer = Affine { activation: Some(self.activation), residual: Some(residual), ..contract };
        Ok(ops::affine(weights.graph(), &hidden, layer)?)
    }
}

/// `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.
pub(super) struct Block {
    pub(super) norm_1: LayerNorm,
    pub(super) attention: Attention,
    pub(super) norm_2: LayerNorm,
    pub(super) feed_forward: FeedForward,
}

impl Block {
    /// Sequences of so many positions, one after the other.
    pub(super) fn forward(&self, weights: &Weights, inputs: &Tensor, positions: usize) -> Result<Tensor> {
        let normal = self.norm_1.forward(weights, inputs)?;
        let x = self.attention.forward_add(weights, &normal, inputs, positions)?;
        let normal = self.norm_2.forward(weights, &x)?;
        self.feed_forward.forward_add(weights, &normal, &x)
    }
}

/// Sizes that decide what a stack of blocks holds during a training step.
pub(super) struct StackSizes {
    /// Rows: samples times positions.
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) mlp_width: usize,
    pub(super) depth: usize,
    pub(super) heads: usize,
}

impl StackSizes {
    /// Elements that the blocks keep from the forward to the backward pass, their output included.
    pub(super) fn kept(&self) -> usize {
        // Two norms, each with two numbers a row; packed projections; attention and its log-sums; two sums; the hidden layer.
        let a_row = 2 * (self.width + 2) + 3 * self.width + self.width + self.heads + 2 * self.width + self.mlp_width;
        self.depth * self.rows * a_row
    }

    /// Elements that are alive at one time on the way back through a block, besides what is kept.
    pub(super) fn in_flight(&self) -> usize {
        // The gradient of the sum; the hidden layer's values and its gradient.
        self.rows * (self.width + 2 * self.mlp_width)
    }
}
