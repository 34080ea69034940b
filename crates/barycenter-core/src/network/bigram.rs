//! The smallest language model, for tests: a token's logits depend on the token before it alone.

use candle_core::Tensor;

use super::layers::Linear;
use super::layout::{Layout, TensorSpec};
use super::{Mode, Network, Weights};
use crate::{Error, Result};

/// `nn.Linear` on one-hot tokens, under the name `table`.
pub(crate) struct Bigram {
    vocabulary: usize,
    table: Linear,
    tensors: Vec<TensorSpec>,
}

impl Bigram {
    pub(crate) fn new(vocabulary: usize) -> Self {
        let mut layout = Layout::default();
        let table = Linear::new(&mut layout, "table", vocabulary, vocabulary);
        Self { vocabulary, table, tensors: layout.finish() }
    }
}

impl Network for Bigram {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn forward(&self, weights: &Weights, inputs: &Tensor, _mode: &mut Mode<'_>) -> Result<Tensor> {
        let tokens = inputs.flatten_all()?.to_vec1::<u32>()?;
        let mut one_hot = vec![0.0_f32; tokens.len() * self.vocabulary];
        for (row, token) in one_hot.chunks_exact_mut(self.vocabulary).zip(&tokens) {
            row[*token as usize] = 1.0;
        }
        self.table.forward(weights, &Tensor::from_vec(one_hot, (tokens.len(), self.vocabulary), inputs.device())?)
    }

    fn outputs(&self) -> usize {
        self.vocabulary
    }

    fn reads_tokens(&self) -> bool {
        true
    }

    fn check_input(&self, sample_shape: &[usize]) -> Result<()> {
        if sample_shape.len() == 1 { Ok(()) } else { Err(Error::input("the bigram takes rows of tokens")) }
    }

    fn activation_bytes(&self, sample_shape: &[usize], batch_size: usize) -> usize {
        5 * self.vocabulary * sample_shape[0] * batch_size * size_of::<f32>()
    }
}
