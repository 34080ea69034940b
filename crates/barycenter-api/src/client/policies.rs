//! Policies of runs, and the events that they raise.

use std::{ops::ControlFlow, time::Duration};

use reqwest::{Method, StatusCode, header::ACCEPT};

use super::{
    Client, ClientError, Result, Unless,
    exchange::{Repeat, decode, in_time},
};
use crate::{Event, EventsQuery, ListQuery, Page, Policy, PolicyRefresh, SetPolicy};

/// Servers say that they are there every quarter of a minute.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);
/// Pause before a broken stream is taken up again.
const PAUSE: Duration = Duration::from_secs(1);

impl Client {
    /// The policy of a run.
    pub async fn find_policy(&self, run: &str) -> Result<Policy> {
        self.fetch(&self.url(&["runs", run, "policy"]), &()).await
    }

    /// Sets the policy of a run.
    pub async fn set_policy(&self, run: &str, policy: &SetPolicy, unless: &Unless) -> Result<Policy> {
        let url = self.url(&["runs", run, "policy"]);
        let make = || self.request_if(Method::PUT, &url, unless).json(policy);
        decode(&url, self.send(&url, unless.repeat(), make).await?).await
    }

    /// Removes the policy of a run; what it has averaged stays.
    pub async fn remove_policy(&self, run: &str, unless: &Unless) -> Result<()> {
        let url = self.url(&["runs", run, "policy"]);
        self.send(&url, Repeat::IfNotCarriedOut, || self.request_if(Method::DELETE, &url, unless)).await?;
        Ok(())
    }

    /// One page of the refreshes of a run, newest first.
    pub async fn list_refreshes(&self, run: &str, query: &ListQuery) -> Result<Page<PolicyRefresh>> {
        self.fetch(&self.url(&["runs", run, "policy", "refreshes"]), query).await
    }

    /// Hands the events of a run to `each` until it breaks, from now on or after an id; a stream that ends is taken up where it
    /// stood. Events of kinds that this program does not know are left out.
    pub async fn follow_run<B>(
        &self,
        run: &str,
        mut after: Option<i64>,
        mut each: impl FnMut(Event) -> ControlFlow<B>,
    ) -> Result<B> {
        let url = self.url(&["runs", run, "events"]);
        loop {
            let query = EventsQuery { after };
            let make = || self.request(Method::GET, &url).header(ACCEPT, "text/event-stream").query(&query);
            let mut answer = self.send(&url, Repeat::Harmless, make).await?;
            let mut text = Vec::new();
            while answer.status() == StatusCode::OK {
                let chunk = match in_time(&url, LONGEST_SILENCE, answer.chunk()).await {
                    Ok(Ok(Some(chunk))) => chunk,
                    // The server ends, or the connection broke.
                    Ok(Ok(None) | Err(_)) | Err(ClientError::Stalled { .. }) => break,
                    Err(error) => return Err(error),
                };
                text.extend_from_slice(&chunk);
                while let Some(event) = next_event(&mut text) {
                    after = Some(event.event_id);
                    if let ControlFlow::Break(found) = each(event) {
                        return Ok(found);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Takes the lines of the text that are whole up to the next event that can be read. The server writes `data` on one line.
fn next_event(text: &mut Vec<u8>) -> Option<Event> {
    while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = text.drain(..=end).collect();
        let data = line.strip_prefix(b"data:");
        if let Some(event) = data.and_then(|data| serde_json::from_slice(data.trim_ascii()).ok()) {
            return Some(event);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_from_pieces_and_what_is_none_is_left_out() {
        let data = r#"{"event_id":7,"kind":"policy.stalled","project":"default","run_id":"0190f3a8-0000-7000-8000-000000000001",
            "job_id":null,"detail":{"refresh":3},"occurred_at":"2026-01-02T03:04:05Z"}"#
            .replace('\n', "");
        let whole = format!(": here\n\nevent: gap\ndata: {{}}\n\nid: 7\nevent: policy.stalled\ndata: {data}\n\n");
        let (first, second) = whole.as_bytes().split_at(whole.len() - 40);
        let mut text = first.to_vec();
        assert_eq!(next_event(&mut text), None);
        text.extend_from_slice(second);
        assert_eq!(next_event(&mut text).map(|event| event.event_id), Some(7));
        assert_eq!(next_event(&mut text), None);
    }
}
