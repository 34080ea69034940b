//! Webhooks.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::EventKind;

/// What signs a webhook: `whsec_` and the base64 of 24 to 64 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct WebhookSecret(pub String);

impl fmt::Debug for WebhookSecret {
    // A log must not hold it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// Makes a webhook, which is sent what happens from then on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// Where events are sent: `http` or `https`, to an address that the server may reach.
    pub url: String,
    /// Kinds of events; all where empty.
    #[serde(default)]
    pub kinds: Vec<EventKind>,
    /// Only the events of this run, by id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Only the events of this project. With neither run nor project those of all projects are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// What signs them; made by the server where absent, and then shown in the answer, this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<WebhookSecret>,
}

/// Changes to a webhook; what is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditWebhook {
    /// Where events are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Kinds of events; all where empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<EventKind>>,
    /// What signs them from the next try on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<WebhookSecret>,
    /// Whether events are sent. Enabling goes on with what happens from then on, and with what was waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A webhook.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Identifier.
    pub webhook_id: Uuid,
    /// Where events are sent.
    pub url: String,
    /// Kinds of events; all where empty.
    pub kinds: Vec<EventKind>,
    /// Only the events of this run.
    pub run_id: Option<Uuid>,
    /// Only the events of this project.
    pub project: Option<String>,
    /// Whether events are sent.
    pub enabled: bool,
    /// Why it was disabled, where the server did so by itself.
    pub disabled_reason: Option<String>,
    /// Since when the receiver has accepted nothing; after three days the webhook is disabled.
    pub failing_since: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A webhook that was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedWebhook {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// What signs its events, where the server made it; no other answer tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<WebhookSecret>,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It will be tried.
    Pending,
    /// The receiver accepted it.
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// An event on its way to a webhook.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookDelivery {
    /// Identifier: the header `webhook-id` of every try.
    pub delivery_id: Uuid,
    /// The event.
    pub event_id: i64,
    /// What happened.
    pub kind: EventKind,
    /// Where it stands.
    pub state: DeliveryState,
    /// Tries that have begun since it was noted or last sent by hand.
    pub tries: u32,
    /// When it is tried next, where it will be.
    pub next_try_at: Option<DateTime<Utc>>,
    /// When the last try ended.
    pub tried_at: Option<DateTime<Utc>>,
    /// HTTP status of the last answer.
    pub status_code: Option<u16>,
    /// How long the last try took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Why the last try failed.
    pub error: Option<String>,
    /// When it was noted.
    pub created_at: DateTime<Utc>,
}

/// What a receiver said to a message that tells of nothing.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TestedWebhook {
    /// Whether it answered with a status from 200 to 299.
    pub accepted: bool,
    /// HTTP status of its answer.
    pub status_code: Option<u16>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Why it was not accepted.
    pub error: Option<String>,
    /// The beginning of what it answered.
    pub answer: Option<String>,
}

/// Which deliveries of a webhook are listed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListDeliveries {
    /// Only those that stand here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<DeliveryState>,
    /// Items a page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// The `next_page_token` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}
