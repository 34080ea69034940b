//! SQL of policies. What was set is a document, stored as given; `app` knows its type.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::DbResult;
use crate::domain::ids::RunId;

/// A stored policy.
#[derive(Clone, Debug)]
pub struct PolicyRow {
    /// The run.
    pub run_id: RunId,
    /// What was set.
    pub spec: Value,
    /// Checkpoints a refresh.
    pub every: u64,
    /// Whether refreshes begin.
    pub enabled: bool,
    /// Version of what was set.
    pub revision_id: Uuid,
    /// Checkpoints since the last refresh began.
    pub new_checkpoints: u64,
    /// Refreshes in a row that did not improve.
    pub without_improvement: u32,
    /// When the target was reached.
    pub target_reached_at: Option<DateTime<Utc>>,
    /// Number of the best refresh.
    pub best_number: Option<u32>,
    /// When it was first set.
    pub created_at: DateTime<Utc>,
}

struct Row {
    run_id: Uuid,
    spec: Value,
    every: i64,
    enabled: bool,
    revision_id: Uuid,
    new_checkpoints: i64,
    without_improvement: i32,
    target_reached_at: Option<DateTime<Utc>>,
    best_number: Option<i32>,
    created_at: DateTime<Utc>,
}

impl From<Row> for PolicyRow {
    fn from(row: Row) -> Self {
        Self {
            run_id: row.run_id.into(),
            spec: row.spec,
            every: row.every.unsigned_abs(),
            enabled: row.enabled,
            revision_id: row.revision_id,
            new_checkpoints: row.new_checkpoints.unsigned_abs(),
            without_improvement: row.without_improvement.unsigned_abs(),
            target_reached_at: row.target_reached_at,
            best_number: row.best_number.map(i32::unsigned_abs),
            created_at: row.created_at,
        }
    }
}

/// The policy of a run.
pub async fn find_policy(conn: &mut PgConnection, run_id: RunId) -> DbResult<Option<PolicyRow>> {
    let row = sqlx::query_as!(
        Row,
        "select run_id, spec, every, enabled, revision_id, new_checkpoints, without_improvement, target_reached_at, best_number,
             created_at
         from policies where run_id = $1",
        run_id.0
    );
    Ok(row.fetch_optional(conn).await?.map(PolicyRow::from))
}

/// Writes a policy, in place of the one before; the lock of the run is held.
pub async fn save_policy(conn: &mut PgConnection, policy: &PolicyRow) -> DbResult<()> {
    sqlx::query!(
        "insert into policies (
             run_id, spec, every, enabled, revision_id, new_checkpoints, without_improvement, target_reached_at, best_number,
             created_at
         )
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (run_id) do update
         set spec = excluded.spec, every = excluded.every, enabled = excluded.enabled, revision_id = excluded.revision_id,
             new_checkpoints = excluded.new_checkpoints, without_improvement = excluded.without_improvement,
             target_reached_at = excluded.target_reached_at, best_number = excluded.best_number",
        policy.run_id.0,
        policy.spec,
        i64::try_from(policy.every).unwrap_or(i64::MAX),
        policy.enabled,
        policy.revision_id,
        i64::try_from(policy.new_checkpoints).unwrap_or(i64::MAX),
        i32::try_from(policy.without_improvement).unwrap_or(i32::MAX),
        policy.target_reached_at,
        policy.best_number.map(|number| i32::try_from(number).unwrap_or(i32::MAX)),
        policy.created_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes a policy; its refreshes stay.
pub async fn delete_policy(conn: &mut PgConnection, run_id: RunId) -> DbResult<()> {
    sqlx::query!("delete from policies where run_id = $1", run_id.0).execute(conn).await?;
    Ok(())
}

/// Runs whose policy is to begin a refresh: enough new checkpoints, two to average, none on its way.
pub async fn list_due(conn: &mut PgConnection) -> DbResult<Vec<RunId>> {
    let ids = sqlx::query_scalar!(
        "select run_id from policies join runs using (run_id)
         where enabled and new_checkpoints >= every and checkpoint_count >= 2 and deleted_at is null
           and not exists (
               select from policy_refreshes r where r.run_id = policies.run_id and r.state = 'running')
         order by run_id"
    );
    Ok(ids.fetch_all(conn).await?.into_iter().map(RunId).collect())
}

/// Runs with a refresh whose job has ended and whose outcome is not told yet.
pub async fn list_ended(conn: &mut PgConnection) -> DbResult<Vec<RunId>> {
    let ids = sqlx::query_scalar!(
        "select r.run_id from policy_refreshes r join runs using (run_id)
         where r.state = 'running' and runs.deleted_at is null
           and not exists (
               select from jobs where jobs.job_id = r.job_id and jobs.state in ('queued', 'running'))
         order by r.run_id"
    );
    Ok(ids.fetch_all(conn).await?.into_iter().map(RunId).collect())
}
