//! Large buffers.

use std::mem::MaybeUninit;

/// Buffers of fewer bytes are left to the allocator as they are.
const LARGE: usize = 1 << 23;

/// Size of a huge page on the processors that have them.
const HUGE_PAGE: usize = 1 << 21;

/// Numbers of f32 in a cache line.
pub(crate) const LINE: usize = 16;

/// So many zeros. The system is asked for huge pages where there are many: it hands memory out page by page, and a
/// gigabyte in small pages takes longer to get than to fill.
pub(crate) fn zeros<T: Copy + Default>(len: usize) -> Vec<T> {
    let buffer = vec![T::default(); len];
    ask_for_huge_pages(&buffer);
    buffer
}

/// Room for so many numbers, of which none is there yet. As [`zeros`], less the pass over memory where it is not new.
pub(crate) fn room<T>(len: usize) -> Vec<T> {
    let buffer = Vec::with_capacity(len);
    ask_for_huge_pages(&buffer);
    buffer
}

fn ask_for_huge_pages<T>(buffer: &Vec<T>) {
    let (start, bytes) = (buffer.as_ptr().addr(), size_of::<T>() * buffer.capacity());
    let skipped = start.next_multiple_of(HUGE_PAGE) - start;
    if bytes >= LARGE {
        advise(buffer.as_ptr().cast::<u8>().wrapping_add(skipped), (bytes - skipped) / HUGE_PAGE * HUGE_PAGE);
    }
}

/// So many numbers that `write` is the first to write: zeros that are overwritten cost a pass over memory.
///
/// Without optimisation they are NaN before, so that a test sees one that nobody wrote.
///
/// # Safety
///
/// `write` must write every element.
#[expect(unsafe_code, reason = "only the caller knows that every element is written")]
pub(crate) unsafe fn written(len: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut buffer = Vec::with_capacity(len);
    let room = &mut buffer.spare_capacity_mut()[..len];
    if cfg!(debug_assertions) {
        room.fill(MaybeUninit::new(f32::NAN));
    }
    write(room);
    // SAFETY: there is room for `len` elements, and the caller promises that all are written.
    unsafe {
        buffer.set_len(len);
    }
    buffer
}

/// Asks for the cache line of a value that will be read soon; any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the intrinsics ask for SSE, which every x86-64 has")]
    // SAFETY: a prefetch is a hint; no address faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(value.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(target_os = "linux")]
fn advise(start: *const u8, bytes: usize) {
    #[expect(unsafe_code, reason = "advice takes a pointer")]
    // SAFETY: the range lies inside a live buffer, and this advice changes neither its content nor who may use it. It is
    // only advice: nothing is lost where the system refuses.
    unsafe {
        libc::madvise(start.cast_mut().cast(), bytes, libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_start: *const u8, _bytes: usize) {}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_zeros_that_can_be_written() {
        let mut buffer: Vec<f32> = zeros(3 * LARGE / 4);
        assert!(buffer.iter().all(|value| *value == 0.0));
        buffer.fill(1.0);
        assert!(buffer.iter().all(|value| *value == 1.0));
    }
}
