//! Stored numbers to floats and back, by element type.

use half::{bf16, f16};

use super::{
    Dtype,
    fp8::{E4M3, E5M2, Format},
};

/// Decodes stored numbers into f32; `bytes` holds exactly `into.len()` of them.
///
/// # Panics
/// Where the type is not [`Dtype::is_averageable`]; callers check that first.
pub(crate) fn decode_f32(dtype: Dtype, bytes: &[u8], into: &mut [f32]) {
    debug_assert_eq!(bytes.len(), into.len() * dtype.size());
    match dtype {
        Dtype::F32 => each(bytes, into, f32::from_le_bytes),
        Dtype::F64 => each(bytes, into, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => each(bytes, into, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::Bf16 => each(bytes, into, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F8E4M3 => look_up(E4M3, bytes, into, |v| v as f32),
        Dtype::F8E5M2 => look_up(E5M2, bytes, into, |v| v as f32),
        other => unreachable!("{other} is checked to be averageable before it is decoded"),
    }
}

/// Decodes stored numbers into f64, exactly; as [`decode_f32`] otherwise.
pub(crate) fn decode_f64(dtype: Dtype, bytes: &[u8], into: &mut [f64]) {
    debug_assert_eq!(bytes.len(), into.len() * dtype.size());
    match dtype {
        Dtype::F32 => each(bytes, into, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::F64 => each(bytes, into, f64::from_le_bytes),
        Dtype::F16 => each(bytes, into, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::Bf16 => each(bytes, into, |b| f64::from(bf16::from_le_bytes(b).to_f32())),
        Dtype::F8E4M3 => look_up(E4M3, bytes, into, |v| v),
        Dtype::F8E5M2 => look_up(E5M2, bytes, into, |v| v),
        other => unreachable!("{other} is checked to be averageable before it is decoded"),
    }
}

/// Encodes f64 values, rounded once to the nearest, ties to even; as [`decode_f64`] otherwise.
pub(crate) fn encode_f64(dtype: Dtype, values: &[f64], into: &mut [u8]) {
    debug_assert_eq!(into.len(), values.len() * dtype.size());
    match dtype {
        Dtype::F32 => put(values, into, |v| (v as f32).to_le_bytes()),
        Dtype::F64 => put(values, into, f64::to_le_bytes),
        Dtype::F16 => put(values, into, |v| f16::from_f32(to_odd(v)).to_le_bytes()),
        Dtype::Bf16 => put(values, into, |v| bf16::from_f32(to_odd(v)).to_le_bytes()),
        Dtype::F8E4M3 => put(values, into, |v| [E4M3.encode(v)]),
        Dtype::F8E5M2 => put(values, into, |v| [E5M2.encode(v)]),
        other => unreachable!("{other} is checked to be averageable before it is encoded"),
    }
}

fn each<const N: usize, T>(bytes: &[u8], into: &mut [T], read: impl Fn([u8; N]) -> T) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (value, chunk) in into.iter_mut().zip(chunks) {
        *value = read(*chunk);
    }
}

fn look_up<T: Copy>(format: Format, bytes: &[u8], into: &mut [T], from: impl Fn(f64) -> T) {
    let table = format.table().map(from);
    each(bytes, into, |[code]: [u8; 1]| table[usize::from(code)]);
}

fn put<const N: usize>(values: &[f64], into: &mut [u8], write: impl Fn(f64) -> [u8; N]) {
    let (chunks, _) = into.as_chunks_mut::<N>();
    for (chunk, value) in chunks.iter_mut().zip(values) {
        *chunk = write(*value);
    }
}

/// Rounds to odd: a following rounding to 16 bits is then the correct rounding of the f64 value, where rounding to the
/// nearest f32 first would round twice (Boldo and Melquiond 2008).
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if back.to_bits() == value.to_bits() || value.is_nan() {
        return nearest;
    }
    let bits = nearest.to_bits();
    let toward_zero = if back.abs() > value.abs() { bits - 1 } else { bits };
    f32::from_bits(toward_zero | 1)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bit_results_are_rounded_once() {
        // Just above the middle of 1 and its successor: rounding to f32 first would lose the "just above".
        let (middle, above) = (1.0 + 2f64.powi(-11), 1.0 + 2f64.powi(-11) + 2f64.powi(-40));
        let mut bytes = [0; 4];
        encode_f64(Dtype::F16, &[middle, above], &mut bytes);
        assert_eq!(bytes, [0x00, 0x3c, 0x01, 0x3c]);
        let (middle, above) = (1.0 + 2f64.powi(-8), 1.0 + 2f64.powi(-8) + 2f64.powi(-40));
        encode_f64(Dtype::Bf16, &[middle, above], &mut bytes);
        assert_eq!(bytes, [0x80, 0x3f, 0x81, 0x3f]);
    }

    #[test]
    fn every_eight_bit_number_survives_a_round_trip() {
        for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
            let codes: Vec<u8> = (0..=u8::MAX).collect();
            let (mut values, mut narrow, mut back) = ([0.0; 256], [0.0; 256], [0; 256]);
            decode_f64(dtype, &codes, &mut values);
            decode_f32(dtype, &codes, &mut narrow);
            encode_f64(dtype, &values, &mut back);
            for code in 0..256 {
                let value = values[code];
                assert!(value.is_nan() || usize::from(back[code]) == code, "{dtype} {code:#x}");
                assert!(value.is_nan() || f64::from(narrow[code]) == value, "{dtype} {code:#x}");
            }
        }
    }

    #[test]
    fn every_sixteen_bit_number_survives_a_round_trip() {
        for bits in 0..=u16::MAX {
            for dtype in [Dtype::F16, Dtype::Bf16] {
                let (mut value, mut back) = ([0.0], [0; 2]);
                decode_f64(dtype, &bits.to_le_bytes(), &mut value);
                encode_f64(dtype, &value, &mut back);
                assert!(value[0].is_nan() || back == bits.to_le_bytes(), "{dtype} {bits:#x}");
            }
        }
    }
}
