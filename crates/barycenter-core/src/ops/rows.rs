//! Sums along a row, in sixteen lanes that every instruction set adds in the same order.

use super::simd::Arithmetic;

/// Lanes of a sum.
pub(super) const LANES: usize = 16;

/// Terms a lane adds in `f32` before its sum goes on in `f64`.
const TERMS_A_LANE: usize = 32;

/// Sum over positions of the product of two terms. Runs of 512 terms are added in `f32`, their sums in `f64`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with its caller's instruction set")]
pub(super) fn sum_of_products<A: Arithmetic, T: Fn(f32, f32) -> (f32, f32)>(
    left: &[f32],
    right: &[f32],
    terms: T,
) -> f64 {
    let mut total = 0.0;
    for (left, right) in left.chunks(LANES * TERMS_A_LANE).zip(right.chunks(LANES * TERMS_A_LANE)) {
        let mut sums = [0.0_f32; LANES];
        let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
        for (left, right) in left.iter().zip(right) {
            for (sum, (left, right)) in sums.iter_mut().zip(left.iter().zip(right)) {
                let (a, b) = terms(*left, *right);
                *sum = A::multiply_add(a, b, *sum);
            }
        }
        for (sum, (left, right)) in sums.iter_mut().zip(left_rest.iter().zip(right_rest)) {
            let (a, b) = terms(*left, *right);
            *sum = A::multiply_add(a, b, *sum);
        }
        total += f64::from(pairwise(sums));
    }
    total
}

/// Sum of the lanes, halves first.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with its caller's instruction set")]
pub(super) fn pairwise(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// The largest value of a row that is not empty; a NaN may or may not be passed over.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with its caller's instruction set")]
pub(super) fn largest(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}
