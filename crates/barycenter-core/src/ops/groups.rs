//! The channels of one group of a grouped convolution, taken out of an array and put back.

use std::borrow::Cow;

use rayon::prelude::*;

/// Pixels a task copies.
const PIECE: usize = 1024;

/// Which group, of how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) index: usize,
    pub(super) of: usize,
}

impl Group {
    /// Every group in turn.
    pub(super) fn each(of: usize) -> impl Iterator<Item = Self> {
        (0..of).map(move |index| Self { index, of })
    }

    /// The group's channels of `pixels` [..., of · channels] as [..., channels]; without a copy where there is one group.
    pub(super) fn take(self, pixels: &[f32], channels: usize) -> Cow<'_, [f32]> {
        if self.of == 1 {
            return Cow::Borrowed(pixels);
        }
        let mut taken = vec![0.0; pixels.len() / self.of];
        let pieces = taken.par_chunks_mut(PIECE * channels).zip(pixels.par_chunks(PIECE * channels * self.of));
        pieces.for_each(|(taken, pixels)| {
            for (taken, pixel) in taken.chunks_exact_mut(channels).zip(pixels.chunks_exact(channels * self.of)) {
                taken.copy_from_slice(&pixel[self.index * channels..][..channels]);
            }
        });
        Cow::Owned(taken)
    }

    /// The inverse of [`take`](Self::take): writes the group's channels into `pixels`.
    pub(super) fn put(self, group: Vec<f32>, channels: usize, pixels: &mut Vec<f32>) {
        if self.of == 1 {
            *pixels = group;
            return;
        }
        pixels.resize(group.len() * self.of, 0.0);
        let pieces = pixels.par_chunks_mut(PIECE * channels * self.of).zip(group.par_chunks(PIECE * channels));
        pieces.for_each(|(pixels, group)| {
            for (pixel, group) in pixels.chunks_exact_mut(channels * self.of).zip(group.chunks_exact(channels)) {
                pixel[self.index * channels..][..channels].copy_from_slice(group);
            }
        });
    }

    /// The group's part of a weight [of · outputs, ...].
    pub(super) fn part(self, weight: &[f32]) -> &[f32] {
        let length = weight.len() / self.of;
        &weight[self.index * length..][..length]
    }
}
