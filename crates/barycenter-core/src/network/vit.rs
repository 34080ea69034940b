//! Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) with torchvision's names.
//!
//! Dropout is the identity, as it is in evaluation.

use candle_core::Tensor;

use super::layout::{Layout, TensorSpec};
use super::transformer::{Attention, Block, FeedForward, LayerNorm, Projection, StackSizes};
use super::{Mode, Network, Weights, check_bounds, check_parameters, check_square_image};
use crate::ops::{self, Activation, AttentionForm};
use crate::{Error, Result};

const IMAGE_CHANNELS: usize = 3;
/// torchvision's.
const EPSILON: f64 = 1e-6;

/// Sizes of a Vision Transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VitSizes {
    /// Height and width of an image, a multiple of the patch size.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Width of a token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of each attention; they divide the width.
    pub heads: usize,
    /// Width of the hidden layer of a block.
    pub mlp_width: usize,
    /// Classes.
    pub classes: usize,
}

pub(super) struct Vit {
    sizes: VitSizes,
    class_token: usize,
    conv_proj: Projection,
    pos_embedding: usize,
    blocks: Vec<Block>,
    ln: LayerNorm,
    head: Projection,
    tensors: Vec<TensorSpec>,
}

impl VitSizes {
    fn check(&self) -> Result<()> {
        check_bounds("vit image_size", self.image_size, 1..=4096)?;
        check_bounds("vit patch_size", self.patch_size, 1..=self.image_size)?;
        check_bounds("vit width", self.width, 1..=1 << 15)?;
        check_bounds("vit depth", self.depth, 1..=256)?;
        check_bounds("vit heads", self.heads, 1..=self.width)?;
        check_bounds("vit mlp_width", self.mlp_width, 1..=1 << 17)?;
        check_bounds("vit classes", self.classes, 2..=1 << 20)?;
        if !self.image_size.is_multiple_of(self.patch_size) {
            let (image, patch) = (self.image_size, self.patch_size);
            return Err(Error::input(format!("vit patch_size is {patch}, it must divide the image_size {image}")));
        }
        if !self.width.is_multiple_of(self.heads) {
            let (heads, width) = (self.heads, self.width);
            return Err(Error::input(format!("vit heads is {heads}, it must divide the width {width}")));
        }
        check_bounds("number of vit positions", self.positions(), 2..=1 << 16)
    }

    /// The class token and the patches.
    fn positions(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }
}

impl Vit {
    pub(super) fn new(sizes: VitSizes) -> Result<Self> {
        sizes.check()?;
        let VitSizes { patch_size, width, depth, classes, .. } = sizes;
        let mut layout = Layout::default();
        let class_token = layout.parameter("class_token".into(), vec![1, 1, width]);
        let kernel = vec![width, IMAGE_CHANNELS, patch_size, patch_size];
        let conv_weight = layout.parameter("conv_proj.weight".into(), kernel);
        let conv_bias = layout.parameter("conv_proj.bias".into(), vec![width]);
        let pos_embedding = layout.parameter("encoder.pos_embedding".into(), vec![1, sizes.positions(), width]);
        let blocks = (0..depth).map(|number| block(&mut layout, number, &sizes)).collect();
        let ln = LayerNorm::new(&mut layout, "encoder.ln", width, EPSILON);
        let head = Projection::linear(&mut layout, "heads.head", (width, classes));
        let conv_proj = Projection::with_bias(conv_weight, conv_bias);
        let tensors = layout.finish();
        check_parameters("vit", &tensors)?;
        Ok(Self { sizes, class_token, conv_proj, pos_embedding, blocks, ln, head, tensors })
    }
}

/// torchvision's `EncoderBlock`.
fn block(layout: &mut Layout, number: usize, sizes: &VitSizes) -> Block {
    let VitSizes { width, mlp_width, heads, .. } = *sizes;
    let name = format!("encoder.layers.encoder_layer_{number}");
    let form = AttentionForm { positions: sizes.positions(), heads, causal: false };
    let norm_1 = LayerNorm::new(layout, &format!("{name}.ln_1"), width, EPSILON);
    let attention = Attention::multihead(layout, &format!("{name}.self_attention"), width, form);
    let norm_2 = LayerNorm::new(layout, &format!("{name}.ln_2"), width, EPSILON);
    let expand = Projection::linear(layout, &format!("{name}.mlp.0"), (width, mlp_width));
    let contract = Projection::linear(layout, &format!("{name}.mlp.3"), (mlp_width, width));
    Block { norm_1, attention, norm_2, feed_forward: FeedForward::new(expand, contract, Activation::Gelu) }
}

impl Network for Vit {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, _mode: &mut Mode<'_>) -> Result<Tensor> {
        let patches = ops::patches(weights.graph(), inputs, self.sizes.patch_size)?;
        let patches = self.conv_proj.forward(weights, &patches)?;
        let (class, places) = (weights.parameter(self.class_token), weights.parameter(self.pos_embedding));
        let mut x = ops::with_class_token(weights.graph(), &patches, class, places)?;
        for block in &self.blocks {
            x = block.forward(weights, &x, self.sizes.positions())?;
        }
        // The norm works on each row alone, so the rows that nothing reads are left out before it.
        let class = ops::class_token(weights.graph(), &x, self.sizes.positions())?;
        self.head.forward(weights, &self.ln.forward(weights, &class)?)
    }

    fn outputs(&self) -> usize {
        self.sizes.classes
    }

    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        check_square_image("vit", self.sizes.image_size, sample_shape)
    }

    fn activation_bytes(&self, _sample_shape: &[usize], batch_size: usize) -> usize {
        let VitSizes { image_size, width, depth, heads, mlp_width, .. } = self.sizes;
        let stack = StackSizes { rows: batch_size * self.sizes.positions(), width, mlp_width, depth, heads };
        // Images and their patches; the patches' tokens, and the sequences made of them.
        let images = batch_size * IMAGE_CHANNELS * image_size * image_size;
        let floats = 2 * images + 2 * stack.rows * width + stack.kept() + stack.in_flight();
        floats * size_of::<f32>()
    }
}
