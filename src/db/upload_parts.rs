//! Parts of uploads that are there.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{ids::UploadId, upload::UploadPart};

struct PartRow {
    upload_id: Uuid,
    number: i64,
    size_bytes: i64,
    chaining_value: Option<Vec<u8>>,
    store_part_id: String,
    scanned_header_blake3: Option<String>,
    head: Vec<u8>,
    tail: Vec<u8>,
    stored_at: DateTime<Utc>,
}

impl TryFrom<PartRow> for UploadPart {
    type Error = DbError;

    fn try_from(row: PartRow) -> DbResult<Self> {
        let inconsistent = |column| DbError::inconsistent("upload_parts", column, row.upload_id);
        Ok(Self {
            number: u64::try_from(row.number).map_err(|_| inconsistent("number"))?,
            size_bytes: u64::try_from(row.size_bytes).map_err(|_| inconsistent("size_bytes"))?,
            chaining_value: row
                .chaining_value
                .map(|value| value.try_into().map_err(|_| inconsistent("chaining_value")))
                .transpose()?,
            store_part_id: row.store_part_id,
            scanned_header_blake3: row.scanned_header_blake3,
            head: row.head,
            tail: row.tail,
            stored_at: row.stored_at,
        })
    }
}

/// Notes a part that the store holds.
pub async fn insert(conn: &mut PgConnection, upload_id: UploadId, part: &UploadPart) -> DbResult<()> {
    sqlx::query!(
        "insert into upload_parts (upload_id, number, size_bytes, chaining_value, store_part_id,
             scanned_header_blake3, head, tail, stored_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (upload_id, number) do update set size_bytes = excluded.size_bytes,
             chaining_value = excluded.chaining_value, store_part_id = excluded.store_part_id,
             scanned_header_blake3 = excluded.scanned_header_blake3, head = excluded.head, tail = excluded.tail,
             stored_at = excluded.stored_at",
        upload_id.0,
        part.number as i64,
        part.size_bytes as i64,
        part.chaining_value.as_ref().map(<[u8; 32]>::as_slice),
        part.store_part_id,
        part.scanned_header_blake3,
        part.head,
        part.tail,
        part.stored_at,
    )
    .execute(&mut *conn)
    .await?;
    Ok(())
}

/// Forgets a part, since its bytes are about to be replaced.
pub async fn delete(conn: &mut PgConnection, upload_id: UploadId, number: u64) -> DbResult<()> {
    sqlx::query!("delete from upload_parts where upload_id = $1 and number = $2", upload_id.0, number as i64)
        .execute(conn)
        .await?;
    Ok(())
}

/// Up to `limit` parts of an upload with numbers above `after`, in order.
pub async fn list(conn: &mut PgConnection, upload_id: UploadId, after: u64, limit: i64) -> DbResult<Vec<UploadPart>> {
    let rows = sqlx::query_as!(
        PartRow,
        "select upload_id, number, size_bytes, chaining_value, store_part_id, scanned_header_blake3, head, tail,
             stored_at
         from upload_parts where upload_id = $1 and number > $2 order by number limit $3",
        upload_id.0,
        after as i64,
        limit,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(UploadPart::try_from).collect()
}
