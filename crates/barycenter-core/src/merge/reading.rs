//! How a merge reads its candidates: where they lie in the system's memory, or by copies into the near caches.
//!
//! Which is faster turns on how the system holds the files. What it read from the disk lies in large pages, which are mapped many at a
//! time and read at the speed of the memory. What a program wrote lies in small ones, and mapping each of them takes longer than
//! copying what it holds. No system tells which it is, so a merge tries both and goes on with the faster; the output is the same.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{Result, checkpoint::Stored};

/// Pieces that are read in each way before one is chosen.
const TRIED: usize = 16;

/// Pieces before those: while the first is made none is written.
const NOT_COUNTED: usize = 2;

/// Bytes of all rows that one task copies, so that they stay in the near caches; a page of each row at least.
const COPIED: usize = 1 << 19;

const PAGE: usize = 1 << 12;

/// A way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Mapped,
    Copied,
}

/// What the threads of a merge read with.
pub(super) struct Reading {
    /// Pieces that were read.
    pieces: usize,
    /// Time that the counted ones took, mapped and copied.
    took: [Duration; 2],
    /// What rows are copied into, one of each thread.
    rooms: Vec<Mutex<Vec<u8>>>,
}

impl Reading {
    pub(super) fn new() -> Self {
        let rooms = (0..rayon::current_num_threads()).map(|_| Mutex::default()).collect();
        Self { pieces: 0, took: [Duration::ZERO; 2], rooms }
    }

    /// Notes how long a piece took.
    pub(super) fn note(&mut self, took: Duration) {
        let way = self.way();
        if (NOT_COUNTED..NOT_COUNTED + 2 * TRIED).contains(&self.pieces) {
            self.took[way as usize] += took;
        }
        self.pieces += 1;
    }

    fn way(&self) -> Way {
        let [mapped, copied] = self.took;
        let is_copied = match self.pieces {
            pieces if pieces < NOT_COUNTED + 2 * TRIED => pieces % 2 == 1,
            _ => copied < mapped,
        };
        if is_copied { Way::Copied } else { Way::Mapped }
    }

    /// Bytes of each row that one task reads, `most` at most; a multiple of every element's size.
    pub(super) fn task(&self, rows: usize, most: usize) -> usize {
        match self.way() {
            Way::Mapped => most,
            Way::Copied => (COPIED / rows.max(1) / PAGE * PAGE).clamp(PAGE, most),
        }
    }

    /// The bytes `start .. start + len` of each row, on a thread of the pool.
    pub(super) fn read(
        &self,
        rows: &[Stored<'_>],
        (start, len): (usize, usize),
        with: impl FnOnce(&[&[u8]]),
    ) -> Result<()> {
        if self.way() == Way::Mapped {
            let rows: Vec<&[u8]> = rows.iter().map(|row| &row.bytes()[start..start + len]).collect();
            with(&rows);
            return Ok(());
        }
        let own = &self.rooms[rayon::current_thread_index().unwrap_or(0)];
        let mut room = own.lock().unwrap_or_else(PoisonError::into_inner);
        if room.len() < rows.len() * len {
            room.resize(rows.len() * len, 0);
        }
        let mut copies: Vec<&[u8]> = Vec::with_capacity(rows.len());
        for (row, copy) in rows.iter().zip(room.chunks_exact_mut(len)) {
            row.read(start, copy)?;
            copies.push(copy);
        }
        with(&copies);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_tried_and_the_faster_one_is_kept() {
        for (mapped, copied, kept) in [(3, 4, Way::Mapped), (4, 3, Way::Copied)] {
            let mut reading = Reading::new();
            let mut counts = [0; 2];
            for _ in 0..NOT_COUNTED + 2 * TRIED {
                counts[reading.way() as usize] += 1;
                let micros = if reading.way() == Way::Mapped { mapped } else { copied };
                // While the first are made the other way may seem faster.
                reading.note(Duration::from_micros(if reading.pieces < NOT_COUNTED { 1000 - micros } else { micros }));
            }
            assert_eq!(counts, [TRIED + 1; 2]);
            for _ in 0..3 {
                assert_eq!(reading.way(), kept);
                reading.note(Duration::from_micros(9));
            }
        }
    }

    #[test]
    fn copies_of_many_rows_are_short_and_none_is_shorter_than_a_page() {
        let mut reading = Reading::new();
        assert_eq!([6, 100, 1000].map(|rows| reading.task(rows, 1 << 16)), [1 << 16; 3]);
        reading.note(Duration::ZERO);
        assert_eq!(reading.way(), Way::Copied);
        assert_eq!([6, 12, 100, 1000].map(|rows| reading.task(rows, 1 << 16)), [1 << 16, 10 * PAGE, PAGE, PAGE]);
    }
}
