//! Uploads in parts: what they are to become, and what they became. Their bytes are noted in `uploads` as all others are.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    checkpoint::Reported,
    ids::{RunId, UploadId},
    page::PageRequest,
    upload::{MultipartUpload, ToldNormalisation, UploadPlace, UploadTarget},
};

const TABLE: &str = "multipart_uploads";

struct UploadRow {
    upload_id: Uuid,
    kind: String,
    run_id: Option<Uuid>,
    step: Option<i64>,
    dataset_name: Option<String>,
    beside: Value,
    size_bytes: i64,
    part_size_bytes: i64,
    digest_blake3: Option<String>,
    header_blake3: Option<String>,
    direct: bool,
    created_at: DateTime<Utc>,
    sealed_at: Option<DateTime<Utc>>,
    outcome_id: Option<Uuid>,
    object_key: Option<String>,
    store_upload_id: Option<String>,
    renewed_at: Option<DateTime<Utc>>,
    received_parts: i64,
    received_bytes: i64,
}

impl UploadRow {
    fn inconsistent(&self, column: &'static str) -> DbError {
        DbError::inconsistent(TABLE, column, self.upload_id)
    }

    fn target(&self) -> DbResult<UploadTarget> {
        let beside = self.beside.clone();
        match (self.kind.as_str(), self.run_id, self.step, &self.dataset_name) {
            ("checkpoint", Some(run_id), Some(step), None) => {
                let reported: Reported = serde_json::from_value(beside).map_err(|_| self.inconsistent("beside"))?;
                Ok(UploadTarget::Checkpoint { run_id: run_id.into(), step, reported })
            }
            ("file", Some(run_id), None, None) => Ok(UploadTarget::File { run_id: run_id.into() }),
            ("dataset", None, None, Some(name)) => {
                let told: ToldNormalisation =
                    serde_json::from_value(beside).map_err(|_| self.inconsistent("beside"))?;
                Ok(UploadTarget::Dataset { name: name.clone(), told })
            }
            _ => Err(self.inconsistent("kind")),
        }
    }

    fn place(&self) -> Option<UploadPlace> {
        Some(UploadPlace {
            object_key: self.object_key.clone()?,
            store_upload_id: self.store_upload_id.clone()?,
            renewed_at: self.renewed_at?,
        })
    }
}

impl TryFrom<UploadRow> for MultipartUpload {
    type Error = DbError;

    fn try_from(row: UploadRow) -> DbResult<Self> {
        let count = |column, value: i64| u64::try_from(value).map_err(|_| row.inconsistent(column));
        Ok(Self {
            upload_id: row.upload_id.into(),
            target: row.target()?,
            size_bytes: count("size_bytes", row.size_bytes)?,
            part_size_bytes: count("part_size_bytes", row.part_size_bytes)?,
            received_parts: count("received_parts", row.received_parts)?,
            received_bytes: count("received_bytes", row.received_bytes)?,
            place: row.place(),
            digest_blake3: row.digest_blake3,
            header_blake3: row.header_blake3,
            direct: row.direct,
            created_at: row.created_at,
            sealed_at: row.sealed_at,
            outcome_id: row.outcome_id,
        })
    }
}

/// The columns that name a target.
struct TargetColumns<'a> {
    run_id: Option<Uuid>,
    step: Option<i64>,
    dataset_name: Option<&'a str>,
    beside: Value,
}

fn columns(target: &UploadTarget) -> TargetColumns<'_> {
    let json = |beside: serde_json::Result<Value>| beside.expect("numbers, words and texts are JSON");
    match target {
        UploadTarget::Checkpoint { run_id, step, reported } => TargetColumns {
            run_id: Some(run_id.0),
            step: Some(*step),
            dataset_name: None,
            beside: json(serde_json::to_value(reported)),
        },
        UploadTarget::File { run_id } => TargetColumns {
            run_id: Some(run_id.0),
            step: None,
            dataset_name: None,
            beside: Value::Object(serde_json::Map::new()),
        },
        UploadTarget::Dataset { name, told } => TargetColumns {
            run_id: None,
            step: None,
            dataset_name: Some(name),
            beside: json(serde_json::to_value(told)),
        },
    }
}

