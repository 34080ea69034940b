//! Training runs.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{ids::RunId, name::Reference, page::PageRequest, run::Run};

/// Constraint that refuses a second run of one name.
pub const NAME_KEY: &str = "runs_name_key";

struct RunRow {
    run_id: Uuid,
    name: String,
    project: String,
    description: Option<String>,
    metadata: Value,
    checkpoint_count: i64,
    revision: i64,
    created_at: DateTime<Utc>,
    deleted_at: Option<DateTime<Utc>>,
}

impl TryFrom<RunRow> for Run {
    type Error = DbError;

    fn try_from(row: RunRow) -> DbResult<Self> {
        let Value::Object(metadata) = row.metadata else {
            return Err(DbError::inconsistent("runs", "metadata", row.run_id));
        };
        Ok(Self {
            run_id: row.run_id.into(),
            name: row.name,
            project: row.project,
            description: row.description,
            metadata,
            checkpoint_count: row.checkpoint_count.unsigned_abs(),
            revision: row.revision,
            created_at: row.created_at,
            deleted_at: row.deleted_at,
        })
    }
}

/// Inserts a run; a taken name is refused by [`NAME_KEY`].
pub async fn insert_run(conn: &mut PgConnection, run: &Run) -> DbResult<()> {
    sqlx::query!(
        "insert into runs (run_id, name, project, description, metadata, created_at) values ($1, $2, $3, $4, $5, $6)",
        run.run_id.0,
        run.name,
        run.project,
        run.description,
        Value::Object(run.metadata.clone()),
        run.created_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The project of a run.
pub async fn find_project(conn: &mut PgConnection, run_id: RunId) -> DbResult<String> {
    Ok(sqlx::query_scalar!("select project from runs where run_id = $1", run_id.0).fetch_one(conn).await?)
}

/// The run of this id or name.
pub async fn find_run(conn: &mut PgConnection, reference: Reference<'_>) -> DbResult<Option<Run>> {
    let row = sqlx::query_as!(
        RunRow,
        "select run_id, name, project, description, metadata, checkpoint_count, revision, created_at, deleted_at
         from runs where (run_id = $1 or name = $2) and deleted_at is null",
        reference.id(),
        reference.name(),
    )
    .fetch_optional(conn)
    .await?;
    row.map(Run::try_from).transpose()
}

/// Rows of a page of runs, newest first.
pub async fn list_runs(conn: &mut PgConnection, page: PageRequest) -> DbResult<Vec<Run>> {
    let rows = sqlx::query_as!(
        RunRow,
        "select run_id, name, project, description, metadata, checkpoint_count, revision, created_at, deleted_at
         from runs where run_id < $1 and deleted_at is null order by run_id desc limit $2",
        // Not `$1 is null or …`: a condition with an `or` walks every page before this one.
        page.before.unwrap_or(Uuid::max()),
        page.limit(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Run::try_from).collect()
}

/// Rows of a page of runs that are deleted and not yet removed, newest first.
pub async fn list_deleted_runs(conn: &mut PgConnection, page: PageRequest) -> DbResult<Vec<Run>> {
    let rows = sqlx::query_as!(
        RunRow,
        "select run_id, name, project, description, metadata, checkpoint_count, revision, created_at, deleted_at
         from runs where run_id < $1 and deleted_at is not null order by run_id desc limit $2",
        page.before.unwrap_or(Uuid::max()),
        page.limit(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Run::try_from).collect()
}

/// Writes description, metadata and revision of a locked run.
pub async fn update_run(conn: &mut PgConnection, run: &Run) -> DbResult<()> {
    sqlx::query!(
        "update runs set description = $2, metadata = $3, revision = $4 where run_id = $1",
        run.run_id.0,
        run.description,
        Value::Object(run.metadata.clone()),
        run.revision,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes other writers of this run's checkpoints wait until the transaction ends.
pub async fn lock_run(conn: &mut PgConnection, run_id: RunId) -> DbResult<()> {
    sqlx::query!("select run_id from runs where run_id = $1 for update", run_id.0).fetch_one(conn).await?;
    Ok(())
}
