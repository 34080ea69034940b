//! Memory in which parts are gathered before a store takes them.
//!
//! A buffer is used again while other parts are on their way: the system hands fresh memory out page by page, and that takes a
//! server longer than hashing what comes in. With the last part on its way all of it is given back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What parts in flight may hold in memory before more of them wait.
///
/// Two parts of the usual size: one is received while the store takes another.
const BUFFER_BYTES: usize = 32 << 20;
/// Unit in which it is handed out.
const BUFFER_UNIT: usize = 1 << 10;

/// Buffers of [`BUFFER_BYTES`] together, used and spare, or one buffer where a part is larger.
#[derive(Clone, Debug)]
pub(super) struct PartBuffers {
    free: Arc<Semaphore>,
    spare: Arc<Mutex<Spare>>,
}

/// Buffers that nobody uses.
#[derive(Debug, Default)]
struct Spare {
    /// All of one capacity.
    buffers: Vec<Vec<u8>>,
    /// Parts that are gathered, sent, or wait for room.
    parts: usize,
}

impl PartBuffers {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(BUFFER_BYTES / BUFFER_UNIT)), spare: Arc::default() }
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a part of this length, once there is as much: until it is dropped, the part is on its way.
    pub(super) async fn room(&self, length: usize) -> Room {
        let on_its_way = OnItsWay::new(self.clone());
        let units = length.min(BUFFER_BYTES).div_ceil(BUFFER_UNIT) as u32;
        let share = Arc::clone(&self.free).acquire_many_owned(units).await;
        Room { length, on_its_way, _share: share.expect("the semaphore is never closed") }
    }
}

/// Room for one part.
#[derive(Debug)]
pub(super) struct Room {
    length: usize,
    // Counted out before the next part has its room: spare buffers go first.
    on_its_way: OnItsWay,
    _share: OwnedSemaphorePermit,
}

impl Room {
    /// The empty buffer of the part.
    pub(super) fn buffer(&self) -> PartBuffer {
        let buffers = &self.on_its_way.0;
        let mut spare = buffers.spare();
        // What does not fit goes before more is made, so that used and spare ones together are no more than was handed out.
        spare.buffers.retain(|buffer| buffer.capacity() == self.length);
        let bytes = spare.buffers.pop().unwrap_or_else(|| Vec::with_capacity(self.length));
        PartBuffer { bytes, buffers: buffers.clone() }
    }
}

/// Counts a part while it is on its way.
#[derive(Debug)]
struct OnItsWay(PartBuffers);

impl OnItsWay {
    fn new(buffers: PartBuffers) -> Self {
        buffers.spare().parts += 1;
        Self(buffers)
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut spare = self.0.spare();
        spare.parts -= 1;
        if spare.parts == 0 {
            spare.buffers = Vec::new();
        }
    }
}

/// The bytes of a part so far.
#[derive(Debug)]
pub(super) struct PartBuffer {
    bytes: Vec<u8>,
    buffers: PartBuffers,
}

impl PartBuffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn extend(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// What was gathered. Its memory is spare again when the last view of it is dropped; a store in memory keeps it.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PartBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PartBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut spare = self.buffers.spare();
        if spare.parts > 0 && spare.buffers.iter().all(|other| other.capacity() == bytes.capacity()) {
            spare.buffers.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 16 << 20;
    const NONE: [usize; 0] = [];

    /// Capacities of the spare buffers.
    fn spare(buffers: &PartBuffers) -> Vec<usize> {
        buffers.spare().buffers.iter().map(Vec::capacity).collect()
    }

    #[tokio::test]
    async fn a_buffer_is_used_again_while_another_part_is_on_its_way() {
        let buffers = PartBuffers::new();
        let (first, other) = (buffers.room(LENGTH).await, buffers.room(LENGTH).await);
        let mut gathered = first.buffer();
        gathered.extend(b"first");
        let (place, sent) = (gathered.bytes.as_ptr(), gathered.freeze());
        assert_eq!(sent, &b"first"[..]);
        drop((sent, first));
        let second = buffers.room(LENGTH).await;
        let gathered = second.buffer();
        assert_eq!((gathered.bytes.as_ptr(), gathered.len()), (place, 0));
        drop((gathered, second, other));
        assert_eq!(spare(&buffers), NONE, "nothing is kept when no part is on its way");
    }

    #[tokio::test]
    async fn a_part_waits_until_there_is_room_for_it() {
        let buffers = PartBuffers::new();
        let (first, _second) = (buffers.room(LENGTH).await, buffers.room(LENGTH).await);
        let mut third = Box::pin(buffers.room(LENGTH));
        assert!(futures::poll!(&mut third).is_pending());
        drop((first.buffer(), first));
        assert_eq!(spare(&buffers), [LENGTH]);
        drop(third.await);
    }

    #[tokio::test]
    async fn a_part_larger_than_all_buffers_has_them_to_itself() {
        let buffers = PartBuffers::new();
        let whole = buffers.room(2 * BUFFER_BYTES).await;
        assert!(futures::poll!(Box::pin(buffers.room(1))).is_pending());
        drop(whole);
        buffers.room(1).await;
    }

    #[tokio::test]
    async fn spare_buffers_of_another_length_go_before_more_are_made() {
        let buffers = PartBuffers::new();
        let (large, small) = (buffers.room(LENGTH).await, buffers.room(1024).await);
        drop(large.buffer());
        assert_eq!(spare(&buffers), [LENGTH]);
        let gathered = small.buffer();
        assert_eq!(spare(&buffers), NONE);
        drop(gathered);
        assert_eq!(spare(&buffers), [1024]);
    }

    #[tokio::test]
    async fn bytes_that_a_store_keeps_hold_no_room() {
        let buffers = PartBuffers::new();
        let mut kept = Vec::new();
        for _ in 0..4 {
            let room = buffers.room(LENGTH).await;
            kept.push(room.buffer().freeze());
        }
        drop(kept);
        assert_eq!(spare(&buffers), NONE);
    }
}
