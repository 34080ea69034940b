//! SQL of webhooks.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    event::{EventKind, Scope},
    ids::WebhookId,
    page::PageRequest,
    webhook::{Secret, Webhook},
};

struct WebhookRow {
    webhook_id: Uuid,
    url: String,
    kinds: Vec<String>,
    run_id: Option<Uuid>,
    project: Option<String>,
    enabled: bool,
    disabled_reason: Option<String>,
    failing_since: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl TryFrom<WebhookRow> for Webhook {
    type Error = DbError;

    fn try_from(row: WebhookRow) -> DbResult<Self> {
        let wrong = |column| DbError::inconsistent("webhooks", column, row.webhook_id);
        let kinds: Result<Vec<EventKind>, _> = row.kinds.iter().map(|kind| kind.parse()).collect();
        Ok(Self {
            webhook_id: row.webhook_id.into(),
            url: row.url.parse().map_err(|_| wrong("url"))?,
            kinds: kinds.map_err(|_| wrong("kinds"))?,
            scope: row.run_id.map(|id| Scope::Run(id.into())).or(row.project.map(Scope::Project)),
            enabled: row.enabled,
            disabled_reason: row.disabled_reason,
            failing_since: row.failing_since,
            created_at: row.created_at,
        })
    }
}

fn words(kinds: &[EventKind]) -> Vec<String> {
    kinds.iter().map(|kind| kind.as_str().to_owned()).collect()
}

/// Inserts a webhook that is sent the events after one.
pub async fn insert_webhook(
    conn: &mut PgConnection,
    webhook: &Webhook,
    secret: &Secret,
    last_event_id: i64,
) -> DbResult<()> {
    let (_, run_id, project) = webhook.scope.as_ref().map(Scope::parts).unwrap_or_default();
    sqlx::query!(
        "insert into webhooks (webhook_id, url, secret, kinds, run_id, project, enabled, last_event_id, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        webhook.webhook_id.0,
        webhook.url.as_str(),
        secret.0,
        &words(&webhook.kinds),
        run_id,
        project,
        webhook.enabled,
        last_event_id,
        webhook.created_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A webhook by its id.
pub async fn find_webhook(conn: &mut PgConnection, webhook_id: WebhookId) -> DbResult<Option<Webhook>> {
    let row = sqlx::query_as!(
        WebhookRow,
        "select webhook_id, url, kinds, run_id, project, enabled, disabled_reason, failing_since, created_at
         from webhooks where webhook_id = $1",
        webhook_id.0
    )
    .fetch_optional(conn)
    .await?;
    row.map(Webhook::try_from).transpose()
}

/// What signs a webhook.
pub async fn find_secret(conn: &mut PgConnection, webhook_id: WebhookId) -> DbResult<Option<Secret>> {
    let secret = sqlx::query_scalar!("select secret from webhooks where webhook_id = $1", webhook_id.0);
    Ok(secret.fetch_optional(conn).await?.map(Secret))
}

/// Holds others off a webhook until the transaction ends.
pub async fn lock_webhook(conn: &mut PgConnection, webhook_id: WebhookId) -> DbResult<()> {
    sqlx::query!("select from webhooks where webhook_id = $1 for update", webhook_id.0).fetch_optional(conn).await?;
    Ok(())
}

/// Rows of a page of webhooks, newest first.
pub async fn list_webhooks(conn: &mut PgConnection, page: PageRequest) -> DbResult<Vec<Webhook>> {
    let rows = sqlx::query_as!(
        WebhookRow,
        "select webhook_id, url, kinds, run_id, project, enabled, disabled_reason, failing_since, created_at
         from webhooks where webhook_id < $1 order by webhook_id desc limit $2",
        page.before.unwrap_or(Uuid::max()),
        page.limit(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Webhook::try_from).collect()
}

/// Writes what can be edited; a secret where there is a new one, and where to go on where that changes.
pub async fn update_webhook(
    conn: &mut PgConnection,
    webhook: &Webhook,
    secret: Option<&Secret>,
    last_event_id: Option<i64>,
) -> DbResult<()> {
    sqlx::query!(
        "update webhooks
         set url = $2, kinds = $3, enabled = $4, disabled_reason = $5, failing_since = $6, secret = coalesce($7, secret),
             last_event_id = coalesce($8, last_event_id)
         where webhook_id = $1",
        webhook.webhook_id.0,
        webhook.url.as_str(),
        &words(&webhook.kinds),
        webhook.enabled,
        webhook.disabled_reason,
        webhook.failing_since,
        secret.map(|secret| secret.0.as_str()),
        last_event_id,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes a webhook with its deliveries. Answers whether there was one.
pub async fn delete_webhook(conn: &mut PgConnection, webhook_id: WebhookId) -> DbResult<bool> {
    let done = sqlx::query!("delete from webhooks where webhook_id = $1", webhook_id.0).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// A webhook with events that it has not been looked at for, and the last that it has; locked, and left to whoever has it locked.
pub async fn lock_behind(conn: &mut PgConnection) -> DbResult<Option<(WebhookId, i64)>> {
    let row = sqlx::query!(
        "select webhook_id, last_event_id from webhooks
         where enabled and last_event_id < (select max(event_id) from events)
         order by last_event_id limit 1
         for update skip locked"
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.webhook_id.into(), row.last_event_id)))
}

/// Notes how far a webhook has been looked at.
pub async fn mark_seen(conn: &mut PgConnection, webhook_id: WebhookId, last_event_id: i64) -> DbResult<()> {
    sqlx::query!("update webhooks set last_event_id = $2 where webhook_id = $1", webhook_id.0, last_event_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes that a receiver accepted something, or since when it has not; or that the webhook is to end, and why.
pub async fn mark_health(
    conn: &mut PgConnection,
    webhook_id: WebhookId,
    failing_since: Option<DateTime<Utc>>,
    disabled_reason: Option<&str>,
) -> DbResult<()> {
    sqlx::query!(
        "update webhooks
         set failing_since = $2, enabled = enabled and $3::text is null, disabled_reason = coalesce($3, disabled_reason)
         where webhook_id = $1",
        webhook_id.0,
        failing_since,
        disabled_reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}
