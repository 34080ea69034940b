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

mod batch_norm;
mod channels;
mod columns;
mod conv2d;
mod cross_entropy;
mod direct;
mod graph;
mod linear;
mod matrix;
mod moments;
mod pool;
mod relu;
mod squared_error;
mod storage;

pub use batch_norm::{BatchNormForm, batch_norm};
pub use conv2d::conv2d;
pub use cross_entropy::{NO_LABEL, cross_entropy};
pub use graph::{Gradients, Graph};
pub use linear::linear;
pub use moments::Moments;
pub use pool::global_average_pool;
pub use relu::relu;
pub use squared_error::squared_error;
pub use storage::read;

#[cfg(test)]
mod finite_difference;
