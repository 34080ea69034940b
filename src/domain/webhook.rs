//! Webhooks: events that are sent to receivers, tried until accepted or given up.

use std::{fmt, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::{DateTime, TimeDelta, Utc};
use url::Url;

use super::{
    event::{EventKind, Scope},
    ids::{DeliveryId, WebhookId},
};

/// A delivery is tried at most so often.
pub const MAX_TRIES: usize = 10;
/// Pause after the first try; each further pause is four times as long, up to [`LONGEST_PAUSE`], and longer by chance up to its double.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause between tries, but for what chance adds.
const LONGEST_PAUSE: Duration = Duration::from_hours(12);
/// A webhook of which nothing was accepted for so long is disabled.
pub const PATIENCE: TimeDelta = TimeDelta::days(3);
/// Deliveries are kept for so long after their event.
pub const KEEP_FOR: TimeDelta = TimeDelta::days(7);
/// A server that has been sending for longer is taken for dead: several times what a try may take.
pub const LEASE: TimeDelta = TimeDelta::minutes(3);
/// What a receiver answers that wants to hear no more.
pub const GONE: u16 = 410;

/// What signs a webhook; never shown, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Identifier.
    pub webhook_id: WebhookId,
    /// Where events are sent.
    pub url: Url,
    /// Kinds of events; empty for all.
    pub kinds: Vec<EventKind>,
    /// Whose events: a run's, a project's, or everyone's.
    pub scope: Option<Scope>,
    /// Whether events are sent.
    pub enabled: bool,
    /// Why it was disabled, where nobody asked for it.
    pub disabled_reason: Option<String>,
    /// Since when no try was accepted.
    pub failing_since: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Webhook {
    /// Whether events of this kind are sent.
    pub fn takes(&self, kind: EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// It will be tried.
    Pending,
    /// The receiver accepted it.
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryState {
    /// The word for it in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    /// What a word of SQL says.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Failed].into_iter().find(|state| state.as_str() == word)
    }
}

/// An event on its way to a webhook.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Identifier; the `webhook-id` of every try.
    pub delivery_id: DeliveryId,
    /// The webhook.
    pub webhook_id: WebhookId,
    /// The event.
    pub event_id: i64,
    /// What happened.
    pub kind: EventKind,
    /// Where it stands.
    pub state: DeliveryState,
    /// Tries that have begun.
    pub tries: u32,
    /// When it is tried next.
    pub next_try_at: Option<DateTime<Utc>>,
    /// When the last try ended.
    pub tried_at: Option<DateTime<Utc>>,
    /// What the last try was answered with.
    pub status_code: Option<u16>,
    /// How long the last try took.
    pub duration_ms: Option<u64>,
    /// Why the last try failed.
    pub error: Option<String>,
    /// When it was noted.
    pub created_at: DateTime<Utc>,
}

/// What a try came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The answer's status, where there was an answer.
    pub status_code: Option<u16>,
    /// How long it took.
    pub duration_ms: u64,
    /// The beginning of the answer's body.
    pub answer: Option<String>,
    /// Why it failed; `None` where the receiver accepted.
    pub error: Option<String>,
    /// How long the receiver asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// The pause after so many failed tries, longer where the receiver asks for it, but for no more than [`LONGEST_PAUSE`]; `None` gives up.
pub fn pause_after(tries: u32, asked: Option<Duration>) -> Option<TimeDelta> {
    let pauses = ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_factor(4.0)
        .with_max_delay(LONGEST_PAUSE)
        .with_max_times(MAX_TRIES - 1)
        .with_jitter()
        .build();
    let pause = pauses.into_iter().nth((tries as usize).saturating_sub(1))?;
    TimeDelta::from_std(pause.max(asked.unwrap_or_default().min(LONGEST_PAUSE))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_each_try_until_there_is_none() {
        for (tries, seconds) in [(1, 5), (2, 20), (3, 80), (4, 320), (7, 20480), (8, 43200), (9, 43200)] {
            let pause = pause_after(tries, None).unwrap().num_seconds();
            assert!((seconds..=2 * seconds).contains(&pause), "{tries}: {pause}");
        }
        assert_eq!(pause_after(10, None), None);
    }

    #[test]
    fn all_tries_fit_into_the_time_that_deliveries_are_kept() {
        let longest: i64 =
            [5, 20, 80, 320, 1280, 5120, 20480, 43200, 43200].iter().map(|pause| (2 * pause).max(43200)).sum();
        assert!(TimeDelta::seconds(longest) < KEEP_FOR);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause_but_not_for_ever() {
        let asked = |seconds| pause_after(1, Some(Duration::from_secs(seconds))).unwrap().num_seconds();
        assert_eq!([asked(120), asked(1_000_000)], [120, 43200]);
        assert!((5..=10).contains(&asked(0)));
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret("whsec_abc".into())), "Secret");
    }
}
