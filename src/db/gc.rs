//! Removal of what was deleted long enough ago: rows first, in the order of their references, then blobs that nothing
//! refers to any more, then, outside of any transaction, their objects.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::DbResult;
use crate::domain::collection::Collected;

/// Since when what goes has not been needed.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// Deleted then or earlier.
    pub deleted: DateTime<Utc>,
    /// Uploaded as a file then or earlier, and no part of a checkpoint yet.
    pub staged: DateTime<Utc>,
}

/// Removes up to `limit` things of each kind whose time is over and that nothing refers to, with the blobs that only they
/// referred to. Objects of the latter are noted in `freed_objects`.
pub async fn purge(
    conn: &mut PgConnection,
    Before { deleted: before, staged }: Before,
    limit: i64,
    now: DateTime<Utc>,
) -> DbResult<Collected> {
    sqlx::query!(
        "delete from run_aliases using runs where runs.run_id = run_aliases.run_id and runs.deleted_at <= $1",
        before
    )
    .execute(&mut *conn)
    .await?;
    let mut digests = Vec::new();
    let artifacts = purge_artifacts(conn, before, limit, &mut digests).await?;
    let jobs = purge_jobs(conn, before, limit, &mut digests).await?;
    let candidate_sets = purge_candidate_sets(conn, before, limit).await?;
    let checkpoints = purge_checkpoints(conn, before, limit, &mut digests).await?;
    let staged_files = purge_staged_files(conn, before, staged, limit, &mut digests).await?;
    let runs = purge_runs(conn, before, limit).await?;
    let (objects, bytes) = free_blobs(conn, &digests, now).await?;
    Ok(Collected { artifacts, jobs, candidate_sets, checkpoints, staged_files, runs, objects, bytes })
}

async fn purge_artifacts(
    conn: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
    digests: &mut Vec<String>,
) -> DbResult<u64> {
    let gone = sqlx::query_scalar!(
        r#"delete from artifacts where artifact_id in (
             select artifact_id from artifacts
             where deleted_at <= $1
               and not exists (select from run_aliases where run_aliases.artifact_id = artifacts.artifact_id)
             order by deleted_at limit $2 for update skip locked)
         returning array_remove(array[blob_blake3, kept_blake3], null) as "digests!""#,
        before,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let count = gone.len() as u64;
    digests.extend(gone.into_iter().flatten());
    Ok(count)
}

/// With a job go its attempts, history, coefficients and the objects that hold its history.
async fn purge_jobs(
    conn: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
    digests: &mut Vec<String>,
) -> DbResult<u64> {
    let ids: Vec<Uuid> = sqlx::query_scalar!(
        "select job_id from jobs
         where deleted_at <= $1 and not exists (select from artifacts where artifacts.job_id = jobs.job_id)
         order by deleted_at limit $2 for update skip locked",
        before,
        limit,
    )
    .fetch_all(&mut *conn)
    .await?;
    let chunks = sqlx::query_scalar!("delete from history_chunks where job_id = any($1) returning digest_blake3", &ids);
    digests.extend(chunks.fetch_all(&mut *conn).await?);
    sqlx::query!("delete from jobs where job_id = any($1)", &ids).execute(conn).await?;
    Ok(ids.len() as u64)
}

