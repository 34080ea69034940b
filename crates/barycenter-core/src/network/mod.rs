//! Built-in networks with `PyTorch` state-dict tensor names, so that a checkpoint of one is a checkpoint of the other.

mod clip_image;
mod gpt2;
mod layers;
mod layout;
mod mlp;
mod plan;
mod preresnet_cifar;
mod resnet;
mod resnet_cifar;
mod statistics;
mod transformer;
mod vgg_bn;
mod vit;
mod weights;
mod wide_resnet;

use candle_core::Tensor;

pub use clip_image::ClipImageSizes;
pub use gpt2::Gpt2Sizes;
pub use layout::{Role, TensorSpec, check_layout};
pub use statistics::{Mode, Statistics, StatisticsSum};
pub use vit::VitSizes;
pub use weights::Weights;

use crate::{Error, Result};

/// A built-in architecture with its sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkSpec {
    /// `nn.Sequential(Linear, ReLU, Linear, ...)`.
    Mlp {
        /// Width of the input, of each hidden layer and of the output.
        features: Vec<usize>,
    },
    /// The CIFAR ResNet of He et al. 2015, section 4.2, with projection shortcuts.
    ResnetCifar {
        /// `6k + 2` layers.
        depth: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The ImageNet ResNet of He et al. 2015, as torchvision has it.
    Resnet {
        /// 18, 34 or 50.
        depth: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The VGG with batch norm for CIFAR images of the SWA and TWA papers.
    VggBn {
        /// 11, 13, 16 or 19.
        depth: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The pre-activation ResNet for CIFAR images of He et al. 2016.
    PreresnetCifar {
        /// `6k + 2` below 44, else `9k + 2`, in bottlenecks.
        depth: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The wide ResNet for CIFAR images of Zagoruyko and Komodakis 2016.
    WideResnet {
        /// `6k + 4`.
        depth: usize,
        /// Times the channels of the plain network.
        width: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Vision Transformer, torchvision's `VisionTransformer`.
    Vit(VitSizes),
    /// CLIP's image tower with a linear head, the layout of "Model soups".
    ClipImage(ClipImageSizes),
    /// GPT-2, Hugging Face's `GPT2LMHeadModel`.
    Gpt2(Gpt2Sizes),
}

impl NetworkSpec {
    /// The network, or an [`Error::Input`] that names the size which is out of bounds.
    pub fn build(&self) -> Result<Box<dyn Network>> {
        match self {
            Self::Mlp { features } => Ok(Box::new(mlp::Mlp::new(features)?)),
            Self::ResnetCifar { depth, classes } => Ok(Box::new(resnet_cifar::ResnetCifar::new(*depth, *classes)?)),
            Self::Resnet { depth, classes } => Ok(Box::new(resnet::Resnet::new(*depth, *classes)?)),
            Self::VggBn { depth, classes } => Ok(Box::new(vgg_bn::VggBn::new(*depth, *classes)?)),
            Self::PreresnetCifar { depth, classes } => {
                Ok(Box::new(preresnet_cifar::PreresnetCifar::new(*depth, *classes)?))
            }
            Self::WideResnet { depth, width, classes } => {
                Ok(Box::new(wide_resnet::WideResnet::new(*depth, *width, *classes)?))
            }
            Self::Vit(sizes) => Ok(Box::new(vit::Vit::new(*sizes)?)),
            Self::ClipImage(sizes) => Ok(Box::new(clip_image::ClipImage::new(*sizes)?)),
            Self::Gpt2(sizes) => Ok(Box::new(gpt2::Gpt2::new(*sizes)?)),
        }
    }
}

/// A network whose weights come from outside.
pub trait Network: Send + Sync {
    /// Every tensor that a checkpoint has or may have, in `PyTorch`'s order.
    fn tensors(&self) -> &[TensorSpec];

    /// Outputs [rows, outputs] of `inputs`: a row a sample of NHWC images or [batch, features], or a row a position of
    /// tokens (`u32`, [batch, positions]), row-major.
    fn forward(&self, weights: &Weights, inputs: &Tensor, mode: &mut Mode<'_>) -> Result<Tensor>;

    /// Numbers in a row of outputs: classes, predicted numbers, or the size of the vocabulary.
    fn outputs(&self) -> usize;

    /// Whether inputs are tokens.
    fn reads_tokens(&self) -> bool {
        false
    }

    /// Errors where a sample of this shape (`[channels, height, width]`, `[features]` or `[positions]`) is no input of this
    /// network.
    fn check_input(&self, sample_shape: &[usize]) -> Result<()>;

    /// Bytes of everything a training step holds for one batch, at the moment when it holds most, besides weights and
    /// their gradients.
    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize;

    /// The specifications of the parameters, in order: the order of every list of parameters in this crate.
    fn parameters(&self) -> Vec<&TensorSpec> {
        self.tensors().iter().filter(|tensor| tensor.role == Role::Parameter).collect()
    }

    /// Whether running statistics belong to a checkpoint.
    fn has_batch_norm(&self) -> bool {
        self.tensors().iter().any(|tensor| tensor.role == Role::RunningMean)
    }

    /// Fresh parameters: Kaiming-normal weights (He et al. 2015) from a seed, ones for batch-norm scales, zeros for biases.
    fn initial_parameters(&self, seed: u64) -> Vec<Vec<f32>> {
        self.parameters().iter().enumerate().map(|(index, spec)| layout::initial(spec, seed, index as u64)).collect()
    }
}

/// Channels of an image.
const IMAGE_CHANNELS: usize = 3;
/// Most classes of an image network.
const MOST_CLASSES: usize = 1 << 20;
/// Most elements of a network: a spec cannot ask for more memory than a machine has.
const MOST_PARAMETERS: usize = 1 << 32;

/// Errors unless a sample is an image [3, height, width] with both sizes in the range; `kind` is the network's.
fn check_image(kind: &str, sample_shape: &[usize], sizes: std::ops::RangeInclusive<usize>) -> Result<()> {
    match sample_shape {
        [IMAGE_CHANNELS, height, width] if sizes.contains(height) && sizes.contains(width) => Ok(()),
        _ => {
            let (least, most) = (sizes.start(), sizes.end());
            let range = if *most == usize::MAX {
                format!("of at least {least}x{least}")
            } else {
                format!("of {least}x{least} to {most}x{most}")
            };
            let message = format!("an input has shape {sample_shape:?}, {kind} takes [3, height, width] {range}");
            Err(Error::input(message))
        }
    }
}

/// Errors unless `value` lies in the range; `name` says what it is.
fn check_bounds(name: &str, value: usize, range: std::ops::RangeInclusive<usize>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Error::input(format!("{name} is {value}, allowed are {} to {}", range.start(), range.end())))
}

/// Errors where the parameters of a network of this kind are too many.
fn check_parameters(kind: &str, tensors: &[TensorSpec]) -> Result<()> {
    let parameters = tensors.iter().filter(|tensor| tensor.role == Role::Parameter).map(TensorSpec::len).sum();
    check_bounds(&format!("number of {kind} parameters"), parameters, 1..=MOST_PARAMETERS)
}

/// Errors unless a sample is a square colour image of this size; `kind` is the network's.
fn check_square_image(kind: &str, size: usize, sample_shape: &[usize]) -> Result<()> {
    if sample_shape == [3, size, size] {
        return Ok(());
    }
    Err(Error::input(format!("an input has shape {sample_shape:?}, {kind} takes [3, {size}, {size}]")))
}

#[cfg(test)]
pub(crate) mod bigram;
#[cfg(test)]
mod tests;
