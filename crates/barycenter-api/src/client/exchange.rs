//! One exchange with the server: send, retry, read the answer or the problem.

use std::{io::Write, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header::RETRY_AFTER};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{Client, ClientError, LONGEST_WAIT_SECONDS, Result};
use crate::Problem;

/// Longer than the server ever waits on purpose.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(LONGEST_WAIT_SECONDS as u64 + 35);
/// A server that asks for a longer pause is down for the purposes of one call.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// An error body is shown up to this length.
const EXCERPT_CHARS: usize = 200;

/// What may be sent again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Doing it twice is doing it once: also after a broken connection.
    Harmless,
    /// Only where it was certainly not carried out.
    IfNotCarriedOut,
}

/// The pause before the next try: what the server asks for, else the back-off's; `None` gives up.
pub(super) fn pause(error: &ClientError, proposed: Option<Duration>) -> Option<Duration> {
    let proposed = proposed?;
    match error.retry_after() {
        Some(asked) if asked > LONGEST_PAUSE => None,
        Some(asked) => Some(asked.max(proposed)),
        None => Some(proposed),
    }
}

pub(super) fn may_repeat(error: &ClientError, repeat: Repeat) -> bool {
    match repeat {
        Repeat::Harmless => error.is_transient(),
        Repeat::IfNotCarriedOut => error.was_not_carried_out(),
    }
}

pub(super) fn note_retry(error: &ClientError, pause: Duration) {
    tracing::warn!(%error, pause_ms = pause.as_millis(), "request failed, trying again");
}

impl Client {
    /// Waits of 0.2 s, 0.4 s, ... with jitter.
    pub(super) fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(10))
            .with_max_times(self.repeats)
            .with_jitter()
    }

    pub(super) fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        self.http.request(method, url.clone())
    }

    /// Sends `make()`'s request, again where `repeat` allows, and returns a successful answer.
    pub(super) async fn send(&self, url: &Url, repeat: Repeat, make: impl Fn() -> RequestBuilder) -> Result<Response> {
        (async || accepted(url, in_time(url, ANSWER_TIMEOUT, make().send()).await?).await)
            .retry(self.backoff())
            .when(|error| may_repeat(error, repeat))
            .adjust(pause)
            .notify(note_retry)
            .await
    }

    pub(super) async fn fetch<T: DeserializeOwned>(&self, url: &Url, query: &impl Serialize) -> Result<T> {
        let answer = self.send(url, Repeat::Harmless, || self.request(Method::GET, url).query(query)).await?;
        decode(url, answer).await
    }

    /// A text of any length, chunk by chunk.
    pub(super) async fn fetch_text(
        &self,
        url: &Url,
        query: &impl Serialize,
        into: &mut (dyn Write + Send),
    ) -> Result<()> {
        let make = || self.request(Method::GET, url).query(query);
        let mut answer = self.send(url, Repeat::Harmless, make).await?;
        loop {
            let chunk = in_time(url, ANSWER_TIMEOUT, answer.chunk()).await?;
            let Some(chunk) = chunk.map_err(|e| ClientError::transport(url, e))? else { return Ok(()) };
            into.write_all(&chunk).map_err(|e| ClientError::io("output", e))?;
        }
    }

    /// A creating POST: the key lets the server recognise a repetition, so repeating is harmless.
    pub(super) async fn create<T: DeserializeOwned>(&self, url: &Url, body: &impl Serialize) -> Result<T> {
        let key = idempotency_key();
        let answer = self
            .send(url, Repeat::Harmless, || self.request(Method::POST, url).header("idempotency-key", &key).json(body))
            .await?;
        decode(url, answer).await
    }

    pub(super) async fn post(&self, url: &Url, repeat: Repeat, body: &impl Serialize) -> Result<Response> {
        self.send(url, repeat, || self.request(Method::POST, url).json(body)).await
    }
}

#[expect(clippy::disallowed_methods, reason = "the key is the caller's own and needs only to be unique")]
fn idempotency_key() -> String {
    Uuid::now_v7().to_string()
}

/// What the server sends next, unless it stays silent for longer than `patience`.
pub(super) async fn in_time<T>(url: &Url, patience: Duration, next: impl Future<Output = T>) -> Result<T> {
    let silent = |_| ClientError::Stalled { url: url.to_string(), seconds: patience.as_secs() };
    tokio::time::timeout(patience, next).await.map_err(silent)
}

/// The answer where it is a success, else what it says.
pub(super) async fn accepted(url: &Url, answer: reqwest::Result<Response>) -> Result<Response> {
    let answer = answer.map_err(|e| ClientError::transport(url, e))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let retry_after = retry_after(&answer);
    let body = answer.text().await.unwrap_or_default();
    Err(match serde_json::from_str::<Problem>(&body) {
        Ok(problem) => ClientError::Problem { problem: Box::new(problem), retry_after },
        Err(_) => ClientError::Status { url: url.to_string(), status, excerpt: excerpt(&body), retry_after },
    })
}

pub(super) async fn decode<T: DeserializeOwned>(url: &Url, answer: Response) -> Result<T> {
    let bytes = in_time(url, ANSWER_TIMEOUT, answer.bytes()).await?.map_err(|e| ClientError::transport(url, e))?;
    serde_json::from_slice(&bytes).map_err(|cause| ClientError::Decode { url: url.to_string(), cause })
}

/// `None` where the answer is 204.
pub(super) async fn decode_some<T: DeserializeOwned>(url: &Url, answer: Response) -> Result<Option<T>> {
    if answer.status() == StatusCode::NO_CONTENT { Ok(None) } else { decode(url, answer).await.map(Some) }
}

/// `Retry-After` in seconds; its date form is left to the back-off.
fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn excerpt(body: &str) -> String {
    match body.trim() {
        "" => "(empty)".into(),
        text => text.chars().take(EXCERPT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect(),
    }
}
