//! Request bodies that outlive a refusal.
//!
//! A server that answers an upload early and closes the connection makes the kernel reset it, and the reset may destroy the
//! answer before the client has read it. So a body that is dropped unread is read on for a while, into nothing.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::BodyDataStream;
use bytes::Bytes;
use futures::{Stream, StreamExt};

/// What is read on after a refusal, at most; a client that sends more has had time to see the answer.
const MAX_BYTES: u64 = 256 << 20;
const MAX_TIME: Duration = Duration::from_secs(5);

/// A body that is read on for a while when it is dropped before its end.
pub(super) struct LingeringBody {
    /// Gone when it has ended.
    stream: Option<BodyDataStream>,
}

impl LingeringBody {
    pub(super) fn new(stream: BodyDataStream) -> Self {
        Self { stream: Some(stream) }
    }
}

impl Stream for LingeringBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let item = std::task::ready!(stream.poll_next_unpin(context));
        if !matches!(item, Some(Ok(_))) {
            self.stream = None;
        }
        Poll::Ready(item)
    }
}

impl Drop for LingeringBody {
    fn drop(&mut self) {
        if let (Some(stream), Ok(runtime)) = (self.stream.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(MAX_TIME, read_on(stream)));
        }
    }
}

async fn read_on(mut stream: BodyDataStream) {
    let mut seen = 0;
    while let Some(Ok(chunk)) = stream.next().await {
        seen += chunk.len() as u64;
        if seen > MAX_BYTES {
            return;
        }
    }
}
