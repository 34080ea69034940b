//! The pre-activation ResNet for CIFAR images (He et al. 2016, arXiv 1603.05027, figure 4e), with the tensor names of the
//! code of the SWA paper (Izmailov et al. 2018), where depth 110 and 164 are used.

use candle_core::Tensor;

use super::layers::{BatchNorm, Convolution, Linear};
use super::layout::{Layout, TensorSpec};
use super::{IMAGE_CHANNELS, MOST_CLASSES, Mode, Network, Weights, check_bounds, check_image, plan};
use crate::ops::{self, PoolForm};
use crate::{Error, Result};

/// Channels of the 3x3 convolutions of the three stages; the second and third start with stride 2.
const WIDTHS: [usize; 3] = [16, 32, 64];
/// From this depth on blocks are bottlenecks.
const BOTTLENECKS_FROM: usize = 44;
/// A bottleneck's outputs over its 3x3 convolution's channels.
const EXPANSION: usize = 4;
const DEEPEST: usize = 1202;
/// The pooling before the classifier, which takes one window: a last stage of 8 to 15 pixels.
const POOL: PoolForm = PoolForm { kernel: 8, stride: 8, padding: 0 };

pub(super) struct PreresnetCifar {
    conv1: Convolution,
    blocks: Vec<Block>,
    bn: BatchNorm,
    fc: Linear,
    classes: usize,
    tensors: Vec<TensorSpec>,
}

/// Batch norm, `ReLU` and convolution two or three times, and a way round them that nothing normalises.
struct Block {
    body: Vec<(BatchNorm, Convolution)>,
    downsample: Option<Convolution>,
}

impl PreresnetCifar {
    pub(super) fn new(depth: usize, classes: usize) -> Result<Self> {
        check_bounds("preresnet_cifar depth", depth, 8..=DEEPEST)?;
        check_bounds("preresnet_cifar classes", classes, 2..=MOST_CLASSES)?;
        let bottleneck = depth >= BOTTLENECKS_FROM;
        let layers_a_triple = if bottleneck { 9 } else { 6 };
        if !(depth - 2).is_multiple_of(layers_a_triple) {
            let message = format!(
                "preresnet_cifar depth is {depth}, it must be 6k + 2 below {BOTTLENECKS_FROM} and 9k + 2 from there on"
            );
            return Err(Error::input(message));
        }
        let mut layout = Layout::default();
        let conv1 = Convolution::new(&mut layout, "conv1", (IMAGE_CHANNELS, WIDTHS[0]), 3, 1);
        let mut blocks = Vec::new();
        let mut channels = WIDTHS[0];
        for (stage, width) in WIDTHS.into_iter().enumerate() {
            for index in 0..(depth - 2) / layers_a_triple {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let name = format!("layer{}.{index}", stage + 1);
                blocks.push(Block::new(&mut layout, &name, (channels, width), stride, bottleneck));
                channels = if bottleneck { EXPANSION * width } else { width };
            }
        }
        let bn = BatchNorm::new(&mut layout, "bn", channels);
        let fc = Linear::new(&mut layout, "fc", channels, classes);
        Ok(Self { conv1, blocks, bn, fc, classes, tensors: layout.finish() })
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
            let norm = BatchNorm::new(layout, &format!("{name}.bn{number}"), channels.0);
            (norm, Convolution::new(layout, &format!("{name}.conv{number}"), *channels, *kernel, *stride))
        });
        let body = body.collect();
        let downsample = (stride != 1 || inputs != outputs)
            .then(|| Convolution::new(layout, &format!("{name}.downsample.0"), (inputs, outputs), 1, stride));
        Self { body, downsample }
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let mut x = inputs.clone();
        for (bn, conv) in &self.body {
            x = conv.forward(weights, &bn.forward_relu(weights, &x, mode)?)?;
        }
        let shortcut = match &self.downsample {
            Some(conv) => conv.forward(weights, inputs)?,
            None => inputs.clone(),
        };
        Ok(ops::add(weights.graph(), &x, &shortcut)?)
    }
}

impl Network for PreresnetCifar {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let mut x = self.conv1.forward(weights, inputs)?;
        for block in &self.blocks {
            x = block.forward(weights, &x, mode)?;
        }
        x = self.bn.forward_relu(weights, &x, mode)?;
        x = ops::average_pool2d(weights.graph(), &x, POOL)?;
        // One pixel is left: its mean is itself.
        let pooled = ops::global_average_pool(weights.graph(), &x)?;
        self.fc.forward(weights, &pooled)
    }

    fn outputs(&self) -> usize {
        self.classes
    }

    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        check_image("preresnet_cifar", sample_shape, 29..=60)
    }

    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize {
        plan::activation_bytes(self, sample_shape, batch_size)
    }
}
