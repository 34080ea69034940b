//! The CIFAR ResNet of He et al. 2015 (arXiv 1512.03385, section 4.2), with 1x1 projection shortcuts.

use candle_core::Tensor;

use super::layers::{BatchNorm, Convolution, Linear};
use super::layout::{Layout, TensorSpec};
use super::{IMAGE_CHANNELS, MOST_CLASSES, Mode, Network, Weights, check_bounds, check_image, plan};
use crate::{Error, Result, ops};

/// Channels of the three stages; the second and third start with stride 2.
const WIDTHS: [usize; 3] = [16, 32, 64];
const DEEPEST: usize = 1202;

pub(super) struct ResnetCifar {
    conv1: Convolution,
    bn1: BatchNorm,
    blocks: Vec<Block>,
    fc: Linear,
    classes: usize,
    tensors: Vec<TensorSpec>,
}

/// Two 3x3 convolutions, and a way round them.
struct Block {
    conv1: Convolution,
    bn1: BatchNorm,
    conv2: Convolution,
    bn2: BatchNorm,
    shortcut: Option<(Convolution, BatchNorm)>,
}

impl ResnetCifar {
    pub(super) fn new(depth: usize, classes: usize) -> Result<Self> {
        check_bounds("resnet_cifar depth", depth, 8..=DEEPEST)?;
        check_bounds("resnet_cifar classes", classes, 2..=MOST_CLASSES)?;
        if !(depth - 2).is_multiple_of(6) {
            return Err(Error::input(format!("resnet_cifar depth is {depth}, it must be 6k + 2: 8, 14, 20, ...")));
        }
        let blocks_a_stage = (depth - 2) / 6;
        let mut layout = Layout::default();
        let conv1 = Convolution::new(&mut layout, "conv1", (IMAGE_CHANNELS, WIDTHS[0]), 3, 1);
        let bn1 = BatchNorm::new(&mut layout, "bn1", WIDTHS[0]);
        let mut blocks = Vec::new();
        let mut channels = WIDTHS[0];
        for (stage, width) in WIDTHS.into_iter().enumerate() {
            for index in 0..blocks_a_stage {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let name = format!("layer{}.{index}", stage + 1);
                blocks.push(Block::new(&mut layout, &name, (channels, width), stride));
                channels = width;
            }
        }
        let fc = Linear::new(&mut layout, "fc", channels, classes);
        Ok(Self { conv1, bn1, blocks, fc, classes, tensors: layout.finish() })
    }
}

impl Block {
    fn new(layout: &mut Layout, name: &str, channels: (usize, usize), stride: usize) -> Self {
        let width = channels.1;
        Self {
            conv1: Convolution::new(layout, &format!("{name}.conv1"), channels, 3, stride),
            bn1: BatchNorm::new(layout, &format!("{name}.bn1"), width),
            conv2: Convolution::new(layout, &format!("{name}.conv2"), (width, width), 3, 1),
            bn2: BatchNorm::new(layout, &format!("{name}.bn2"), width),
            shortcut: (stride != 1 || channels.0 != width).then(|| {
                (
                    Convolution::new(layout, &format!("{name}.shortcut.0"), channels, 1, stride),
                    BatchNorm::new(layout, &format!("{name}.shortcut.1"), width),
                )
            }),
        }
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let x = self.bn1.forward_relu(weights, &self.conv1.forward(weights, inputs)?, mode)?;
        let x = self.conv2.forward(weights, &x)?;
        let shortcut = match &self.shortcut {
            Some((conv, bn)) => bn.forward(weights, &conv.forward(weights, inputs)?, mode)?,
            None => inputs.clone(),
        };
        self.bn2.forward_add_relu(weights, &x, &shortcut, mode)
    }
}

impl Network for ResnetCifar {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let mut x = self.bn1.forward_relu(weights, &self.conv1.forward(weights, inputs)?, mode)?;
        for block in &self.blocks {
            x = block.forward(weights, &x, mode)?;
        }
        let pooled = ops::global_average_pool(weights.graph(), &x)?;
        self.fc.forward(weights, &pooled)
    }

    fn outputs(&self) -> usize {
        self.classes
    }

    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        check_image("resnet_cifar", sample_shape, 4..=usize::MAX)
    }

    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize {
        plan::activation_bytes(self, sample_shape, batch_size)
    }
}
