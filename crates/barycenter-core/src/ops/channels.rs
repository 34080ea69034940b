//! Sums over the rows of a [rows, channels] array, one for each channel.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use rayon::prelude::*;

use crate::processor::{Processor, for_processor};

/// Channels summed side by side in registers.
const LANES: usize = 16;
/// Rows with a running sum of their own, so that one addition need not wait for the last.
const STRANDS: usize = 4;
/// Elements a task works on: they stay in the first-level cache for a second look.
pub(super) const PIECE: usize = 4096;

/// Number of elements a piece holds: whole rows, at least one.
pub(super) fn piece_length(channels: usize) -> usize {
    (PIECE / channels).max(1) * channels
}

/// What is summed: `SUMS` sums for each channel.
pub(super) trait Terms<const SUMS: usize> {
    /// What `N` neighbouring elements of one row add to each sum; the first is at `position`, in channel `channel`.
    fn at<const N: usize>(&self, position: usize, channel: usize) -> [[f32; N]; SUMS];
}

/// The sums over one piece of `length` elements, each `channels` long.
#[inline(always)]
pub(super) fn sum_channels<const SUMS: usize>(
    length: usize,
    channels: usize,
    terms: &impl Terms<SUMS>,
) -> [Vec<f32>; SUMS] {
    let mut sums = [(); SUMS].map(|()| vec![0.0; channels]);
    let mut channel = 0;
    while channel + LANES <= channels {
        write(&mut sums, channel, &sum_lanes::<LANES, SUMS>(length, channels, channel, terms));
        channel += LANES;
    }
    while channel < channels {
        write(&mut sums, channel, &sum_lanes::<1, SUMS>(length, channels, channel, terms));
        channel += 1;
    }
    sums
}

#[inline(always)]
fn write<const N: usize, const SUMS: usize>(sums: &mut [Vec<f32>; SUMS], channel: usize, lanes: &[[f32; N]; SUMS]) {
    for (sum, lanes) in sums.iter_mut().zip(lanes) {
        sum[channel..channel + N].copy_from_slice(lanes);
    }
}

#[inline(always)]
fn sum_lanes<const N: usize, const SUMS: usize>(
    length: usize,
    channels: usize,
    channel: usize,
    terms: &impl Terms<SUMS>,
) -> [[f32; N]; SUMS] {
    let rows = length / channels;
    let mut strands = [[[0.0_f32; N]; SUMS]; STRANDS];
    let mut row = 0;
    while row + STRANDS <= rows {
        for (strand, sums) in strands.iter_mut().enumerate() {
            add(sums, &terms.at::<N>((row + strand) * channels + channel, channel));
        }
        row += STRANDS;
    }
    while row < rows {
        add(&mut strands[0], &terms.at::<N>(row * channels + channel, channel));
        row += 1;
    }
    let [mut first, second, mut third, fourth] = strands;
    add(&mut first, &second);
    add(&mut third, &fourth);
    add(&mut first, &third);
    first
}

#[inline(always)]
fn add<const N: usize, const SUMS: usize>(sums: &mut [[f32; N]; SUMS], terms: &[[f32; N]; SUMS]) {
    for (sums, terms) in sums.iter_mut().zip(terms) {
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum += term;
        }
    }
}

/// The `N` elements from `position` on.
#[inline(always)]
pub(super) fn lanes<const N: usize>(elements: &[f32], position: usize) -> &[f32; N] {
    elements[position..position + N].first_chunk().expect("the slice has N elements")
}

/// The elements themselves as terms.
struct Plain<'a>(&'a [f32]);

impl Terms<1> for Plain<'_> {
    #[inline(always)]
    fn at<const N: usize>(&self, position: usize, _channel: usize) -> [[f32; N]; 1] {
        [*lanes(self.0, position)]
    }
}

/// The sums of a piece's own elements.
pub(super) fn plain_sums(piece: &[f32], channels: usize) -> [Vec<f32>; 1] {
    for_processor!(Processor::detected(), plain_sums_plain, (piece: &[f32], channels: usize) -> [Vec<f32>; 1])
}

#[inline(always)]
fn plain_sums_plain(piece: &[f32], channels: usize) -> [Vec<f32>; 1] {
    sum_channels(piece.len(), channels, &Plain(piece))
}

/// Sum of each column of row-major `values` [rows, columns]: pieces of rows, added in order in `f64`.
pub(super) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let pieces = values.par_chunks(piece_length(columns));
    let sums: Vec<[Vec<f32>; 1]> = pieces.map(|piece| plain_sums(piece, columns)).collect();
    let mut total = vec![0.0_f64; columns];
    for [piece] in &sums {
        for (total, sum) in total.iter_mut().zip(piece) {
            *total += f64::from(*sum);
        }
    }
    total.into_iter().map(|sum| sum as f32).collect()
}
