//! Idempotency keys: the same creating request again gets the same reply and creates nothing.
//!
//! A use case calls [`replay`] first and [`record`] last, both inside its transaction, so that the reply is stored if and
//! only if its effect is.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{AppError, AppResult};
use crate::{db, domain::problem_code::ProblemCode};

/// A creating request that carries an `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct IdempotentRequest {
    /// Method and path.
    pub operation: String,
    /// The key.
    pub key: String,
    /// BLAKE3 digest of the body.
    pub request_blake3: String,
}

/// A reply as it is stored and repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status, 2xx.
    pub status: u16,
    /// `Location` of what was created.
    pub location: Option<String>,
    /// JSON body.
    pub body: String,
}

/// Reserves the request's key, or returns the reply that the same request got before.
///
/// A second request with the same key waits for the transaction of the first. Refuses a key used with another body.
pub async fn replay(
    conn: &mut PgConnection,
    request: Option<&IdempotentRequest>,
    now: DateTime<Utc>,
) -> AppResult<Option<Reply>> {
    let Some(IdempotentRequest { operation, key, request_blake3 }) = request else {
        return Ok(None);
    };
    if db::idempotency::insert_key(conn, operation, key, request_blake3, now).await? {
        return Ok(None);
    }
    let answered = db::idempotency::find_answered(conn, operation, key).await?;
    let answered = answered.ok_or_else(|| AppError::internal("an idempotency key vanished while it was read"))?;
    if answered.request_blake3 != *request_blake3 {
        let detail = format!("the key `{key}` was used for another {operation} with a different body");
        return Err(AppError::fault(ProblemCode::IdempotencyKeyReused, "idempotency-key", detail));
    }
    Ok(Some(Reply { status: answered.status, location: answered.location, body: answered.body }))
}

/// Stores the reply under the key that [`replay`] reserved.
pub async fn record(conn: &mut PgConnection, request: Option<&IdempotentRequest>, reply: &Reply) -> AppResult<()> {
    let Some(request) = request else {
        return Ok(());
    };
    let location = reply.location.as_deref();
    db::idempotency::mark_answered(conn, &request.operation, &request.key, reply.status, location, &reply.body).await?;
    Ok(())
}
