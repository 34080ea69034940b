//! SQL of the projections that workers share, and of what a job's projection extends.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    blob::Blob,
    ids::{JobId, LeaseId},
    page::PageRequest,
    projection::{Counts, Link, Projection},
};

/// Rows that one statement removes: few enough to hold no lock for long.
const BATCH: i64 = 200;

struct ProjectionRow {
    projection_id: Uuid,
    projection_key: String,
    digest_blake3: String,
    size_bytes: i64,
    object_key: String,
    candidate_count: i32,
    revision_count: i32,
    hit_count: i64,
    created_at: DateTime<Utc>,
    used_at: DateTime<Utc>,
}

impl From<ProjectionRow> for Projection {
    fn from(row: ProjectionRow) -> Self {
        Self {
            projection_id: row.projection_id,
            projection_key: row.projection_key,
            blob: Blob {
                digest_blake3: row.digest_blake3,
                size_bytes: row.size_bytes.unsigned_abs(),
                object_key: row.object_key,
            },
            candidate_count: row.candidate_count.unsigned_abs(),
            revision_count: row.revision_count.unsigned_abs(),
            hit_count: row.hit_count.unsigned_abs(),
            created_at: row.created_at,
            used_at: row.used_at,
        }
    }
}

/// Stores a projection; false where one of its key is there.
pub async fn insert_projection(conn: &mut PgConnection, projection: &Projection) -> DbResult<bool> {
    let done = sqlx::query!(
        "insert into projections (projection_id, projection_key, digest_blake3, size_bytes, candidate_count, revision_count,
             hit_count, created_at, used_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (projection_key) do nothing",
        projection.projection_id,
        projection.projection_key,
        projection.blob.digest_blake3,
        projection.blob.size_bytes.cast_signed(),
        projection.candidate_count.cast_signed(),
        projection.revision_count.cast_signed(),
        projection.hit_count.cast_signed(),
        projection.created_at,
        projection.used_at,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The projections of these keys that are there.
pub async fn list_by_key(conn: &mut PgConnection, keys: &[String]) -> DbResult<Vec<Projection>> {
    let rows = sqlx::query_as!(
        ProjectionRow,
        "select projection_id, projection_key, digest_blake3, projections.size_bytes, object_key, candidate_count, revision_count,
             hit_count, projections.created_at, used_at
         from projections join blobs using (digest_blake3)
         where projection_key = any($1)",
        keys,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Projection::from).collect())
}

/// Rows of a page of projections, last come first.
pub async fn list_projections(conn: &mut PgConnection, page: PageRequest) -> DbResult<Vec<Projection>> {
    let rows = sqlx::query_as!(
        ProjectionRow,
        "select projection_id, projection_key, digest_blake3, projections.size_bytes, object_key, candidate_count, revision_count,
             hit_count, projections.created_at, used_at
         from projections join blobs using (digest_blake3)
         where projection_id < $1
         order by projection_id desc
         limit $2",
        page.before.unwrap_or(Uuid::max()),
        page.limit(),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Projection::from).collect())
}

/// Notes a use of these projections, and of which it was a hit.
pub async fn mark_used(conn: &mut PgConnection, keys: &[String], is_hit: bool, now: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!(
        "update projections set used_at = greatest(used_at, $2), hit_count = hit_count + $3::integer where projection_key = any($1)",
        keys,
        now,
        i32::from(is_hit),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes a projection; returns the digest of its file.
pub async fn delete_projection(conn: &mut PgConnection, key: &str) -> DbResult<Option<String>> {
    let digest = sqlx::query_scalar!("delete from projections where projection_key = $1 returning digest_blake3", key);
    Ok(digest.fetch_optional(conn).await?)
}

/// Removes projections that were last used before `unused_since`, and those used longest ago while all together take more than
/// `limit_bytes`; some hundred at a time. Returns the digests of their files.
pub async fn evict(conn: &mut PgConnection, unused_since: DateTime<Utc>, limit_bytes: u64) -> DbResult<Vec<String>> {
    let digests = sqlx::query_scalar!(
        "delete from projections where projection_id in (
             select projection_id
             from (
                 select projection_id, used_at, sum(size_bytes) over (order by used_at desc, projection_id desc) as with_later
                 from projections
             ) as ranked
             where used_at < $1 or with_later > $2::bigint
             order by used_at
             limit $3
         )
         returning digest_blake3",
        unused_since,
        i64::try_from(limit_bytes).unwrap_or(i64::MAX),
        BATCH,
    );
    Ok(digests.fetch_all(conn).await?)
}

/// Pins what a job's projection extends.
pub async fn insert_links(conn: &mut PgConnection, job_id: JobId, links: &[Link]) -> DbResult<()> {
    let (sets, keys): (Vec<Uuid>, Vec<String>) =
        links.iter().map(|link| (link.candidate_set_id.0, link.projection_key.clone())).unzip();
    sqlx::query!(
        "insert into projection_links (job_id, position, candidate_set_id, projection_key)
         select $1, position - 1, candidate_set_id, projection_key
         from unnest($2::uuid[], $3::text[]) with ordinality as links (candidate_set_id, projection_key, position)",
        job_id.0,
        &sets,
        &keys,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What a job's projection extends, oldest first.
pub async fn list_links(conn: &mut PgConnection, job_id: JobId) -> DbResult<Vec<Link>> {
    let rows = sqlx::query!(
        "select candidate_set_id, projection_key from projection_links where job_id = $1 order by position",
        job_id.0
    )
    .fetch_all(conn)
    .await?;
    let links = rows.into_iter();
    Ok(links
        .map(|row| Link { candidate_set_id: row.candidate_set_id.into(), projection_key: row.projection_key })
        .collect())
}

/// What the projections of a job are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Its projection; none where the method needs none.
    pub projection_key: Option<String>,
    /// That of the candidates alone, where it extends another.
    pub fresh_projection_key: Option<String>,
}

/// What the projections of a job are called.
pub async fn find_keys(conn: &mut PgConnection, job_id: JobId) -> DbResult<Keys> {
    let row = sqlx::query!("select projection_key, fresh_projection_key from jobs where job_id = $1", job_id.0);
    let found = row.fetch_optional(conn).await?;
    Ok(found.map_or_else(Keys::default, |row| Keys {
        projection_key: row.projection_key,
        fresh_projection_key: row.fresh_projection_key,
    }))
}

/// Counts a job of the worker that holds a lease.
pub async fn count_for_worker(conn: &mut PgConnection, lease_id: LeaseId, more: Counts) -> DbResult<()> {
    let count =
        |count: u64| i64::try_from(count).map_err(|_| DbError::inconsistent("workers", "projections", lease_id.0));
    sqlx::query!(
        "update workers
         set projections_built = projections_built + $2,
             projections_extended = projections_extended + $3,
             projections_cached = projections_cached + $4,
             projections_fetched = projections_fetched + $5
         where worker_id = (select worker_id from attempts where lease_id = $1)",
        lease_id.0,
        count(more.built)?,
        count(more.extended)?,
        count(more.cached)?,
        count(more.fetched)?,
    )
    .execute(conn)
    .await?;
    Ok(())
}