/// Inserts an upload; false where one is open for the same bytes at the same place.
pub async fn insert(conn: &mut PgConnection, upload: &MultipartUpload) -> DbResult<bool> {
    let TargetColumns { run_id, step, dataset_name, beside } = columns(&upload.target);
    let result = sqlx::query!(
        "insert into multipart_uploads (upload_id, kind, run_id, step, dataset_name, beside, size_bytes,
             part_size_bytes, digest_blake3, created_at, completed_at, outcome_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::timestamptz,
             case when $11::uuid is not null then $10::timestamptz end, $11)
         on conflict do nothing",
        upload.upload_id.0,
        upload.target.kind(),
        run_id,
        step,
        dataset_name,
        beside,
        upload.size_bytes as i64,
        upload.part_size_bytes as i64,
        upload.digest_blake3,
        upload.created_at,
        upload.outcome_id,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Notes that clients may send parts to the store by themselves.
pub async fn mark_direct(conn: &mut PgConnection, upload_id: UploadId) -> DbResult<()> {
    sqlx::query!("update multipart_uploads set direct = true where upload_id = $1", upload_id.0).execute(conn).await?;
    Ok(())
}

/// Notes what the store calls an upload.
pub async fn mark_opened(conn: &mut PgConnection, upload_id: UploadId, store_upload_id: &str) -> DbResult<bool> {
    let result = sqlx::query!(
        "update uploads set store_upload_id = $2 where upload_id = $1 and abandoned_at is null",
        upload_id.0,
        store_upload_id,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The open upload for these bytes at this place; what is told beside the file takes the place of what was told before.
pub async fn find_open(
    conn: &mut PgConnection,
    target: &UploadTarget,
    digest_blake3: &str,
) -> DbResult<Option<UploadId>> {
    let TargetColumns { run_id, step, dataset_name, beside } = columns(target);
    let found = sqlx::query_scalar!(
        "update multipart_uploads set beside = $5
         where completed_at is null and digest_blake3 = $4
             and (kind = 'checkpoint' and run_id = $1 and step = $2 or kind = 'dataset' and dataset_name = $3
                 or kind = 'file' and run_id = $1 and $2::bigint is null)
             and exists (select 1 from uploads
                 where uploads.upload_id = multipart_uploads.upload_id and abandoned_at is null)
         returning upload_id",
        run_id,
        step,
        dataset_name,
        digest_blake3,
        beside,
    )
    .fetch_optional(conn)
    .await?;
    Ok(found.map(UploadId))
}

/// The upload of this id, unless it was given up.
pub async fn find(conn: &mut PgConnection, upload_id: UploadId) -> DbResult<Option<MultipartUpload>> {
    let row = sqlx::query_as!(
        UploadRow,
        r#"select m.upload_id, kind, run_id, step, dataset_name, beside, size_bytes, part_size_bytes, digest_blake3,
               header_blake3, direct, m.created_at, sealed_at, outcome_id, object_key as "object_key?",
               store_upload_id, renewed_at as "renewed_at?",
               (select count(*) from upload_parts p where p.upload_id = m.upload_id) as "received_parts!",
               (select coalesce(sum(p.size_bytes), 0)::bigint from upload_parts p where p.upload_id = m.upload_id)
                   as "received_bytes!"
           from multipart_uploads m
               left join uploads u on u.upload_id = m.upload_id and u.abandoned_at is null
           where m.upload_id = $1 and (completed_at is not null or u.upload_id is not null)"#,
        upload_id.0,
    )
    .fetch_optional(conn)
    .await?;
    row.map(MultipartUpload::try_from).transpose()
}

/// Rows of a page of uploads, newest first: of a run where one is given.
pub async fn list(conn: &mut PgConnection, run_id: Option<RunId>, page: PageRequest) -> DbResult<Vec<MultipartUpload>> {
    let rows = sqlx::query_as!(
        UploadRow,
        r#"select m.upload_id, kind, run_id, step, dataset_name, beside, size_bytes, part_size_bytes, digest_blake3,
               header_blake3, direct, m.created_at, sealed_at, outcome_id, object_key as "object_key?",
               store_upload_id, renewed_at as "renewed_at?",
               (select count(*) from upload_parts p where p.upload_id = m.upload_id) as "received_parts!",
               (select coalesce(sum(p.size_bytes), 0)::bigint from upload_parts p where p.upload_id = m.upload_id)
                   as "received_bytes!"
           from multipart_uploads m
               left join uploads u on u.upload_id = m.upload_id and u.abandoned_at is null
           where ($1::uuid is null or run_id = $1) and ($2::uuid is null or m.upload_id < $2)
               and (completed_at is not null or u.upload_id is not null)
           order by m.upload_id desc limit $3"#,
        run_id.map(Uuid::from),
        page.before,
        page.limit(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(MultipartUpload::try_from).collect()
}

/// How an upload stands, once nobody else changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes parts.
    Open,
    /// Its parts are being put together.
    Sealed,
    /// Its file is visible.
    Completed,
}

/// Keeps an upload from being sealed until the transaction ends; several parts may be noted at a time. `None` where it is
/// gone or given up.
pub async fn lock_for_part(conn: &mut PgConnection, upload_id: UploadId) -> DbResult<Option<Standing>> {
    let row = sqlx::query!(
        r#"select sealed_at is not null as "sealed!", completed_at is not null as "completed!"
           from multipart_uploads m where upload_id = $1 and (completed_at is not null or exists (
               select 1 from uploads u where u.upload_id = m.upload_id and abandoned_at is null))
           for share of m"#,
        upload_id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| standing(row.sealed, row.completed)))
}

/// Makes everybody else who writes of an upload wait until the transaction ends. `None` where it is gone or given up.
pub async fn lock(conn: &mut PgConnection, upload_id: UploadId) -> DbResult<Option<Standing>> {
    let row = sqlx::query!(
        r#"select sealed_at is not null as "sealed!", completed_at is not null as "completed!"
           from multipart_uploads m where upload_id = $1 and (completed_at is not null or exists (
               select 1 from uploads u where u.upload_id = m.upload_id and abandoned_at is null))
           for update of m"#,
        upload_id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| standing(row.sealed, row.completed)))
}

fn standing(sealed: bool, completed: bool) -> Standing {
    match (sealed, completed) {
        (_, true) => Standing::Completed,
        (true, false) => Standing::Sealed,
        (false, false) => Standing::Open,
    }
}

/// Forgets the header, since the part that holds it is sent anew, or keeps the one that has arrived.
pub async fn save_header(conn: &mut PgConnection, upload_id: UploadId, header: Option<(&[u8], &str)>) -> DbResult<()> {
    sqlx::query!(
        "update multipart_uploads set header = $2, header_blake3 = $3 where upload_id = $1",
        upload_id.0,
        header.map(|(bytes, _)| bytes),
        header.map(|(_, digest)| digest),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The header of an upload's file, where it has arrived.
pub async fn find_header(conn: &mut PgConnection, upload_id: UploadId) -> DbResult<Option<Vec<u8>>> {
    let found = sqlx::query_scalar!("select header from multipart_uploads where upload_id = $1", upload_id.0);
    Ok(found.fetch_optional(conn).await?.flatten())
}

/// Notes that the parts are being put together.
pub async fn mark_sealed(conn: &mut PgConnection, upload_id: UploadId, now: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!("update multipart_uploads set sealed_at = $2 where upload_id = $1", upload_id.0, now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes what an upload became, and forgets its parts.
pub async fn mark_completed(
    conn: &mut PgConnection,
    upload_id: UploadId,
    outcome_id: Uuid,
    now: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!(
        "update multipart_uploads set completed_at = $3, outcome_id = $2, header = null, header_blake3 = null
         where upload_id = $1",
        upload_id.0,
        outcome_id,
        now,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("delete from upload_parts where upload_id = $1", upload_id.0).execute(conn).await?;
    Ok(())
}

/// Forgets what uploads became that were completed before `before`.
pub async fn delete_completed(conn: &mut PgConnection, before: DateTime<Utc>) -> DbResult<u64> {
    let result = sqlx::query!("delete from multipart_uploads where completed_at < $1", before).execute(conn).await?;
    Ok(result.rows_affected())
}
