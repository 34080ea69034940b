//! The wide ResNet for CIFAR images (Zagoruyko and Komodakis 2016, arXiv 1605.07146, table 1), with the tensor names of the
//! code of the SWA paper (Izmailov et al. 2018), where depth 28 and width 10 are used. Its convolutions have a bias; its
//! dropout, of rate 0 there, is left out.

use candle_core::Tensor;

use super::layers::{BatchNorm, Convolution, Linear};
use super::layout::{Layout, TensorSpec};
use super::{IMAGE_CHANNELS, MOST_CLASSES, MOST_PARAMETERS, Mode, Network, Weights, check_bounds, check_image, plan};
use crate::ops::{self, PoolForm};
use crate::{Error, Result};

/// Channels of the first convolution.
const STEM: usize = 16;
/// Channels of the three stages at width 1; the second and third start with stride 2.
const WIDTHS: [usize; 3] = [16, 32, 64];
const DEEPEST: usize = 1204;
const WIDEST: usize = 64;
/// The pooling before the classifier, which takes one window: a last stage of 8 to 15 pixels.
const POOL: PoolForm = PoolForm { kernel: 8, stride: 8, padding: 0 };

pub(super) struct WideResnet {
    conv1: Convolution,
    blocks: Vec<Block>,
    bn1: BatchNorm,
    linear: Linear,
    classes: usize,
    tensors: Vec<TensorSpec>,
}

/// Batch norm, `ReLU` and 3x3 convolution twice, and a way round them. The second convolution strides.
struct Block {
    bn1: BatchNorm,
    conv1: Convolution,
    bn2: BatchNorm,
    conv2: Convolution,
    shortcut: Option<Convolution>,
}

impl WideResnet {
    pub(super) fn new(depth: usize, width: usize, classes: usize) -> Result<Self> {
        check_bounds("wide_resnet depth", depth, 10..=DEEPEST)?;
        check_bounds("wide_resnet width", width, 1..=WIDEST)?;
        check_bounds("wide_resnet classes", classes, 2..=MOST_CLASSES)?;
        if !(depth - 4).is_multiple_of(6) {
            return Err(Error::input(format!("wide_resnet depth is {depth}, it must be 6k + 4: 10, 16, 22, 28, ...")));
        }
        let mut layout = Layout::default();
        let conv1 = Convolution::biased(&mut layout, "conv1", (IMAGE_CHANNELS, STEM), 3, 1);
        let mut blocks = Vec::new();
        let mut channels = STEM;
        for (stage, narrow) in WIDTHS.into_iter().enumerate() {
            for index in 0..(depth - 4) / 6 {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let name = format!("layer{}.{index}", stage + 1);
                blocks.push(Block::new(&mut layout, &name, (channels, width * narrow), stride));
                channels = width * narrow;
            }
        }
        let bn1 = BatchNorm::new(&mut layout, "bn1", channels);
        let linear = Linear::new(&mut layout, "linear", channels, classes);
        let tensors = layout.finish();
        let parameters = tensors.iter().map(TensorSpec::len).sum();
        check_bounds("number of wide_resnet parameters", parameters, 1..=MOST_PARAMETERS)?;
        Ok(Self { conv1, blocks, bn1, linear, classes, tensors })
    }
}

impl Block {
    fn new(layout: &mut Layout, name: &str, (inputs, width): (usize, usize), stride: usize) -> Self {
        Self {
            bn1: BatchNorm::new(layout, &format!("{name}.bn1"), inputs),
            conv1: Convolution::biased(layout, &format!("{name}.conv1"), (inputs, width), 3, 1),
            bn2: BatchNorm::new(layout, &format!("{name}.bn2"), width),
            conv2: Convolution::biased(layout, &format!("{name}.conv2"), (width, width), 3, stride),
            shortcut: (stride != 1 || inputs != width)
                .then(|| Convolution::biased(layout, &format!("{name}.shortcut.0"), (inputs, width), 1, stride)),
        }
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let x = self.conv1.forward(weights, &self.bn1.forward_relu(weights, inputs, mode)?)?;
        let x = self.conv2.forward(weights, &self.bn2.forward_relu(weights, &x, mode)?)?;
        let shortcut = match &self.shortcut {
            Some(conv) => conv.forward(weights, inputs)?,
            None => inputs.clone(),
        };
        Ok(ops::add(weights.graph(), &x, &shortcut)?)
    }
}

impl Network for WideResnet {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let mut x = self.conv1.forward(weights, inputs)?;
        for block in &self.blocks {
            x = block.forward(weights, &x, mode)?;
        }
        x = self.bn1.forward_relu(weights, &x, mode)?;
        x = ops::average_pool2d(weights.graph(), &x, POOL)?;
        // One pixel is left: its mean is itself.
        let pooled = ops::global_average_pool(weights.graph(), &x)?;
        self.linear.forward(weights, &pooled)
    }

    fn outputs(&self) -> usize {
        self.classes
    }

    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        check_image("wide_resnet", sample_shape, 29..=60)
    }

    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize {
        plan::activation_bytes(self, sample_shape, batch_size)
    }
}
