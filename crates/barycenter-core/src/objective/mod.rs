//! What a fit minimises.

use crate::Result;

/// A loss over the averaged tensors, with its gradient.
pub trait Objective {
    /// Steps that make one pass over the data.
    fn steps_per_epoch(&self) -> u64;

    /// Loss and gradient at these weights on the batch of this step: one flat vector per averaged tensor, in order.
    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], step: u64) -> Result<(f64, Vec<Vec<f32>>)>;
}
