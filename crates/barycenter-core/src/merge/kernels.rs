//! `Σ weight · value` of stored numbers, summed in f64 and rounded once.
//!
//! Products and sums are rounded apart, never fused, so that every processor writes the same file.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use half::{bf16, f16, slice::HalfFloatSliceExt as _};

use crate::{
    checkpoint::{
        Dtype,
        numbers::{decode_f64, encode_f64},
    },
    memory::prefetch,
    processor::{Processor, for_processor},
};

/// Elements summed at a time; their sums stay in the nearest cache.
const STRIP: usize = 1024;

/// Averages stored numbers; every row is as long as `output`.
///
/// # Panics
/// Where the type is not [`Dtype::is_averageable`]; callers check that first.
pub(super) fn average(processor: Processor, dtype: Dtype, rows: &[&[u8]], weights: &[f64], output: &mut [u8]) {
    macro_rules! on_processor {
        ($body:path) => {
            for_processor!(processor, $body, (rows: &[&[u8]], weights: &[f64], output: &mut [u8]))
        };
    }
    match dtype {
        Dtype::F32 => on_processor!(average_f32),
        Dtype::Bf16 => on_processor!(average_bf16),
        Dtype::F16 => on_processor!(average_f16),
        Dtype::F64 => on_processor!(average_f64),
        other => average_as(other, other, rows, weights, output),
    }
}

#[inline(always)]
fn average_f32(rows: &[&[u8]], weights: &[f64], output: &mut [u8]) {
    let decode = |bytes| f64::from(f32::from_le_bytes(bytes));
    strips::<4>(rows, weights, output, decode, |sums, output| {
        for (bytes, sum) in output.iter_mut().zip(sums) {
            *bytes = (*sum as f32).to_le_bytes();
        }
    });
}

#[inline(always)]
fn average_bf16(rows: &[&[u8]], weights: &[f64], output: &mut [u8]) {
    let decode = |bytes| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16));
    strips::<2>(rows, weights, output, decode, |sums, output| {
        for (bytes, sum) in output.iter_mut().zip(sums) {
            *bytes = bf16::from_f32(to_odd(*sum)).to_le_bytes();
        }
    });
}

/// As the others, through slices: the conversion instructions take eight numbers at a time.
#[inline(always)]
fn average_f16(rows: &[&[u8]], weights: &[f64], output: &mut [u8]) {
    let (mut stored, mut values) = ([f16::ZERO; STRIP], [0f32; STRIP]);
    for (strip, output) in output.chunks_mut(2 * STRIP).enumerate() {
        let mut sums = [-0.0; STRIP];
        let (stored, values) = (&mut stored[..output.len() / 2], &mut values[..output.len() / 2]);
        for (row, weight) in rows.iter().zip(weights) {
            let bytes = &row[2 * STRIP * strip..][..output.len()];
            for (stored, bytes) in stored.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *stored = f16::from_le_bytes(*bytes);
            }
            stored.convert_to_f32_slice(values);
            for (sum, value) in sums.iter_mut().zip(&*values) {
                *sum += weight * f64::from(*value);
            }
        }
        for (value, sum) in values.iter_mut().zip(sums) {
            *value = to_odd(sum);
        }
        stored.convert_from_f32_slice(values);
        for (bytes, stored) in output.as_chunks_mut::<2>().0.iter_mut().zip(&*stored) {
            *bytes = stored.to_le_bytes();
        }
    }
}

/// An f64 has no wider sum to round from: where the weights sum to 1 and all candidates agree, their value is kept.
#[inline(always)]
fn average_f64(rows: &[&[u8]], weights: &[f64], output: &mut [u8]) {
    strips::<8>(rows, weights, output, f64::from_le_bytes, |sums, output| {
        for (bytes, sum) in output.iter_mut().zip(sums) {
            *bytes = sum.to_le_bytes();
        }
    });
    if (weights.iter().sum::<f64>() - 1.0).abs() < 1e-9
        && let Some((first, others)) = rows.split_first()
    {
        for (element, bytes) in output.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let common = &first[element * 8..element * 8 + 8];
            if others.iter().all(|row| &row[element * 8..element * 8 + 8] == common) {
                bytes.copy_from_slice(common);
            }
        }
    }
}

/// Sums of so many neighbours stay in registers while the rows go by.
const LANES: usize = 16;

/// So many bytes ahead rows are asked for: the processor's own guesses end with each page, and several rows go by in turn.
const AHEAD: usize = 2048;

