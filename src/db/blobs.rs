//! Bytes in object storage, by digest.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{DbError, DbResult};
use crate::domain::blob::Blob;

struct BlobRow {
    digest_blake3: String,
    size_bytes: i64,
    object_key: String,
}

impl TryFrom<BlobRow> for Blob {
    type Error = DbError;

    fn try_from(row: BlobRow) -> DbResult<Self> {
        let size_bytes = u64::try_from(row.size_bytes).map_err(|_| DbError::Inconsistent {
            table: "blobs",
            column: "size_bytes",
            id: row.digest_blake3.clone(),
        })?;
        Ok(Self { digest_blake3: row.digest_blake3, size_bytes, object_key: row.object_key })
    }
}

/// Inserts a blob unless its digest is known; tells whether it was inserted. A known one stays until the transaction ends.
pub async fn insert_blob(conn: &mut PgConnection, blob: &Blob, now: DateTime<Utc>) -> DbResult<bool> {
    // A collection may be at work on the known one: waits for it, and then the blob is either gone or held.
    sqlx::query!("select from blobs where digest_blake3 = $1 for key share", blob.digest_blake3)
        .fetch_optional(&mut *conn)
        .await?;
    let result = sqlx::query!(
        "insert into blobs (digest_blake3, size_bytes, object_key, created_at) values ($1, $2, $3, $4)
         on conflict (digest_blake3) do nothing",
        blob.digest_blake3,
        blob.size_bytes as i64,
        blob.object_key,
        now,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Lets a blob lie elsewhere.
pub async fn move_blob(conn: &mut PgConnection, blob: &Blob) -> DbResult<()> {
    sqlx::query!("update blobs set object_key = $2 where digest_blake3 = $1", blob.digest_blake3, blob.object_key)
        .execute(conn)
        .await?;
    Ok(())
}

/// The blob with this digest.
pub async fn find_blob(conn: &mut PgConnection, digest_blake3: &str) -> DbResult<Option<Blob>> {
    let row = sqlx::query_as!(
        BlobRow,
        "select digest_blake3, size_bytes, object_key from blobs where digest_blake3 = $1",
        digest_blake3,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Blob::try_from).transpose()
}
