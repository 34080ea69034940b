//! The program's allocator, with its settings.

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
    set_purge_delay(KEPT_MS);
}

/// Gives freed memory back to the system at once, in small pages.
///
/// A server's memory is then what its requests hold. By default it is what they took in the last second as well: gigabytes pass
/// through a server in buffers of a few hundred kilobytes, each of which is freed soon, and a huge page stays whole for any of them.
/// To be called once, at the start of a program.
pub fn give_back_at_once() {
    set_purge_delay(0);
    // Where the system has no such call, its pages are as large as it likes.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_thp_disable(true);
}

fn set_purge_delay(milliseconds: c_long) {
    #[expect(unsafe_code, reason = "the library has this as a call to C alone")]
    // SAFETY: the option exists in every version the bindings carry, and is an atomic number that may be set at any time.
    unsafe {
        mi_option_set(PURGE_DELAY, milliseconds);
    }
}
