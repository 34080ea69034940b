//! Element types of the safetensors format.

use std::{fmt, str::FromStr};

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 1 byte.
    U8,
    /// Signed, 1 byte.
    I8,
    /// Signed, 2 bytes.
    I16,
    /// Unsigned, 2 bytes.
    U16,
    /// Signed, 4 bytes.
    I32,
    /// Unsigned, 4 bytes.
    U32,
    /// Signed, 8 bytes.
    I64,
    /// Unsigned, 8 bytes.
    U64,
    /// 8-bit float, 4 exponent and 3 mantissa bits (OCP E4M3, no infinities).
    F8E4M3,
    /// 8-bit float, 5 exponent and 2 mantissa bits (OCP E5M2).
    F8E5M2,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
}

impl Dtype {
    /// Every element type, in the order of the enum.
    pub const ALL: [Self; 15] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::I16,
        Self::U16,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::U64,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
    ];

    /// Name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::I64 => "I64",
            Self::U64 => "U64",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
            Self::F64 => "F64",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// Whether elements are floating-point numbers, which is to say whether tensors of this type can be averaged.
    pub fn is_averageable(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2 | Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// Whether any element that ends in these bytes is NaN or infinite; never for a type that is no float.
    ///
    /// Reads all of them at memory speed, without an early exit. `bytes` holds whole elements.
    pub fn holds_not_finite(self, bytes: &[u8]) -> bool {
        match self {
            Self::F64 => any(bytes, |b| exponent_full(u64::from_le_bytes(b), 0x7ff0_0000_0000_0000)),
            Self::F32 => any(bytes, |b| exponent_full(u32::from_le_bytes(b), 0x7f80_0000)),
            Self::F16 => any(bytes, |b| exponent_full(u16::from_le_bytes(b), 0x7c00)),
            Self::Bf16 => any(bytes, |b| exponent_full(u16::from_le_bytes(b), 0x7f80)),
            Self::F8E5M2 => any(bytes, |[b]: [u8; 1]| exponent_full(b, 0x7c)),
            // E4M3 has no infinities and one NaN of either sign.
            Self::F8E4M3 => any(bytes, |[b]: [u8; 1]| exponent_full(b, 0x7f)),
            _ => false,
        }
    }
}

fn exponent_full<B: std::ops::BitAnd<Output = B> + Copy + PartialEq>(bits: B, mask: B) -> bool {
    bits & mask == mask
}

fn any<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> bool {
    // Without an early exit the loop runs in vector registers.
    bytes.as_chunks::<N>().0.iter().fold(false, |so_far, element| so_far | bad(*element))
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| format!("unknown dtype `{}`", super::layout::shown(text)))
    }
}