async fn purge_candidate_sets(conn: &mut PgConnection, before: DateTime<Utc>, limit: i64) -> DbResult<u64> {
    let ids: Vec<Uuid> = sqlx::query_scalar!(
        "select candidate_set_id from candidate_sets
         where deleted_at <= $1
           and not exists (select from jobs where jobs.candidate_set_id = candidate_sets.candidate_set_id)
         order by deleted_at limit $2 for update skip locked",
        before,
        limit,
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!("delete from candidate_set_members where candidate_set_id = any($1)", &ids)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("delete from candidate_sets where candidate_set_id = any($1)", &ids).execute(conn).await?;
    Ok(ids.len() as u64)
}

async fn purge_checkpoints(
    conn: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
    digests: &mut Vec<String>,
) -> DbResult<u64> {
    let ids: Vec<Uuid> = sqlx::query_scalar!(
        "select checkpoint_id from checkpoints c
         where deleted_at <= $1
           and not exists (select from candidate_set_members m where m.checkpoint_id = c.checkpoint_id)
           and not exists (select from run_aliases a where a.checkpoint_id = c.checkpoint_id)
           and not exists (
               select from jobs where (spec #>> '{lora,base_checkpoint_id}')::uuid = c.checkpoint_id
                 and spec #>> '{lora,base_checkpoint_id}' is not null)
         order by deleted_at limit $2 for update skip locked",
        before,
        limit,
    )
    .fetch_all(&mut *conn)
    .await?;
    let files =
        sqlx::query_scalar!("delete from checkpoint_files where checkpoint_id = any($1) returning digest_blake3", &ids);
    digests.extend(files.fetch_all(&mut *conn).await?);
    let gone =
        sqlx::query_scalar!("delete from checkpoints where checkpoint_id = any($1) returning digest_blake3", &ids);
    digests.extend(gone.fetch_all(conn).await?);
    Ok(ids.len() as u64)
}

/// Files that came for checkpoints which nobody has created.
async fn purge_staged_files(
    conn: &mut PgConnection,
    before: DateTime<Utc>,
    staged: DateTime<Utc>,
    limit: i64,
    digests: &mut Vec<String>,
) -> DbResult<u64> {
    let gone = sqlx::query_scalar!(
        "delete from staged_files where (run_id, digest_blake3) in (
             select f.run_id, f.digest_blake3 from staged_files f join runs using (run_id)
             where staged_at <= $2 or runs.deleted_at <= $1
             order by staged_at limit $3 for update of f skip locked)
         returning digest_blake3",
        before,
        staged,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let count = gone.len() as u64;
    digests.extend(gone);
    Ok(count)
}

async fn purge_runs(conn: &mut PgConnection, before: DateTime<Utc>, limit: i64) -> DbResult<u64> {
    let gone = sqlx::query!(
        "delete from runs where run_id in (
             select run_id from runs
             where deleted_at <= $1
               and not exists (select from checkpoints where checkpoints.run_id = runs.run_id)
               and not exists (select from candidate_sets where candidate_sets.run_id = runs.run_id)
               and not exists (select from jobs where jobs.run_id = runs.run_id)
               and not exists (select from staged_files where staged_files.run_id = runs.run_id)
             order by deleted_at limit $2 for update skip locked)",
        before,
        limit,
    )
    .execute(conn)
    .await?;
    Ok(gone.rows_affected())
}

/// Removes those of these blobs that nothing refers to; returns how many, and their bytes.
///
/// The list of owners is complete or the database refuses: a reference that is not named here is a foreign key.
pub async fn free_blobs(conn: &mut PgConnection, digests: &[String], now: DateTime<Utc>) -> DbResult<(u64, u64)> {
    // Locked first, looked at afterwards: an upload of the same bytes holds its blob until it has committed the row that
    // refers to it, and a statement does not see what was committed after it began.
    sqlx::query!("select from blobs where digest_blake3 = any($1) order by digest_blake3 for update", digests)
        .fetch_all(&mut *conn)
        .await?;
    let freed = sqlx::query_scalar!(
        "with freed as (
             delete from blobs where digest_blake3 = any($1)
               and not exists (select from checkpoints o where o.digest_blake3 = blobs.digest_blake3)
               and not exists (select from checkpoint_files o where o.digest_blake3 = blobs.digest_blake3)
               and not exists (select from staged_files o where o.digest_blake3 = blobs.digest_blake3)
               and not exists (select from datasets o where o.digest_blake3 = blobs.digest_blake3)
               and not exists (select from artifacts o where o.blob_blake3 = blobs.digest_blake3)
               and not exists (select from artifacts o where o.kept_blake3 = blobs.digest_blake3)
               and not exists (select from history_chunks o where o.digest_blake3 = blobs.digest_blake3)
               and not exists (select from projections o where o.digest_blake3 = blobs.digest_blake3)
             returning object_key, size_bytes, registered
         )
         insert into freed_objects (object_key, size_bytes, freed_at)
         select object_key, size_bytes, $2 from freed where not registered returning size_bytes",
        digests,
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok((freed.len() as u64, freed.iter().map(|size| size.unsigned_abs()).sum()))
}

/// An object whose blob is gone.
#[derive(Clone, Debug)]
pub struct FreedObject {
    /// Where it lies.
    pub object_key: String,
    /// Its size.
    pub size_bytes: u64,
}

/// Objects that are still to be deleted, oldest first, behind this key.
pub async fn list_freed_objects(conn: &mut PgConnection, after: &str, limit: i64) -> DbResult<Vec<FreedObject>> {
    let rows = sqlx::query!(
        "select object_key, size_bytes from freed_objects where object_key > $1 order by object_key limit $2",
        after,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let objects = rows.into_iter();
    Ok(objects
        .map(|row| FreedObject { object_key: row.object_key, size_bytes: row.size_bytes.unsigned_abs() })
        .collect())
}

/// Forgets an object that the store has deleted; false where another collection was quicker.
pub async fn delete_freed_object(conn: &mut PgConnection, object_key: &str) -> DbResult<bool> {
    let result = sqlx::query!("delete from freed_objects where object_key = $1", object_key).execute(conn).await?;
    Ok(result.rows_affected() == 1)
}

/// Marks the artifacts deleted whose time is over, unless an alias names them; returns how many.
pub async fn mark_expired_artifacts(conn: &mut PgConnection, now: DateTime<Utc>) -> DbResult<u64> {
    let result = sqlx::query!(
        "update artifacts set deleted_at = $1
         where expires_at <= $1 and deleted_at is null
           and not exists (select from run_aliases where run_aliases.artifact_id = artifacts.artifact_id)",
        now,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
