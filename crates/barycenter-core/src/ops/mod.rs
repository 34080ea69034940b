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
mod attention;
mod batch_norm;
mod channels;
mod columns;
mod conv2d;
mod cross_entropy;
mod direct;
mod embedding;
mod functions;
mod graph;
mod layer_norm;
mod linear;
mod matrix;
mod moments;
mod patches;
mod pool;
mod relu;
mod rows;
mod sequence;
mod simd;
mod storage;
mod unit_rows;

pub use activation::Activation;
pub use attention::{AttentionForm, attention};
pub use batch_norm::{BatchNormForm, batch_norm};
pub use conv2d::conv2d;
pub use cross_entropy::cross_entropy;
pub use embedding::embedding;
pub use graph::{Gradients, Graph};
pub use layer_norm::layer_norm;
pub use linear::{Affine, Orientation, affine, linear};
pub use moments::Moments;
pub use patches::patches;
pub use pool::global_average_pool;
pub use relu::relu;
pub use sequence::{class_token, with_class_token};
pub use storage::{read, read_tokens};
pub use unit_rows::unit_rows;

#[cfg(test)]
mod finite_difference;
