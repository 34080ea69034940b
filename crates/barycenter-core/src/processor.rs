//! Which instructions the kernels may use, found out at run time.

/// A set of instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processor {
    /// What every machine of the target has.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with operations on bytes, words and doublewords, and VNNI, beside [`Self::Avx2`].
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Processor {
    /// The best this machine has; the answers of the processor are kept, so that asking again costs nothing.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detected() -> Self {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        match (avx2, avx512) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            _ => Self::Portable,
        }
    }

    /// The best this machine has.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn detected() -> Self {
        Self::Portable
    }

    /// Everything this machine can run, for tests that hold the paths together.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        match Self::detected() {
            Self::Portable => {}
            Self::Avx2 => all.push(Self::Avx2),
            Self::Avx512 => all.extend([Self::Avx2, Self::Avx512]),
        }
        all
    }
}

/// Compiles plain code once for every [`Processor`] and calls the copy for the one given first.
///
/// The body is an `#[inline(always)]` function; the compiler vectorises each copy for its instructions. Rust never fuses
/// or reorders floating-point operations by itself, so the copies give the same bits.
macro_rules! for_processor {
    ($processor:expr, $body:path, ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2($($argument: $type),*) $(-> $result)? {
            $body($($argument),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vnni")]
        fn avx512($($argument: $type),*) $(-> $result)? {
            $body($($argument),*)
        }
        match $processor {
            $crate::processor::Processor::Portable => $body($($argument),*),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "a function compiled for instructions that the processor was asked for")]
            // SAFETY: a `Processor` other than the portable one exists only where it was detected.
            $crate::processor::Processor::Avx2 => unsafe { avx2($($argument),*) },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "a function compiled for instructions that the processor was asked for")]
            // SAFETY: as above.
            $crate::processor::Processor::Avx512 => unsafe { avx512($($argument),*) },
        }
    }};
}

pub(crate) use for_processor;
