//! The program's allocator, with its one setting.

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set, mi_option_t};
pub use mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, which the bindings leave out.
const PURGE_DELAY: mi_option_t = 15;

/// Longer than a step of a fit takes on a busy machine; the largest buffers stay ten times as long.
const KEPT_MS: c_long = 10_000;

/// Keeps freed memory for some seconds before the system gets it back.
///
/// A step of a fit frees what the next one takes again some milliseconds later. By default the allocator returns it after ten of
/// them, and the system clears every page anew: a tenth of a fit's time. To be called once, at the start of a program.
pub fn keep_between_steps() {
    #[expect(unsafe_code, reason = "the library has this as a call to C alone")]
    // SAFETY: the option exists in every version the bindings carry, and is an atomic number that may be set at any time.
    unsafe {
        mi_option_set(PURGE_DELAY, KEPT_MS);
    }
}
