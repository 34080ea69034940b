//! Replies to creating requests, by idempotency key.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{DbError, DbResult};

/// A request that was answered before.
#[derive(Debug)]
pub struct AnsweredRequest {
    /// Digest of that request's body.
    pub request_blake3: String,
    /// Status it was answered with.
    pub status: u16,
    /// `Location` it was answered with.
    pub location: Option<String>,
    /// Body it was answered with.
    pub body: String,
}

/// Reserves a key for this transaction; false where it has been used. Waits for a concurrent holder to end.
pub async fn insert_key(
    conn: &mut PgConnection,
    operation: &str,
    key: &str,
    request_blake3: &str,
    now: DateTime<Utc>,
) -> DbResult<bool> {
    let result = sqlx::query!(
        "insert into idempotency_keys (operation, idempotency_key, request_blake3, created_at)
         values ($1, $2, $3, $4) on conflict do nothing",
        operation,
        key,
        request_blake3,
        now,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The request that used a key.
pub async fn find_answered(conn: &mut PgConnection, operation: &str, key: &str) -> DbResult<Option<AnsweredRequest>> {
    let Some(row) = sqlx::query!(
        "select request_blake3, response_status, response_location, response_body
         from idempotency_keys where operation = $1 and idempotency_key = $2",
        operation,
        key,
    )
    .fetch_optional(conn)
    .await?
    else {
        return Ok(None);
    };
    let inconsistent = |column| DbError::Inconsistent { table: "idempotency_keys", column, id: key.to_owned() };
    let status = row.response_status.and_then(|status| u16::try_from(status).ok());
    Ok(Some(AnsweredRequest {
        request_blake3: row.request_blake3,
        status: status.ok_or_else(|| inconsistent("response_status"))?,
        location: row.response_location,
        body: row.response_body.ok_or_else(|| inconsistent("response_body"))?,
    }))
}

/// Keeps the reply to a request whose key this transaction reserved.
pub async fn mark_answered(
    conn: &mut PgConnection,
    operation: &str,
    key: &str,
    status: u16,
    location: Option<&str>,
    body: &str,
) -> DbResult<()> {
    sqlx::query!(
        "update idempotency_keys set response_status = $3, response_location = $4, response_body = $5
         where operation = $1 and idempotency_key = $2",
        operation,
        key,
        status.cast_signed(),
        location,
        body,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets replies older than `before`; returns how many.
pub async fn delete_older(conn: &mut PgConnection, before: DateTime<Utc>) -> DbResult<u64> {
    let result = sqlx::query!("delete from idempotency_keys where created_at < $1", before).execute(conn).await?;
    Ok(result.rows_affected())
}
