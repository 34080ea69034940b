//! GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners") with the names of Hugging Face's
//! `GPT2LMHeadModel`.
//!
//! The output layer's weight is the table of token embeddings. A file may hold it a second time, as `lm_head.weight`: it must
//! then be equal, and is averaged with the same coefficients. The causal masks that files of old versions hold are copied.
//! Dropout is the identity, as it is in evaluation.

use candle_core::Tensor;

use super::layout::{Layout, TensorSpec};
use super::transformer::{Attention, Block, FeedForward, LayerNorm, Projection, StackSizes};
use super::{Mode, Network, Weights, check_bounds, check_parameters};
use crate::ops::{self, Activation, AttentionForm, Orientation};
use crate::{Error, Result};

const EPSILON: f64 = 1e-5;

/// Sizes of a GPT-2. The hidden layer of a block has four times the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpt2Sizes {
    /// Tokens there are.
    pub vocabulary: usize,
    /// Most tokens of a sequence.
    pub positions: usize,
    /// Width of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of each attention; they divide the width.
    pub heads: usize,
}

pub(super) struct Gpt2 {
    sizes: Gpt2Sizes,
    wte: usize,
    wpe: usize,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    lm_head: Projection,
    tensors: Vec<TensorSpec>,
}

impl Gpt2Sizes {
    fn check(&self) -> Result<()> {
        check_bounds("gpt2 vocabulary", self.vocabulary, 2..=1 << 24)?;
        check_bounds("gpt2 positions", self.positions, 1..=1 << 20)?;
        check_bounds("gpt2 width", self.width, 1..=1 << 15)?;
        check_bounds("gpt2 depth", self.depth, 1..=256)?;
        check_bounds("gpt2 heads", self.heads, 1..=self.width)?;
        if !self.width.is_multiple_of(self.heads) {
            let (heads, width) = (self.heads, self.width);
            return Err(Error::input(format!("gpt2 heads is {heads}, it must divide the width {width}")));
        }
        Ok(())
    }

    fn mlp_width(&self) -> usize {
        4 * self.width
    }
}

impl Gpt2 {
    pub(super) fn new(sizes: Gpt2Sizes) -> Result<Self> {
        sizes.check()?;
        let Gpt2Sizes { vocabulary, positions, width, depth, .. } = sizes;
        let mut layout = Layout::default();
        let wte = layout.parameter("transformer.wte.weight".into(), vec![vocabulary, width]);
        let wpe = layout.parameter("transformer.wpe.weight".into(), vec![positions, width]);
        let blocks = (0..depth).map(|number| block(&mut layout, number, &sizes)).collect();
        let ln_f = LayerNorm::new(&mut layout, "transformer.ln_f", width, EPSILON);
        layout.tied("lm_head.weight".into(), wte);
        let tensors = layout.finish();
        check_parameters("gpt2", &tensors)?;
        let lm_head = Projection::without_bias(wte, Orientation::OutputsByInputs);
        Ok(Self { sizes, wte, wpe, blocks, ln_f, lm_head, tensors })
    }
}

/// Hugging Face's `GPT2Block`, whose `Conv1D` layers are linear ones with transposed weights.
fn block(layout: &mut Layout, number: usize, sizes: &Gpt2Sizes) -> Block {
    let width = sizes.width;
    let name = format!("transformer.h.{number}");
    let form = AttentionForm { positions: sizes.positions, heads: sizes.heads, causal: true };
    let norm_1 = LayerNorm::new(layout, &format!("{name}.ln_1"), width, EPSILON);
    layout.carried(format!("{name}.attn.bias"));
    layout.carried(format!("{name}.attn.masked_bias"));
    let packed = conv1d(layout, &format!("{name}.attn.c_attn"), (width, 3 * width));
    let out = conv1d(layout, &format!("{name}.attn.c_proj"), (width, width));
    let attention = Attention::new(packed, out, form);
    let norm_2 = LayerNorm::new(layout, &format!("{name}.ln_2"), width, EPSILON);
    let expand = conv1d(layout, &format!("{name}.mlp.c_fc"), (width, sizes.mlp_width()));
    let contract = conv1d(layout, &format!("{name}.mlp.c_proj"), (sizes.mlp_width(), width));
    Block { norm_1, attention, norm_2, feed_forward: FeedForward::new(expand, contract, Activation::GeluTanh) }
}

fn conv1d(layout: &mut Layout, name: &str, widths: (usize, usize)) -> Projection {
    let names = [format!("{name}.weight"), format!("{name}.bias")];
    Projection::named(layout, names, widths, Orientation::InputsByOutputs)
}

impl Network for Gpt2 {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, _mode: &mut Mode<'_>) -> Result<Tensor> {
        let (_, positions) = inputs.dims2()?;
        let tables = (weights.parameter(self.wte), weights.parameter(self.wpe));
        let mut x = ops::embedding(weights.graph(), ops::read_tokens(inputs)?.into(), positions, tables)?;
        for block in &self.blocks {
            x = block.forward(weights, &x, positions)?;
        }
        self.lm_head.forward(weights, &self.ln_f.forward(weights, &x)?)
    }

    fn reads_tokens(&self) -> bool {
        true
    }

    fn outputs(&self) -> usize {
        self.sizes.vocabulary
    }

    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        match sample_shape {
            [length] if (1..=self.sizes.positions).contains(length) => Ok(()),
            _ => Err(Error::input(format!(
                "an input has shape {sample_shape:?}, gpt2 takes tokens [positions] of at most {} positions",
                self.sizes.positions
            ))),
        }
    }

    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize {
        let Gpt2Sizes { vocabulary, positions, width, depth, heads } = self.sizes;
        let rows = batch_size * sample_shape.first().copied().unwrap_or(positions);
        let stack = StackSizes { rows, width, mlp_width: self.sizes.mlp_width(), depth, heads };
        // Tokens, their embeddings, and the last norm; on the way back the logits with their gradient, or a block.
        let kept = rows * (1 + 2 * width) + stack.kept();
        let floats = kept + (2 * rows * vocabulary).max(stack.in_flight());
        floats * size_of::<f32>()
    }
}
