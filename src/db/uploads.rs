//! Uploads on their way into object storage.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::DbResult;
use crate::domain::ids::UploadId;

/// An upload that nobody will finish.
#[derive(Debug)]
pub struct AbandonedUpload {
    /// The upload.
    pub upload_id: UploadId,
    /// Where its bytes lie, if any have arrived.
    pub object_key: String,
    /// The store's own name for it, where the store holds it in parts.
    pub store_upload_id: Option<String>,
}

/// Notes an upload before its first byte is stored.
pub async fn insert_upload(
    conn: &mut PgConnection,
    upload_id: UploadId,
    object_key: &str,
    now: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!(
        "insert into uploads (upload_id, object_key, created_at, renewed_at) values ($1, $2, $3, $3)",
        upload_id.0,
        object_key,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that bytes still flow; false where the reaper has given the upload up.
pub async fn renew_upload(conn: &mut PgConnection, upload_id: UploadId, now: DateTime<Utc>) -> DbResult<bool> {
    let result = sqlx::query!(
        "update uploads set renewed_at = $2 where upload_id = $1 and abandoned_at is null",
        upload_id.0,
        now,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Removes the row of an upload that becomes visible; false where the reaper has given the upload up.
pub async fn delete_live_upload(conn: &mut PgConnection, upload_id: UploadId) -> DbResult<bool> {
    let result = sqlx::query!("delete from uploads where upload_id = $1 and abandoned_at is null", upload_id.0)
        .execute(conn)
        .await?;
    Ok(result.rows_affected() == 1)
}

/// Removes the row of an upload whose object is gone, and what it was to become.
pub async fn delete_upload(conn: &mut PgConnection, upload_id: UploadId) -> DbResult<()> {
    sqlx::query!(
        "with unfinished as (delete from multipart_uploads where upload_id = $1 and completed_at is null)
         delete from uploads where upload_id = $1",
        upload_id.0,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives up one upload; `None` where it has become a blob or is gone. It can no longer be committed then.
pub async fn mark_abandoned(
    conn: &mut PgConnection,
    upload_id: UploadId,
    now: DateTime<Utc>,
) -> DbResult<Option<AbandonedUpload>> {
    let row = sqlx::query!(
        "update uploads set abandoned_at = coalesce(abandoned_at, $2) where upload_id = $1
         returning object_key, store_upload_id",
        upload_id.0,
        now,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| AbandonedUpload { upload_id, object_key: row.object_key, store_upload_id: row.store_upload_id }))
}

/// Since when uploads have been silent that are given up.
#[derive(Clone, Copy, Debug)]
pub struct SilentSince {
    /// Those that come in one stream.
    pub streams: DateTime<Utc>,
    /// Those that come in parts.
    pub in_parts: DateTime<Utc>,
}

/// Gives up every upload that has been silent for too long and returns all that were given up and still have a row.
pub async fn mark_silent_abandoned(
    conn: &mut PgConnection,
    silent: SilentSince,
    now: DateTime<Utc>,
) -> DbResult<Vec<AbandonedUpload>> {
    // Rows given up earlier are returned again: their object may have outlived a reaper that died.
    let rows = sqlx::query!(
        "update uploads set abandoned_at = coalesce(abandoned_at, $3)
         where abandoned_at is not null
             or renewed_at < case when exists (select from multipart_uploads m where m.upload_id = uploads.upload_id)
                 then $2::timestamptz else $1::timestamptz end
         returning upload_id, object_key, store_upload_id",
        silent.streams,
        silent.in_parts,
        now,
    )
    .fetch_all(conn)
    .await?;
    let uploads = rows.into_iter().map(|row| AbandonedUpload {
        upload_id: row.upload_id.into(),
        object_key: row.object_key,
        store_upload_id: row.store_upload_id,
    });
    Ok(uploads.collect())
}
