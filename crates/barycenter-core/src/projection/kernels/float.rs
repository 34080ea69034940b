//! The two passes over f32 deviations (32 bits).

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use super::{Packed, Target, padded};
use crate::projection::GROUP;

/// Running sums kept apart while a tile is summed.
const LANES: usize = 16;

/// As `project_chunk`, summed in f64.
#[inline(always)]
pub(super) fn project(packed: &Packed<'_>, gradient: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; packed.n];
    let tiles = packed.codes.chunks_exact(packed.n * 4 * GROUP);
    for (columns, codes) in gradient.chunks(GROUP).zip(tiles) {
        let g = padded(columns);
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(4 * GROUP)) {
            let mut lanes = [0f64; LANES];
            let values = codes.as_chunks::<4>().0.as_chunks::<LANES>().0;
            for (values, g) in values.iter().zip(g.as_chunks::<LANES>().0) {
                for lane in 0..LANES {
                    lanes[lane] += f64::from(f32::from_le_bytes(values[lane])) * f64::from(g[lane]);
                }
            }
            *sum += lanes.iter().sum::<f64>();
        }
    }
    sums
}

/// As `reconstruct_chunk`.
#[inline(always)]
pub(super) fn reconstruct(packed: &Packed<'_>, target: &mut Target<'_>) {
    let tiles = packed.codes.chunks_exact(packed.n * 4 * GROUP);
    let columns = target.weights.chunks_mut(GROUP).zip(target.centre.chunks(GROUP));
    for ((weights, centre), codes) in columns.zip(tiles) {
        let mut sums = [0.0; GROUP];
        for (factor, codes) in target.factors.iter().zip(codes.chunks_exact(4 * GROUP)) {
            for (sum, value) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
                *sum += f32::from_le_bytes(*value) * factor;
            }
        }
        for ((w, c), sum) in weights.iter_mut().zip(centre).zip(&sums) {
            *w = c + sum;
        }
    }
}