/// Sums a few neighbours over all rows at a time; `decode` reads one stored number, `encode` writes their sums.
#[inline(always)]
fn strips<const N: usize>(
    rows: &[&[u8]],
    weights: &[f64],
    output: &mut [u8],
    decode: impl Fn([u8; N]) -> f64,
    encode: impl Fn(&[f64], &mut [[u8; N]]),
) {
    let (strips, rest) = output.as_chunks_mut::<N>().0.as_chunks_mut::<LANES>();
    let whole = strips.len();
    for (strip, output) in strips.iter_mut().enumerate() {
        // Minus zero is what changes nothing when it is added to: a sum of minus zeros stays one.
        let mut sums = [-0.0; LANES];
        for (row, weight) in rows.iter().zip(weights) {
            let row = &row.as_chunks::<N>().0.as_chunks::<LANES>().0[strip];
            prefetch(row.as_ptr().cast::<u8>().wrapping_add(AHEAD));
            for (sum, bytes) in sums.iter_mut().zip(row) {
                *sum += weight * decode(*bytes);
            }
        }
        encode(&sums, output);
    }
    let mut sums = [-0.0; LANES];
    for (row, weight) in rows.iter().zip(weights) {
        for (sum, bytes) in sums.iter_mut().zip(&row.as_chunks::<N>().0[whole * LANES..]) {
            *sum += weight * decode(*bytes);
        }
    }
    encode(&sums[..rest.len()], rest);
}

/// Averages numbers of one type into those of another: types without a kernel of their own, and the plain version that tests
/// hold the others to.
pub(super) fn average_as(written: Dtype, dtype: Dtype, rows: &[&[u8]], weights: &[f64], output: &mut [u8]) {
    let elements = output.len() / written.size();
    let (mut sums, mut values) = (vec![-0.0; elements], vec![0.0; elements]);
    for (row, weight) in rows.iter().zip(weights) {
        decode_f64(dtype, row, &mut values);
        for (sum, value) in sums.iter_mut().zip(&values) {
            *sum += weight * value;
        }
    }
    encode_f64(written, &sums, output);
}

/// Rounds to odd: a following rounding to 16 bits is then the correct rounding of the f64 value, where rounding to the
/// nearest f32 first would round twice (Boldo and Melquiond 2008). Without branches, so that it vectorises.
#[inline(always)]
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    let bits = nearest.to_bits();
    let toward_zero = bits.wrapping_sub(u32::from(back.abs() > value.abs()));
    let is_exact = back.to_bits() == value.to_bits() || value.is_nan();
    f32::from_bits(if is_exact { bits } else { toward_zero | 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of numbers of every size, with zeros of both signs, subnormals and the largest.
    fn rows(dtype: Dtype, count: usize, elements: usize) -> Vec<Vec<u8>> {
        let mut state = 3_u64;
        let mut number = |element: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
            match element % 9 {
                0 => -0.0,
                1 => uniform * 1e-7,
                2 => uniform * 1e5,
                3 => uniform * 1e-41,
                _ => uniform,
            }
        };
        let mut row = || {
            let values: Vec<f64> = (0..elements).map(&mut number).collect();
            let mut bytes = vec![0; elements * dtype.size()];
            encode_f64(dtype, &values, &mut bytes);
            bytes
        };
        (0..count).map(|_| row()).collect()
    }

    #[test]
    fn every_type_is_averaged_as_by_the_plain_version_on_every_processor() {
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64] {
            for elements in [1, 7, 1023, 1024, 5000] {
                let rows = rows(dtype, 4, elements);
                let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
                for weights in [[0.25; 4], [0.7, -0.2, 1.3, -0.9], [1e3, 1e-3, 0.0, 1.0]] {
                    let mut plain = vec![0; rows[0].len()];
                    average_as(dtype, dtype, &rows, &weights, &mut plain);
                    for processor in Processor::available() {
                        let mut found = vec![1; rows[0].len()];
                        average(processor, dtype, &rows, &weights, &mut found);
                        assert!(found == plain, "{dtype} {processor:?} {elements} {weights:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_zero_keeps_its_sign() {
        let row = (-0f32).to_le_bytes();
        let mut output = [0; 4];
        average(Processor::detected(), Dtype::F32, &[&row[..]; 3], &[1.0 / 3.0; 3], &mut output);
        assert_eq!(output, row);
    }
}
