//! VGG with batch norm (Simonyan and Zisserman 2014, arXiv 1409.1556, table 1) for CIFAR images.
//!
//! The layout is that of the code of the SWA paper (Izmailov et al. 2018, arXiv 1803.05407), which the TWA paper uses too:
//! `features.N.*` counts convolution, batch norm, `ReLU` and pooling as they follow one another, convolutions have a bias,
//! and `classifier` is three linear layers at 1, 4 and 6. That code knows depths 16 and 19; 11 and 13 are the same with
//! the convolutions of the paper's columns A and B.
//!
//! The classifier's dropout is the identity here, in evaluation as in a fit: a fit looks for coefficients of models that are
//! trained already, and every loss it compares must be a function of them alone.

use candle_core::Tensor;

use super::layers::{BatchNorm, Convolution, Linear};
use super::layout::{Layout, TensorSpec};
use super::{IMAGE_CHANNELS, MOST_CLASSES, Mode, Network, Weights, check_bounds, check_image, plan};
use crate::ops::{self, PoolForm};
use crate::{Error, Result};

/// Channels of the stages; a pooling follows each.
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];
const POOL: PoolForm = PoolForm { kernel: 2, stride: 2, padding: 0 };
/// Width of the classifier.
const HIDDEN: usize = 512;

pub(super) struct VggBn {
    stages: Vec<Vec<(Convolution, BatchNorm)>>,
    classifier: [Linear; 3],
    classes: usize,
    tensors: Vec<TensorSpec>,
}

impl VggBn {
    pub(super) fn new(depth: usize, classes: usize) -> Result<Self> {
        let convolutions_a_stage = match depth {
            11 => [1, 1, 2, 2, 2],
            13 => [2, 2, 2, 2, 2],
            16 => [2, 2, 3, 3, 3],
            19 => [2, 2, 4, 4, 4],
            _ => return Err(Error::input(format!("vgg_bn depth is {depth}, allowed are 11, 13, 16 and 19"))),
        };
        check_bounds("vgg_bn classes", classes, 2..=MOST_CLASSES)?;
        let mut layout = Layout::default();
        let mut stages = Vec::new();
        let (mut position, mut channels) = (0, IMAGE_CHANNELS);
        for (width, count) in WIDTHS.into_iter().zip(convolutions_a_stage) {
            let mut stage = Vec::new();
            for _ in 0..count {
                let convolution =
                    Convolution::biased(&mut layout, &format!("features.{position}"), (channels, width), 3, 1);
                let norm = BatchNorm::new(&mut layout, &format!("features.{}", position + 1), width);
                stage.push((convolution, norm));
                // Convolution, batch norm, ReLU.
                position += 3;
                channels = width;
            }
            // The pooling.
            position += 1;
            stages.push(stage);
        }
        let classifier = [
            Linear::new(&mut layout, "classifier.1", HIDDEN, HIDDEN),
            Linear::new(&mut layout, "classifier.4", HIDDEN, HIDDEN),
            Linear::new(&mut layout, "classifier.6", HIDDEN, classes),
        ];
        Ok(Self { stages, classifier, classes, tensors: layout.finish() })
    }
}

impl Network for VggBn {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor> {
        let mut x = inputs.clone();
        for stage in &self.stages {
            for (conv, bn) in stage {
                x = bn.forward_relu(weights, &conv.forward(weights, &x)?, mode)?;
            }
            x = ops::max_pool2d(weights.graph(), &x, POOL)?;
        }
        // One pixel is left: its mean is itself.
        x = ops::global_average_pool(weights.graph(), &x)?;
        let [first, second, last] = &self.classifier;
        for layer in [first, second] {
            x = ops::relu(weights.graph(), &layer.forward(weights, &x)?)?;
        }
        last.forward(weights, &x)
    }

    fn outputs(&self) -> usize {
        self.classes
    }

    /// Five poolings must leave one pixel, else the classifier does not fit.
    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        check_image("vgg_bn", sample_shape, 32..=63)
    }

    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize {
        plan::activation_bytes(self, sample_shape, batch_size)
    }
}
