//! A stream that is hashed, counted and bounded while it passes.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream::Fuse};

use super::{PutError, Stored};

/// Room that is made for what is taken at first, and doubled as it is needed.
const FIRST_BYTES: usize = 64 << 10;

/// A stream that is hashed, counted and bounded while it passes.
pub(super) struct Measured<S> {
    /// Asked for more, once it has ended, it says so again.
    stream: Fuse<S>,
    hasher: blake3::Hasher,
    size_bytes: u64,
    limit_bytes: u64,
    /// What came with the bytes before and was not handed out.
    held: Bytes,
}

impl<E, S: Stream<Item = Result<Bytes, E>> + Unpin> Measured<S> {
    pub(super) fn new(stream: S, limit_bytes: u64) -> Self {
        Self { stream: stream.fuse(), hasher: blake3::Hasher::new(), size_bytes: 0, limit_bytes, held: Bytes::new() }
    }

    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, PutError<E>> {
        if !self.held.is_empty() {
            return Ok(Some(std::mem::take(&mut self.held)));
        }
        let Some(chunk) = self.stream.next().await else { return Ok(None) };
        let chunk = chunk.map_err(PutError::Source)?;
        self.size_bytes += chunk.len() as u64;
        if self.size_bytes > self.limit_bytes {
            return Err(PutError::TooLarge { limit_bytes: self.limit_bytes });
        }
        self.hasher.update(&chunk);
        Ok(Some(chunk))
    }

    /// The next `length` bytes; fewer only at the end. Copied out of the pieces in which they came: a piece may keep several times
    /// its length of a connection's buffer alive.
    pub(super) async fn take(&mut self, length: usize) -> Result<Bytes, PutError<E>> {
        let mut taken = BytesMut::with_capacity(length.min(FIRST_BYTES));
        while taken.len() < length {
            let Some(mut piece) = self.next().await? else { break };
            self.held = piece.split_off(piece.len().min(length - taken.len()));
            taken.extend_from_slice(&piece);
        }
        Ok(taken.freeze())
    }

    /// Whether nothing follows.
    pub(super) async fn is_over(&mut self) -> Result<bool, PutError<E>> {
        while self.held.is_empty() {
            match self.next().await? {
                Some(chunk) => self.held = chunk,
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// What has passed.
    pub(super) fn stored(self) -> Stored {
        Stored { size_bytes: self.size_bytes, digest_blake3: self.hasher.finalize().to_hex().to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn pieces_are_cut_where_parts_end() {
        let chunks = [&b"abc"[..], b"", b"defgh", b"i"].map(|chunk| Ok::<_, Infallible>(Bytes::from_static(chunk)));
        let mut measured = Measured::new(stream::iter(chunks), 9);
        let mut parts = Vec::new();
        while !measured.is_over().await.unwrap() {
            parts.push(measured.take(4).await.unwrap());
        }
        assert_eq!(parts, [&b"abcd"[..], b"efgh", b"i"]);
        let digest_blake3 = blake3::hash(b"abcdefghi").to_hex().to_string();
        assert_eq!(measured.stored(), Stored { size_bytes: 9, digest_blake3 });
    }

    #[tokio::test]
    async fn a_stream_that_is_too_long_ends_with_the_byte_that_is() {
        let chunks = [&b"abc"[..], b"de"].map(|chunk| Ok::<_, Infallible>(Bytes::from_static(chunk)));
        let mut measured = Measured::new(stream::iter(chunks), 4);
        assert_eq!(measured.take(3).await.unwrap(), &b"abc"[..]);
        assert!(matches!(measured.take(3).await, Err(PutError::TooLarge { limit_bytes: 4 })));
    }
}
