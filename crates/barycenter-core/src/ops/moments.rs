//! Mean and variance of each channel, to the last digits that `f32` inputs allow.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::channels::{Terms, lanes, piece_length, plain_sums, sum_channels};
use super::storage::read;
use crate::processor::{Processor, for_processor};

/// Mean and variance of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: Vec<f64>,
    /// Variance, divided by the number of values.
    pub variance: Vec<f64>,
    /// Values a channel has.
    pub count: usize,
}

impl Moments {
    /// Moments of `inputs` [..., channels] over all leading dimensions.
    ///
    /// Each piece of 4096 elements is summed twice while it lies in the cache, the second time about its own mean; the
    /// pieces are merged in `f64` by the rule of Chan, Golub and `LeVeque` (1979), so that no digits cancel.
    pub fn of(inputs: &Tensor) -> Result<Self> {
        let channels = inputs.dims().last().copied().unwrap_or(0);
        if inputs.elem_count() == 0 {
            bail!("batch norm over no values (shape {:?})", inputs.dims());
        }
        read(inputs, |inputs| {
            let pieces: Vec<_> = inputs
                .par_chunks(piece_length(channels))
                .map(|piece| (piece.len() / channels, piece_moments(piece, channels)))
                .collect();
            let mut total = Self { mean: vec![0.0; channels], variance: vec![0.0; channels], count: 0 };
            for (rows, (means, squares)) in pieces {
                total.merge(rows, &means, &squares);
            }
            for variance in &mut total.variance {
                *variance /= total.count as f64;
            }
            total
        })
    }

    /// What stands for the moments of a tensor that has no numbers: see [`Graph::planning`](super::Graph::planning).
    pub fn unknown(inputs: &Tensor) -> Self {
        let channels = inputs.dims().last().copied().unwrap_or(0);
        Self { mean: vec![0.0; channels], variance: vec![1.0; channels], count: inputs.elem_count() / channels.max(1) }
    }

    /// Merges a piece; `variance` holds sums of squares until all pieces are in.
    fn merge(&mut self, rows: usize, means: &[f32], squares: &[f32]) {
        let (before, here) = (self.count as f64, rows as f64);
        let all = before + here;
        for ((mean, sum), (piece_mean, piece_squares)) in
            self.mean.iter_mut().zip(&mut self.variance).zip(means.iter().zip(squares))
        {
            let difference = f64::from(*piece_mean) - *mean;
            *mean += difference * here / all;
            *sum += f64::from(*piece_squares) + difference * difference * before * here / all;
        }
        self.count += rows;
    }
}

/// Means of one piece, and sums of squares about them.
fn piece_moments(piece: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = (piece.len() / channels) as f32;
    let [mut means] = plain_sums(piece, channels);
    for mean in &mut means {
        *mean /= rows;
    }
    let [squares] = square_sums(piece, &means);
    (means, squares)
}

/// Sums of squares about the means.
fn square_sums(piece: &[f32], means: &[f32]) -> [Vec<f32>; 1] {
    for_processor!(Processor::detected(), square_sums_plain, (piece: &[f32], means: &[f32]) -> [Vec<f32>; 1])
}

#[inline(always)]
fn square_sums_plain(piece: &[f32], means: &[f32]) -> [Vec<f32>; 1] {
    sum_channels(piece.len(), means.len(), &Squares { values: piece, means })
}

struct Squares<'a> {
    values: &'a [f32],
    means: &'a [f32],
}

impl Terms<1> for Squares<'_> {
    #[inline(always)]
    fn at<const N: usize>(&self, position: usize, channel: usize) -> [[f32; N]; 1] {
        let (values, means) = (lanes::<N>(self.values, position), lanes::<N>(self.means, channel));
        [std::array::from_fn(|lane| (values[lane] - means[lane]) * (values[lane] - means[lane]))]
    }
}
