//! The networks' operations on the CPU, with gradients of our own.
//!
//! Values are candle tensors; the gradients and the record they are walked along ([`Graph`]) are ours. Several of
//! candle's own gradients are wrong (max pooling, `ReLU` at 0) or absent (layer norm), its convolution gradient
//! is ten times slower than a matrix product, and its running sums lose digits that batch norm needs.
//!
//! Images are NHWC (`[batch, height, width, channels]`), weights have `PyTorch`'s layout, all values are `f32`.
//!
//! Every operation gives the same bits in every run and with any number of threads: work is cut into pieces of a size
//! that depends on shapes alone, and the pieces' partial sums are added in order.

mod activation;
mod add;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod batch_norm;
mod by_columns;
mod channels;
mod columns;
mod conv2d;
mod cross_entropy;
mod direct;
mod embedding;
mod functions;
mod graph;
mod groups;
#[cfg(target_arch = "x86_64")]
mod indirect;
#[cfg(not(target_arch = "x86_64"))]
#[path = "indirect_elsewhere.rs"]
mod indirect;
mod kernel_layout;
mod layer_norm;
mod linear;
mod matrix;
mod max_pool;
mod moments;
mod patches;
mod plan;
mod pool;
#[cfg(target_arch = "x86_64")]
mod registers;
mod relu;
mod rows;
mod sequence;
mod simd;
mod squared_error;
mod storage;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod unit_rows;
#[cfg(target_arch = "x86_64")]
mod walk;
#[cfg(target_arch = "x86_64")]
mod winograd;
#[cfg(not(target_arch = "x86_64"))]
#[path = "winograd_elsewhere.rs"]
mod winograd;

pub use activation::Activation;
pub use add::add;
pub use attention::{AttentionForm, attention};
pub use batch_norm::{BatchNormForm, batch_norm};
pub use conv2d::{ConvolutionForm, conv2d};
pub use cross_entropy::{NO_LABEL, cross_entropy};
pub use embedding::embedding;
pub use graph::{Gradients, Graph};
pub use layer_norm::layer_norm;
pub use linear::{Affine, Orientation, affine, linear};
pub use max_pool::max_pool2d;
pub use moments::Moments;
pub use patches::patches;
pub use pool::{PoolForm, adaptive_average_pool2d, average_pool2d, global_average_pool};
pub use relu::relu;
pub use sequence::{class_token, with_class_token};
pub use squared_error::squared_error;
pub use storage::{read, read_tokens};
pub use unit_rows::unit_rows;

#[cfg(test)]
mod finite_difference;
