//! Aliases of runs.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    alias::{Alias, Target},
    ids::RunId,
};

struct AliasRow {
    run_id: Uuid,
    alias: String,
    checkpoint_id: Option<Uuid>,
    artifact_id: Option<Uuid>,
    revision_id: Uuid,
    moved_at: DateTime<Utc>,
}

impl TryFrom<AliasRow> for Alias {
    type Error = DbError;

    fn try_from(row: AliasRow) -> DbResult<Self> {
        let target = match (row.checkpoint_id, row.artifact_id) {
            (Some(id), None) => Target::Checkpoint(id.into()),
            (None, Some(id)) => Target::Artifact(id.into()),
            _ => return Err(DbError::inconsistent("run_aliases", "checkpoint_id", row.run_id)),
        };
        let AliasRow { run_id, alias, revision_id, moved_at, .. } = row;
        Ok(Self { run_id: run_id.into(), alias, target, revision_id, moved_at })
    }
}

/// An alias of a run.
pub async fn find_alias(conn: &mut PgConnection, run_id: RunId, alias: &str) -> DbResult<Option<Alias>> {
    let row = sqlx::query_as!(
        AliasRow,
        "select run_id, alias, checkpoint_id, artifact_id, revision_id, moved_at
         from run_aliases where run_id = $1 and alias = $2",
        run_id.0,
        alias,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Alias::try_from).transpose()
}

/// Every alias of a run, by name.
pub async fn list_aliases(conn: &mut PgConnection, run_id: RunId) -> DbResult<Vec<Alias>> {
    let rows = sqlx::query_as!(
        AliasRow,
        "select run_id, alias, checkpoint_id, artifact_id, revision_id, moved_at
         from run_aliases where run_id = $1 order by alias",
        run_id.0,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Alias::try_from).collect()
}

/// Number of a run's aliases.
pub async fn count_aliases(conn: &mut PgConnection, run_id: RunId) -> DbResult<i64> {
    let count = sqlx::query_scalar!(r#"select count(*) as "count!" from run_aliases where run_id = $1"#, run_id.0);
    Ok(count.fetch_one(conn).await?)
}

/// Sets an alias, in place of what it named before.
pub async fn save_alias(conn: &mut PgConnection, alias: &Alias) -> DbResult<()> {
    let (checkpoint_id, artifact_id) = match alias.target {
        Target::Checkpoint(id) => (Some(id.0), None),
        Target::Artifact(id) => (None, Some(id.0)),
    };
    sqlx::query!(
        "insert into run_aliases (run_id, alias, checkpoint_id, artifact_id, revision_id, moved_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (run_id, alias) do update
         set checkpoint_id = excluded.checkpoint_id, artifact_id = excluded.artifact_id,
             revision_id = excluded.revision_id, moved_at = excluded.moved_at",
        alias.run_id.0,
        alias.alias,
        checkpoint_id,
        artifact_id,
        alias.revision_id,
        alias.moved_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes an alias.
pub async fn delete_alias(conn: &mut PgConnection, run_id: RunId, alias: &str) -> DbResult<()> {
    sqlx::query!("delete from run_aliases where run_id = $1 and alias = $2", run_id.0, alias).execute(conn).await?;
    Ok(())
}
