//! Which columns are asked for, and when, so that they are there when it is their turn.

#![expect(clippy::inline_always, reason = "a call costs more than what it does")]

use crate::memory::{LINE, prefetch_for_later};

/// Asks for one line of the [`COLUMNS`] so far ahead.
#[inline(always)]
pub(super) fn ask(values: &[f32], ahead: usize, line: AskedWhile) {
    prefetch_for_later(values.as_ptr().wrapping_add(ahead + line as usize * LINE));
}

/// Which of the four cache lines of [`COLUMNS`] is asked for in which part of the work. A processor has room for so many requests
/// only, and waits where it has none: asked for evenly, what comes next is there in half the time.
#[derive(Clone, Copy)]
pub(super) enum AskedWhile {
    Trying,
    Deviating,
    Rounding,
    Averaging,
}

/// Columns of which each part of the work asks for one line.
pub(super) const COLUMNS: usize = 4 * LINE;
