//! ResNet-18, 34 and 50 (He et al. 2015, arXiv 1512.03385, table 1) with torchvision's tensor names. As there, the 3x3
//! convolution of a bottleneck is the one that strides.

use candle_core::Tensor;

use super::layers::{BatchNorm, Convolution, Linear};
use super::layout::{Layout, TensorSpec};
use super::{IMAGE_CHANNELS, MOST_CLASSES, Mode, Network, Weights, check_bounds, check_image, plan};
use crate::ops::{self, PoolForm};
use crate::{Error, Result};

/// Channels of the 3x3 convolutions of each stage; every stage but the first starts with stride 2.
const WIDTHS: [usize; 4] = [64, 128, 256, 512];
/// A bottleneck's outputs over its 3x3 convolution's channels.
const EXPANSION: usize = 4;
/// The pooling after the first convolution.
const POOL: PoolForm = PoolForm { kernel: 3, stride: 2, padding: 1 };

pub(super) struct Resnet {
    conv1: Convolution,
    bn1: BatchNorm,
    blocks: Vec<Block>,
    fc: Linear,
    classes: usize,
    tensors: Vec<TensorSpec>,
}

/// Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, and a way round them.
struct Block {
    body: Vec<(Convolution, BatchNorm)>,
    downsample: Option<(Convolution, BatchNorm)>,
}

impl Resnet {
    pub(super) fn new(depth: usize, classes: usize) -> Result<Self> {
        let (blocks_a_stage, bottleneck) = match depth {
            18 => ([2, 2, 2, 2], false),
            34 => ([3, 4, 6, 3], false),
            50 => ([3, 4, 6, 3], true),
            _ => return Err(Error::input(format!("resnet depth is {depth}, allowed are 18, 34 and 50"))),
        };
        check_bounds("resnet classes", classes, 2..=MOST_CLASSES)?;
        let mut layout = Layout::default();
        let conv1 = Convolution::new(&mut layout, "conv1", (IMAGE_CHANNELS, WIDTHS[0]), 7, 2);
        let bn1 = BatchNorm::new(&mut layout, "bn1", WIDTHS[0]);
        let mut blocks = Vec::new();
        let mut channels = WIDTHS[0];
        for (stage, (width, count)) in WIDTHS.into_iter().zip(blocks_a_stage).enumerate() {
            for index in 0..count {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let name = format!("layer{}.{index}", stage + 1);
                blocks.push(Block::new(&mut layout, &name, (channels, width), stride, bottleneck));
                channels = if bottleneck { EXPANSION * width } else { width };
            }
        }
        let fc = Linear::new(&mut layout, "fc", channels, classes);
        Ok(Self { conv1, bn1, blocks, fc, classes, tensors: layout.finish() })
    }
}

impl Block {
    fn new(layout: &mut Layout, name: &str, (inputs, width): (usize, usize), stride: usize, bottleneck: bool) -> Self {
        let outputs = if bottleneck { EXPANSION * width } else { width };
        // Channels before and after, kernel, stride.
        let convolutions: &[_] = if bottleneck {
            &[((inputs, width), 1, 1), ((width, width), 3, stride), ((width, outputs), 1, 1)]
        } else {
            &[((inputs, width), 3, stride), ((width, width), 3, 1)]
        };
        let numbered = convolutions.iter().zip(1..);
        let body = numbered.map(|((channels, kernel, stride), number)| {
            let convolution = Convolution::new(layout, &format!("{name}.conv{number}"), *channels, *kernel, *stride);
            (convolution, BatchNorm::new(layout, &format!("{name}.bn{number}"), channels.1))
        });
        let body = body.collect();
        let downsample = (stride != 1 || inputs != outputs).then(|| {
            (
                Convolution::new(layout, &format!("{name}.downsample.0"), (inputs, outputs), 1, stride),
                BatchNorm::new(layout, &format!("{name}.downsample.1"), outputs),
            )
        });
        Self { body, downsample }
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let ((last_conv, last_bn), inner) = self.body.split_last().expect("a block has convolutions");
        let mut x = inputs.clone();
        for (conv, bn) in inner {
            x = bn.forward_relu(weights, &conv.forward(weights, &x)?, mode)?;
        }
        x = last_conv.forward(weights, &x)?;
        // Statistics are kept by their place in the state dict, so a later layer may run before an earlier one.
        let shortcut = match &self.downsample {
            Some((conv, bn)) => bn.forward(weights, &conv.forward(weights, inputs)?, mode)?,
            None => inputs.clone(),
        };
        last_bn.forward_add_relu(weights, &x, &shortcut, mode)
    }
}

impl Network for Resnet {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let mut x = self.bn1.forward_relu(weights, &self.conv1.forward(weights, inputs)?, mode)?;
        x = ops::max_pool2d(weights.graph(), &x, POOL)?;
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
        check_image("resnet", sample_shape, 8..=usize::MAX)
    }

    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize {
        plan::activation_bytes(self, sample_shape, batch_size)
    }
}
