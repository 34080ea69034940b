//! CLIP's image tower (Radford et al. 2021, arXiv 2103.00020) with a linear head on features of length 1: the checkpoints of
//! "Model soups" (Wortsman et al. 2022, arXiv 2203.05482).
//!
//! Such a checkpoint also holds the remains of the text tower, all but its blocks: no image passes through them, so they are
//! the same in every checkpoint of a run and are copied, and a file may as well lack them.

use candle_core::Tensor;

use super::layout::{Layout, TensorSpec};
use super::transformer::{Attention, Block, FeedForward, LayerNorm, Projection, StackSizes};
use super::{Mode, Network, Weights, check_bounds, check_parameters, check_square_image};
use crate::ops::{self, Activation, AttentionForm, Orientation};
use crate::{Error, Result};

const IMAGE_CHANNELS: usize = 3;
const EPSILON: f64 = 1e-5;

/// Sizes of CLIP's image tower with a linear head. The hidden layer of a block has four times the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipImageSizes {
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
    /// Width of the features that images and texts share.
    pub embedding: usize,
    /// Classes.
    pub classes: usize,
}

pub(super) struct ClipImage {
    sizes: ClipImageSizes,
    class_embedding: usize,
    positional_embedding: usize,
    conv1: Projection,
    ln_pre: LayerNorm,
    blocks: Vec<Block>,
    ln_post: LayerNorm,
    proj: Projection,
    head: Projection,
    tensors: Vec<TensorSpec>,
}

impl ClipImageSizes {
    fn check(&self) -> Result<()> {
        check_bounds("clip_image image_size", self.image_size, 1..=4096)?;
        check_bounds("clip_image patch_size", self.patch_size, 1..=self.image_size)?;
        check_bounds("clip_image width", self.width, 1..=1 << 15)?;
        check_bounds("clip_image depth", self.depth, 1..=256)?;
        check_bounds("clip_image heads", self.heads, 1..=self.width)?;
        check_bounds("clip_image embedding", self.embedding, 1..=1 << 15)?;
        check_bounds("clip_image classes", self.classes, 2..=1 << 20)?;
        if !self.image_size.is_multiple_of(self.patch_size) {
            let (image, patch) = (self.image_size, self.patch_size);
            let message = format!("clip_image patch_size is {patch}, it must divide the image_size {image}");
            return Err(Error::input(message));
        }
        if !self.width.is_multiple_of(self.heads) {
            let (heads, width) = (self.heads, self.width);
            return Err(Error::input(format!("clip_image heads is {heads}, it must divide the width {width}")));
        }
        check_bounds("number of clip_image positions", self.positions(), 2..=1 << 16)
    }

    /// The class token and the patches.
    fn positions(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    fn mlp_width(&self) -> usize {
        4 * self.width
    }
}

impl ClipImage {
    pub(super) fn new(sizes: ClipImageSizes) -> Result<Self> {
        sizes.check()?;
        let ClipImageSizes { patch_size, width, depth, embedding, classes, .. } = sizes;
        let mut layout = Layout::default();
        for name in ["positional_embedding", "text_projection", "logit_scale"] {
            layout.carried(format!("model.{name}"));
        }
        let class_embedding = layout.parameter("model.visual.class_embedding".into(), vec![width]);
        let places = vec![sizes.positions(), width];
        let positional_embedding = layout.parameter("model.visual.positional_embedding".into(), places);
        let proj = layout.parameter("model.visual.proj".into(), vec![width, embedding]);
        let kernel = vec![width, IMAGE_CHANNELS, patch_size, patch_size];
        let conv1 = layout.parameter("model.visual.conv1.weight".into(), kernel);
        let ln_pre = LayerNorm::new(&mut layout, "model.visual.ln_pre", width, EPSILON);
        let blocks = (0..depth).map(|number| block(&mut layout, number, &sizes)).collect();
        let ln_post = LayerNorm::new(&mut layout, "model.visual.ln_post", width, EPSILON);
        for name in ["token_embedding.weight", "ln_final.weight", "ln_final.bias"] {
            layout.carried(format!("model.{name}"));
        }
        let head = Projection::linear(&mut layout, "classification_head", (embedding, classes));
        let tensors = layout.finish();
        check_parameters("clip_image", &tensors)?;
        Ok(Self {
            sizes,
            class_embedding,
            positional_embedding,
            conv1: Projection::without_bias(conv1, Orientation::OutputsByInputs),
            ln_pre,
            blocks,
            ln_post,
            proj: Projection::without_bias(proj, Orientation::InputsByOutputs),
            head,
            tensors,
        })
    }
}

/// CLIP's `ResidualAttentionBlock`.
fn block(layout: &mut Layout, number: usize, sizes: &ClipImageSizes) -> Block {
    let width = sizes.width;
    let name = format!("model.visual.transformer.resblocks.{number}");
    let form = AttentionForm { positions: sizes.positions(), heads: sizes.heads, causal: false };
    let attention = Attention::multihead(layout, &format!("{name}.attn"), width, form);
    let norm_1 = LayerNorm::new(layout, &format!("{name}.ln_1"), width, EPSILON);
    let expand = Projection::linear(layout, &format!("{name}.mlp.c_fc"), (width, sizes.mlp_width()));
    let contract = Projection::linear(layout, &format!("{name}.mlp.c_proj"), (sizes.mlp_width(), width));
    let norm_2 = LayerNorm::new(layout, &format!("{name}.ln_2"), width, EPSILON);
    Block { norm_1, attention, norm_2, feed_forward: FeedForward::new(expand, contract, Activation::QuickGelu) }
}

impl Network for ClipImage {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, _mode: &mut Mode<'_>) -> Result<Tensor> {
        let graph = weights.graph();
        let patches = self.conv1.forward(weights, &ops::patches(graph, inputs, self.sizes.patch_size)?)?;
        let (class, places) = (weights.parameter(self.class_embedding), weights.parameter(self.positional_embedding));
        let mut x = self.ln_pre.forward(weights, &ops::with_class_token(graph, &patches, class, places)?)?;
        for block in &self.blocks {
            x = block.forward(weights, &x, self.sizes.positions())?;
        }
        let class = ops::class_token(graph, &x, self.sizes.positions())?;
        let features = self.proj.forward(weights, &self.ln_post.forward(weights, &class)?)?;
        self.head.forward(weights, &ops::unit_rows(graph, &features)?)
    }

    fn outputs(&self) -> usize {
        self.sizes.classes
    }

    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        check_square_image("clip_image", self.sizes.image_size, sample_shape)
    }

    fn activation_bytes(&self, _sample_shape: &[usize], batch_size: usize) -> usize {
        let ClipImageSizes { image_size, width, depth, heads, .. } = self.sizes;
        let rows = batch_size * self.sizes.positions();
        let stack = StackSizes { rows, width, mlp_width: self.sizes.mlp_width(), depth, heads };
        // Images and their patches; the patches' tokens, the sequences made of them, and their norm.
        let images = batch_size * IMAGE_CHANNELS * image_size * image_size;
        let floats = 2 * images + 3 * rows * width + stack.kept() + stack.in_flight();
        floats * size_of::<f32>()
    }
}
