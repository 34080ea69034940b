//! Where the codes of a group lie in its bytes.
//!
//! A group is read as little-endian words of 32 bits. A run of [`run_words`] words holds the codes of neighbouring
//! elements slot by slot: slot `s` of word `w`, its bits `s·b …`, is the code of element `s · run_words + w` of the run.
//! One mask therefore picks a whole register of neighbouring elements, and a byte of a word always holds the same slots.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use super::GROUP;

/// Words of 32 bits in a run; 16 of them are a register of AVX-512. A group of 1 bit has only 8.
pub(super) const fn run_words(bits: usize) -> usize {
    if bits == 1 { 8 } else { 16 }
}

/// Codes of one word.
pub(super) const fn slots(bits: usize) -> usize {
    32 / bits
}

/// Bytes of one candidate's codes in one tile.
pub(super) const fn code_bytes(bits: u8) -> usize {
    GROUP / 8 * bits as usize
}

/// Packs the codes of a group, which `code` gives by element; `into` holds 32 · `BITS` bytes.
#[inline(always)]
pub(super) fn pack<const BITS: usize>(code: impl Fn(usize) -> u32, into: &mut [u8]) {
    if BITS == 1 {
        pack_runs::<BITS, 8>(code, into);
    } else {
        pack_runs::<BITS, 16>(code, into);
    }
}

/// As [`pack`], in runs of `RUN` words; a register's worth of them is shifted at once.
#[inline(always)]
fn pack_runs<const BITS: usize, const RUN: usize>(code: impl Fn(usize) -> u32, into: &mut [u8]) {
    for (run, into) in into.chunks_exact_mut(4 * RUN).enumerate() {
        let mut words = [0; RUN];
        for slot in (0..slots(BITS)).rev() {
            let first = (run * slots(BITS) + slot) * RUN;
            for (lane, word) in words.iter_mut().enumerate() {
                *word = *word << BITS | code(first + lane);
            }
        }
        for (bytes, word) in into.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }
}

/// The codes that [`pack`] packed.
#[inline(always)]
pub(super) fn unpack<const BITS: usize>(bytes: &[u8]) -> [u32; GROUP] {
    let (run, slots) = (run_words(BITS), slots(BITS));
    let mut codes = [0; GROUP];
    for (codes, bytes) in codes.chunks_exact_mut(run * slots).zip(bytes.chunks_exact(4 * run)) {
        for (slot, codes) in codes.chunks_exact_mut(run).enumerate() {
            for (code, word) in codes.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *code = u32::from_le_bytes(*word) >> (slot * BITS) & (u32::MAX >> (32 - BITS));
            }
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element_by_element<const BITS: usize>(codes: &[u32; GROUP]) -> Vec<u8> {
        let (run, slots) = (run_words(BITS), slots(BITS));
        let mut words = vec![0_u32; GROUP * BITS / 32];
        for (element, code) in codes.iter().enumerate() {
            let (place, rest) = (element / (run * slots), element % (run * slots));
            words[place * run + rest % run] |= code << (rest / run * BITS);
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn check<const BITS: usize>() {
        let mut state = 7_u32;
        let codes: [u32; GROUP] = std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> (32 - BITS)
        });
        let mut bytes = vec![0; 32 * BITS];
        pack::<BITS>(|element| codes[element], &mut bytes);
        assert_eq!(bytes, element_by_element::<BITS>(&codes));
        assert_eq!(unpack::<BITS>(&bytes), codes);
    }

    #[test]
    fn every_code_lies_in_its_word_and_slot_and_comes_back() {
        check::<1>();
        check::<2>();
        check::<4>();
        check::<8>();
    }
}
