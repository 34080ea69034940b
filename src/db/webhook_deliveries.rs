//! SQL of deliveries: noting them, taking one, saying what came of it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    ids::{DeliveryId, LeaseId, WebhookId},
    page::PageRequest,
    webhook::{Delivery, DeliveryState, Outcome},
};

struct DeliveryRow {
    delivery_id: Uuid,
    webhook_id: Uuid,
    event_id: i64,
    kind: String,
    state: String,
    tries: i32,
    next_try_at: Option<DateTime<Utc>>,
    tried_at: Option<DateTime<Utc>>,
    status_code: Option<i16>,
    duration_ms: Option<i64>,
    error: Option<String>,
    created_at: DateTime<Utc>,
}

impl TryFrom<DeliveryRow> for Delivery {
    type Error = DbError;

    fn try_from(row: DeliveryRow) -> DbResult<Self> {
        let wrong = |column| DbError::inconsistent("webhook_deliveries", column, row.delivery_id);
        Ok(Self {
            delivery_id: row.delivery_id.into(),
            webhook_id: row.webhook_id.into(),
            event_id: row.event_id,
            kind: row.kind.parse().map_err(|_| wrong("kind"))?,
            state: DeliveryState::parse(&row.state).ok_or_else(|| wrong("state"))?,
            tries: row.tries.unsigned_abs(),
            next_try_at: row.next_try_at,
            tried_at: row.tried_at,
            status_code: row.status_code.map(i16::unsigned_abs),
            duration_ms: row.duration_ms.map(i64::unsigned_abs),
            error: row.error,
            created_at: row.created_at,
        })
    }
}

/// A delivery to note.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// Identifier.
    pub delivery_id: DeliveryId,
    /// The event.
    pub event_id: i64,
    /// The word for what happened.
    pub kind: &'static str,
    /// What is sent.
    pub body: String,
}

/// Notes deliveries of a webhook, to be tried at once.
pub async fn insert_deliveries(
    conn: &mut PgConnection,
    webhook_id: WebhookId,
    deliveries: &[NewDelivery],
    now: DateTime<Utc>,
) -> DbResult<()> {
    let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.delivery_id.0).collect();
    let event_ids: Vec<i64> = deliveries.iter().map(|delivery| delivery.event_id).collect();
    let kinds: Vec<String> = deliveries.iter().map(|delivery| delivery.kind.to_owned()).collect();
    let bodies: Vec<String> = deliveries.iter().map(|delivery| delivery.body.clone()).collect();
    sqlx::query!(
        "insert into webhook_deliveries (webhook_id, delivery_id, event_id, kind, body, state, next_try_at, created_at)
         select $1, delivery_id, event_id, kind, body, 'pending', $6, $6
         from unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[]) as noted (delivery_id, event_id, kind, body)
         on conflict on constraint webhook_deliveries_once do nothing",
        webhook_id.0,
        &ids,
        &event_ids,
        &kinds,
        &bodies,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes a webhook that has something due and that nobody sends to, the one longest without a turn.
pub async fn lease_webhook(
    conn: &mut PgConnection,
    lease_id: LeaseId,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> DbResult<Option<WebhookId>> {
    // `skip locked` and the condition on the lease, which is looked at anew once the row is locked, leave it to one server.
    let id = sqlx::query_scalar!(
        r#"
        update webhooks
        set lease_id = $1, lease_expires_at = $3, taken_at = $2
        where webhook_id = (
            select webhook_id from webhooks
            where enabled
              and (lease_expires_at is null or lease_expires_at <= $2)
              and exists (
                  select from webhook_deliveries
                  where webhook_deliveries.webhook_id = webhooks.webhook_id and state = 'pending' and next_try_at <= $2
              )
            order by taken_at nulls first, webhook_id
            limit 1
            for update skip locked
        )
        returning webhook_id
        "#,
        lease_id.0,
        now,
        until,
    )
    .fetch_optional(conn)
    .await?;
    Ok(id.map(Into::into))
}

/// What is sent in a try.
#[derive(Clone, Debug)]
pub struct TakenDelivery {
    /// Identifier.
    pub delivery_id: DeliveryId,
    /// This try's number, from 1.
    pub tries: u32,
    /// What is sent.
    pub body: String,
}

/// Takes the oldest event that is due at a webhook, and counts the try.
pub async fn take_due(
    conn: &mut PgConnection,
    webhook_id: WebhookId,
    now: DateTime<Utc>,
) -> DbResult<Option<TakenDelivery>> {
    let row = sqlx::query!(
        r#"
        update webhook_deliveries
        set tries = tries + 1
        where delivery_id = (
            select delivery_id from webhook_deliveries
            where webhook_id = $1 and state = 'pending' and next_try_at <= $2
            order by event_id
            limit 1
        )
        returning delivery_id, tries, body
        "#,
        webhook_id.0,
        now,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| TakenDelivery {
        delivery_id: row.delivery_id.into(),
        tries: row.tries.unsigned_abs(),
        body: row.body,
    }))
}

