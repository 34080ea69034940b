//! Which columns are asked for, and when, so that they are there when it is their turn.

#![expect(clippy::inline_always, reason = "a call costs more than what it does")]

use std::slice;

use crate::memory::{LINE, prefetch};

/// What lies behind some rows, asked for line by line while the rows are at work.
///
/// As much lies there as in the rows. All of it behind one row is asked for before anything behind the next one, an order that a
/// processor's own prefetchers follow; and every part of the work asks for as much, because a processor has room for so many
/// requests only, and drops others or waits.
pub(in crate::projection) struct Ahead<'a> {
    rows: slice::Iter<'a, &'a [f32]>,
    next: Lines,
    /// Lines behind this row that were not asked for yet.
    left: usize,
}

/// Neighbouring lines.
#[derive(Clone, Copy)]
pub(super) struct Lines(*const f32);

/// Lines of as many columns as every part of the work asks for one line of.
const LINES: usize = 4;

/// Columns of which every part of the work asks for one line.
pub(super) const COLUMNS: usize = LINES * LINE;

impl<'a> Ahead<'a> {
    pub(in crate::projection) fn behind(rows: &'a [&'a [f32]]) -> Self {
        Self { rows: rows.iter(), next: Lines(std::ptr::null()), left: 0 }
    }

    /// Asks for one line.
    #[inline(always)]
    pub(super) fn ask(&mut self) {
        self.take(1).ask(0);
    }

    /// The next four lines, which the caller asks for.
    #[inline(always)]
    pub(super) fn lines(&mut self) -> Lines {
        self.take(LINES)
    }

    #[inline(always)]
    fn take(&mut self, count: usize) -> Lines {
        if self.left < count
            && let Some(row) = self.rows.next()
        {
            self.next = Lines(row.as_ptr_range().end);
            self.left = row.len() / LINE;
        }
        let lines = self.next;
        self.next = Lines(lines.0.wrapping_add(count * LINE));
        self.left = self.left.saturating_sub(count);
        lines
    }
}

impl Lines {
    #[inline(always)]
    pub(super) fn ask(self, line: usize) {
        prefetch(self.0.wrapping_add(line * LINE));
    }
}
