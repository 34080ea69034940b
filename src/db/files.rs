//! Files of checkpoints that have several: those that came and those that are part of a checkpoint.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{DbError, DbResult};
use crate::domain::{
    blob::Blob,
    checkpoint_files::NamedFile,
    ids::{CheckpointId, RunId},
};

/// A file that is there for checkpoints of a run.
#[derive(Clone, Debug)]
pub struct AvailableFile {
    /// Its bytes.
    pub blob: Blob,
    /// Digest of its layout, where it was looked at as a safetensors file.
    pub layout_blake3: Option<String>,
    /// When it came, unless it is part of a checkpoint of the run.
    pub staged_at: Option<DateTime<Utc>>,
}

/// Notes what was learnt of a safetensors file.
pub async fn insert_tensor_file(conn: &mut PgConnection, digest_blake3: &str, layout_blake3: &str) -> DbResult<()> {
    sqlx::query!(
        "insert into tensor_files (digest_blake3, layout_blake3) values ($1, $2) on conflict do nothing",
        digest_blake3,
        layout_blake3,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What was learnt of a safetensors file.
#[derive(Clone, Debug)]
pub struct TensorFile {
    /// Digest of its layout.
    pub layout_blake3: String,
    /// Digests of its tensors in the order of the layout, where somebody has looked.
    pub tensor_digests: Option<Vec<u8>>,
}

/// What was learnt of the safetensors file of this digest.
pub async fn find_tensor_file(conn: &mut PgConnection, digest_blake3: &str) -> DbResult<Option<TensorFile>> {
    let row = sqlx::query_as!(
        TensorFile,
        "select layout_blake3, tensor_digests from tensor_files where digest_blake3 = $1",
        digest_blake3,
    );
    Ok(row.fetch_optional(conn).await?)
}

/// Keeps the digests of a file's tensors, in the order of its layout.
pub async fn save_tensor_digests(conn: &mut PgConnection, digest_blake3: &str, digests: &[u8]) -> DbResult<()> {
    sqlx::query!("update tensor_files set tensor_digests = $2 where digest_blake3 = $1", digest_blake3, digests)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps a file for a checkpoint that is still to be created.
pub async fn stage(conn: &mut PgConnection, run_id: RunId, digest_blake3: &str, now: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!(
        "insert into staged_files (run_id, digest_blake3, staged_at) values ($1, $2, $3)
         on conflict (run_id, digest_blake3) do update set staged_at = excluded.staged_at",
        run_id.0,
        digest_blake3,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets go of files that a checkpoint of the run holds from now on.
pub async fn unstage(conn: &mut PgConnection, run_id: RunId, digests: &[String]) -> DbResult<()> {
    sqlx::query!("delete from staged_files where run_id = $1 and digest_blake3 = any($2)", run_id.0, digests)
        .execute(conn)
        .await?;
    Ok(())
}

/// Those of these files that came for the run or are part of one of its checkpoints, deleted or not; they stay until the
/// transaction ends.
pub async fn list_available(
    conn: &mut PgConnection,
    run_id: RunId,
    digests: &[String],
) -> DbResult<Vec<AvailableFile>> {
    // A collection may be at work on them: waits for it, and then a blob is either gone or held.
    sqlx::query!("select from blobs where digest_blake3 = any($1) order by digest_blake3 for key share", digests)
        .fetch_all(&mut *conn)
        .await?;
    let rows = sqlx::query!(
        r#"select b.digest_blake3 as "digest_blake3!", b.size_bytes as "size_bytes!", b.object_key as "object_key!",
               t.layout_blake3 as "layout_blake3?",
               s.staged_at as "staged_at?", held.held as "held!"
           from blobs b left join tensor_files t using (digest_blake3)
               left join staged_files s on s.digest_blake3 = b.digest_blake3 and s.run_id = $1
               cross join lateral (select
                   exists (select from checkpoints c where c.run_id = $1 and c.digest_blake3 = b.digest_blake3)
                   or exists (select from checkpoint_files f join checkpoints c using (checkpoint_id)
                       where c.run_id = $1 and f.digest_blake3 = b.digest_blake3) as held) held
           where b.digest_blake3 = any($2) and (s.run_id is not null or held.held)"#,
        run_id.0,
        digests,
    )
    .fetch_all(conn)
    .await?;
    let available = rows.into_iter().map(|row| AvailableFile {
        blob: Blob {
            digest_blake3: row.digest_blake3,
            size_bytes: row.size_bytes.unsigned_abs(),
            object_key: row.object_key,
        },
        layout_blake3: row.layout_blake3,
        staged_at: row.staged_at.filter(|_| !row.held),
    });
    Ok(available.collect())
}

/// Makes these the files of a checkpoint that was just inserted.
pub async fn insert_checkpoint_files<'a>(
    conn: &mut PgConnection,
    checkpoint_id: CheckpointId,
    files: impl Iterator<Item = &'a NamedFile>,
) -> DbResult<()> {
    let (names, digests): (Vec<String>, Vec<String>) =
        files.map(|file| (file.name.clone(), file.digest_blake3.clone())).unzip();
    sqlx::query!(
        "insert into checkpoint_files (checkpoint_id, name, digest_blake3)
         select $1, name, digest from unnest($2::text[], $3::text[]) as file (name, digest)",
        checkpoint_id.0,
        &names,
        &digests,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The files of a checkpoint that has several, by name.
pub async fn list_checkpoint_files(conn: &mut PgConnection, id: CheckpointId) -> DbResult<Vec<NamedFile>> {
    let rows = sqlx::query!(
        r#"select name, digest_blake3, size_bytes from checkpoint_files join blobs using (digest_blake3)
           where checkpoint_id = $1 order by name collate "C""#,
        id.0
    )
    .fetch_all(conn)
    .await?;
    let file =
        |size: i64| u64::try_from(size).map_err(|_| DbError::inconsistent("checkpoint_files", "size_bytes", id.0));
    rows.into_iter()
        .map(|row| {
            Ok(NamedFile { name: row.name, digest_blake3: row.digest_blake3, size_bytes: file(row.size_bytes)? })
        })
        .collect()
}

/// The bytes of one file of a checkpoint that has several.
pub async fn find_checkpoint_file(conn: &mut PgConnection, id: CheckpointId, name: &str) -> DbResult<Option<Blob>> {
    let row = sqlx::query!(
        "select digest_blake3, size_bytes, object_key from checkpoint_files join blobs using (digest_blake3)
         where checkpoint_id = $1 and name = $2",
        id.0,
        name,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Blob {
        digest_blake3: row.digest_blake3,
        size_bytes: row.size_bytes.unsigned_abs(),
        object_key: row.object_key,
    }))
}
