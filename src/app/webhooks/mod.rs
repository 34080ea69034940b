//! Webhooks: making, listing, editing and removing them.

mod deliver;
mod deliveries;
mod message;

use sqlx::PgConnection;
use url::Url;

pub use deliver::{deliver_due, note_events, run, send, take};
pub(super) use deliveries::prune;
pub use deliveries::{list_deliveries, redeliver, test_webhook};

use super::{
    AppError, AppResult, events,
    idempotency::{self, IdempotentRequest, Reply},
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        event::{EventKind, Scope},
        ids::WebhookId,
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
        webhook::{Secret, Webhook},
    },
    outbound::Refusal,
    state::AppState,
};

const MAX_URL_CHARS: usize = 2048;

/// A webhook to make.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// Where events are sent.
    pub url: String,
    /// Kinds of events; empty for all.
    pub kinds: Vec<EventKind>,
    /// The run whose events are sent, by id or name.
    pub run: Option<String>,
    /// The project whose events are sent.
    pub project: Option<String>,
    /// What signs them; made where it is absent.
    pub secret: Option<Secret>,
}

/// Makes a webhook, which is sent what happens from now on; `render` writes the reply that an idempotency key repeats, with the
/// secret where it was made here.
pub async fn create_webhook(
    state: &AppState,
    new: NewWebhook,
    request: Option<&IdempotentRequest>,
    render: impl FnOnce(Webhook, Option<Secret>) -> AppResult<Reply>,
) -> AppResult<Reply> {
    let url = check_url(state, &new.url).await?;
    new.secret.as_ref().map_or(Ok(()), message::check_secret)?;
    let scope = find_scope(state, new.run.as_deref(), new.project.as_deref()).await?;
    // What happened before has its id then and is left out.
    events::number(state).await?;
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    if let Some(reply) = idempotency::replay(&mut transaction, request, now).await? {
        return Ok(reply);
    }
    let webhook = Webhook {
        webhook_id: WebhookId(state.clock.new_id()),
        url,
        kinds: new.kinds,
        scope,
        enabled: true,
        disabled_reason: None,
        failing_since: None,
        created_at: now,
    };
    let made = if new.secret.is_none() { Some(message::new_secret()?) } else { None };
    let secret = new.secret.or_else(|| made.clone());
    let secret = secret.ok_or_else(|| AppError::internal("a webhook without a secret"))?;
    let newest = events::newest(&mut transaction).await?;
    db::webhooks::insert_webhook(&mut transaction, &webhook, &secret, newest).await?;
    tracing::info!(webhook.id = %webhook.webhook_id, "made a webhook");
    let reply = render(webhook, made)?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    Ok(reply)
}

async fn find_scope(state: &AppState, run: Option<&str>, project: Option<&str>) -> AppResult<Option<Scope>> {
    match (run, project) {
        (None, None) => Ok(None),
        (Some(run), None) => Ok(Some(events::scope_of_run(state, run).await?)),
        (None, Some(project)) => Ok(Some(events::scope_of_project(state, project).await?)),
        (Some(_), Some(_)) => Err(AppError::invalid_field("project", "stands beside `run`; give one of the two")),
    }
}

/// Checks a receiver's URL: its form, and that it leads where webhooks may go.
async fn check_url(state: &AppState, text: &str) -> AppResult<Url> {
    let wrong = |detail: &str| AppError::invalid_field("url", detail);
    if text.chars().count() > MAX_URL_CHARS {
        return Err(wrong(&format!("is longer than {MAX_URL_CHARS} characters")));
    }
    let url: Url = text.parse().map_err(|error| wrong(&format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("holds a user name or a password; the signature tells the receiver who sends"));
    }
    if url.fragment().is_some() {
        return Err(wrong("has a fragment, which is never sent"));
    }
    match state.outbound.check(&url).await {
        Ok(()) => Ok(url),
        Err(Refusal::Unknown(_)) => Err(wrong("leads to a host without an address")),
        Err(Refusal::NotAllowed(detail)) => Err(AppError::fault(ProblemCode::ReceiverNotAllowed, "url", detail)),
    }
}

/// Changes to a webhook; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct WebhookEdit {
    /// Where events are sent.
    pub url: Option<String>,
    /// Kinds of events; empty for all.
    pub kinds: Option<Vec<EventKind>>,
    /// What signs them from the next try on.
    pub secret: Option<Secret>,
    /// Whether events are sent. Enabling goes on with what happens from then on, and with what was waiting.
    pub enabled: Option<bool>,
}

/// Edits a webhook.
pub async fn edit_webhook(state: &AppState, webhook_id: WebhookId, edit: WebhookEdit) -> AppResult<Webhook> {
    let url = match &edit.url {
        Some(url) => Some(check_url(state, url).await?),
        None => None,
    };
    edit.secret.as_ref().map_or(Ok(()), message::check_secret)?;
    events::number(state).await?;
    let mut transaction = begin(state).await?;
    db::webhooks::lock_webhook(&mut transaction, webhook_id).await?;
    let mut webhook = find_webhook_with(&mut transaction, webhook_id).await?;
    let enabling = edit.enabled == Some(true) && !webhook.enabled;
    let newest = if enabling { Some(events::newest(&mut transaction).await?) } else { None };
    webhook.url = url.unwrap_or(webhook.url);
    webhook.kinds = edit.kinds.unwrap_or(webhook.kinds);
    if let Some(enabled) = edit.enabled {
        webhook.enabled = enabled;
    }
    if enabling {
        webhook.failing_since = None;
        webhook.disabled_reason = None;
    }
    db::webhooks::update_webhook(&mut transaction, &webhook, edit.secret.as_ref(), newest).await?;
    commit(transaction).await?;
    Ok(webhook)
}

/// Removes a webhook with its deliveries.
pub async fn delete_webhook(state: &AppState, webhook_id: WebhookId) -> AppResult<()> {
    if db::webhooks::delete_webhook(&mut *connection(state).await?, webhook_id).await? {
        tracing::info!(webhook.id = %webhook_id, "removed a webhook");
        return Ok(());
    }
    Err(not_found(webhook_id))
}

/// A webhook.
pub async fn find_webhook(state: &AppState, webhook_id: WebhookId) -> AppResult<Webhook> {
    find_webhook_with(&mut *connection(state).await?, webhook_id).await
}

async fn find_webhook_with(conn: &mut PgConnection, webhook_id: WebhookId) -> AppResult<Webhook> {
    db::webhooks::find_webhook(conn, webhook_id).await?.ok_or_else(|| not_found(webhook_id))
}

/// A page of webhooks, newest first.
pub async fn list_webhooks(state: &AppState, page: PageRequest) -> AppResult<Paged<Webhook>> {
    let mut conn = connection(state).await?;
    let rows = db::webhooks::list_webhooks(&mut conn, page).await?;
    Ok(page.cut(rows, |webhook| webhook.webhook_id.0))
}

fn not_found(webhook_id: WebhookId) -> AppError {
    AppError::refused(ProblemCode::WebhookNotFound, format!("there is no webhook {webhook_id}"))
}