/// A webhook that was given back.
#[derive(Clone, Copy, Debug)]
pub struct Released {
    /// Since when it fails.
    pub failing_since: Option<DateTime<Utc>>,
}

/// Gives a webhook back; `None` where another server has taken it meanwhile.
pub async fn release_webhook(
    conn: &mut PgConnection,
    webhook_id: WebhookId,
    lease_id: LeaseId,
) -> DbResult<Option<Released>> {
    let row = sqlx::query!(
        "update webhooks set lease_id = null, lease_expires_at = null
         where webhook_id = $1 and lease_id = $2
         returning failing_since",
        webhook_id.0,
        lease_id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Released { failing_since: row.failing_since }))
}

/// Notes what a try came to and when the next one is.
pub async fn mark_tried(
    conn: &mut PgConnection,
    delivery_id: DeliveryId,
    outcome: &Outcome,
    state: DeliveryState,
    next_try_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!(
        "update webhook_deliveries
         set state = $2, next_try_at = $3, tried_at = $4, status_code = $5, duration_ms = $6, error = $7
         where delivery_id = $1",
        delivery_id.0,
        state.as_str(),
        next_try_at,
        now,
        outcome.status_code.map(u16::cast_signed),
        i64::try_from(outcome.duration_ms).unwrap_or(i64::MAX),
        outcome.error,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes a delivery due now, with all its tries before it. Answers whether there is such a delivery.
pub async fn mark_due(
    conn: &mut PgConnection,
    webhook_id: WebhookId,
    delivery_id: DeliveryId,
    now: DateTime<Utc>,
) -> DbResult<bool> {
    let done = sqlx::query!(
        "update webhook_deliveries set state = 'pending', tries = 0, next_try_at = $3
         where webhook_id = $1 and delivery_id = $2",
        webhook_id.0,
        delivery_id.0,
        now,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A delivery of a webhook.
pub async fn find_delivery(
    conn: &mut PgConnection,
    webhook_id: WebhookId,
    delivery_id: DeliveryId,
) -> DbResult<Option<Delivery>> {
    let row = sqlx::query_as!(
        DeliveryRow,
        "select delivery_id, webhook_id, event_id, kind, state, tries, next_try_at, tried_at, status_code, duration_ms, error,
                created_at
         from webhook_deliveries where webhook_id = $1 and delivery_id = $2",
        webhook_id.0,
        delivery_id.0,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Delivery::try_from).transpose()
}

/// Rows of a page of a webhook's deliveries, newest first.
pub async fn list_deliveries(
    conn: &mut PgConnection,
    webhook_id: WebhookId,
    state: Option<DeliveryState>,
    page: PageRequest,
) -> DbResult<Vec<Delivery>> {
    let rows = sqlx::query_as!(
        DeliveryRow,
        "select delivery_id, webhook_id, event_id, kind, state, tries, next_try_at, tried_at, status_code, duration_ms, error,
                created_at
         from webhook_deliveries
         where webhook_id = $1 and delivery_id < $2 and ($4::text is null or state = $4)
         order by delivery_id desc limit $3",
        webhook_id.0,
        page.before.unwrap_or(Uuid::max()),
        page.limit(),
        state.map(DeliveryState::as_str),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Delivery::try_from).collect()
}

/// Forgets deliveries that were noted before a time.
pub async fn delete_old(conn: &mut PgConnection, before: DateTime<Utc>) -> DbResult<u64> {
    let done = sqlx::query!("delete from webhook_deliveries where created_at < $1", before).execute(conn).await?;
    Ok(done.rows_affected())
}
