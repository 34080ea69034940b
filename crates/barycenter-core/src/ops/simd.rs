//! Code that is compiled once for every instruction set and chosen at run time.

use std::sync::OnceLock;

/// How `a * b + c` is rounded.
pub(super) trait Arithmetic {
    /// `a * b + c`.
    fn multiply_add(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding, by the instruction that AVX2 and AVX-512 machines have.
pub(super) struct Fused;

/// Two roundings, for every machine.
pub(super) struct Separate;

impl Arithmetic for Fused {
    #[inline]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Arithmetic for Separate {
    #[inline]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstructionSet {
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// What every machine of the target has.
    Portable,
}

/// The best instruction set of this machine.
pub(super) fn instruction_set() -> InstructionSet {
    static FOUND: OnceLock<InstructionSet> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if has_avx2 && has_avx512 {
                return InstructionSet::Avx512;
            }
            if has_avx2 {
                return InstructionSet::Avx2;
            }
        }
        InstructionSet::Portable
    })
}

/// Defines a function whose body, plain Rust over slices, is compiled for each instruction set: the compiler turns its loops
/// into the set's vector instructions. The body is generic over the [`Arithmetic`] named in angle brackets.
///
/// Sums in a body run in lanes that the source spells out, so the sets with a fused multiply-add give the same bits.
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $visibility:vis fn $name:ident<$arithmetic:ident>($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$meta])*
        $visibility fn $name($($argument: $kind),*) $(-> $result)? {
            // Inlined, so that it is compiled with its caller's instruction set.
            #[inline(always)]
            fn body<$arithmetic: $crate::ops::simd::Arithmetic>($($argument: $kind),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                use $crate::ops::simd::{Fused, InstructionSet, instruction_set};

                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($argument: $kind),*) $(-> $result)? {
                    body::<Fused>($($argument),*)
                }

                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $kind),*) $(-> $result)? {
                    body::<Fused>($($argument),*)
                }

                #[expect(unsafe_code, reason = "the instruction set was looked up")]
                match instruction_set() {
                    // SAFETY: `instruction_set` found AVX-512 F, BW, DQ, VL, AVX2 and FMA on this machine.
                    InstructionSet::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: `instruction_set` found AVX2 and FMA on this machine.
                    InstructionSet::Avx2 => return unsafe { avx2($($argument),*) },
                    InstructionSet::Portable => {}
                }
            }
            body::<$crate::ops::simd::Separate>($($argument),*)
        }
    };
}

pub(super) use kernel;
