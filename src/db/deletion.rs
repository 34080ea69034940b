//! Marks of deletion, and what stands against them. A mark hides a thing from every other query; rows go in `gc`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::DbResult;
use crate::domain::ids::{ArtifactId, CandidateSetId, CheckpointId, JobId, RunId};

/// Makes other writers of a set wait; tells its run. `None` where there is none that is not deleted.
pub async fn lock_candidate_set(conn: &mut PgConnection, id: CandidateSetId) -> DbResult<Option<RunId>> {
    let run_id = sqlx::query_scalar!(
        "select run_id from candidate_sets where candidate_set_id = $1 and deleted_at is null for update",
        id.0
    );
    Ok(run_id.fetch_optional(conn).await?.map(RunId))
}

/// Keeps a set from being deleted until the transaction ends; false where it is deleted already.
pub async fn hold_candidate_set(conn: &mut PgConnection, id: CandidateSetId) -> DbResult<bool> {
    let row = sqlx::query_scalar!(
        "select run_id from candidate_sets where candidate_set_id = $1 and deleted_at is null for share",
        id.0
    );
    Ok(row.fetch_optional(conn).await?.is_some())
}

/// Keeps a checkpoint from being deleted until the transaction ends; false where it is deleted already.
pub async fn hold_checkpoint(conn: &mut PgConnection, id: CheckpointId) -> DbResult<bool> {
    let row = sqlx::query_scalar!(
        "select run_id from checkpoints where checkpoint_id = $1 and deleted_at is null for share",
        id.0
    );
    Ok(row.fetch_optional(conn).await?.is_some())
}

/// In words, what needs this checkpoint: a set, an alias, a job whose adapters rest on it.
pub async fn find_user_of_checkpoint(conn: &mut PgConnection, id: CheckpointId) -> DbResult<Option<String>> {
    let user = sqlx::query_scalar!(
        r#"select 'the candidate set ' || candidate_set_id as "user!"
           from candidate_set_members join candidate_sets using (candidate_set_id)
           where checkpoint_id = $1 and deleted_at is null
           union all
           select 'the alias `' || alias || '`' from run_aliases where checkpoint_id = $1
           union all
           select 'the job ' || job_id from jobs
           where (spec #>> '{lora,base_checkpoint_id}')::uuid = $1 and spec #>> '{lora,base_checkpoint_id}' is not null
             and deleted_at is null
           limit 1"#,
        id.0
    );
    Ok(user.fetch_optional(conn).await?)
}

/// In words, what needs this set: a job.
pub async fn find_user_of_candidate_set(conn: &mut PgConnection, id: CandidateSetId) -> DbResult<Option<String>> {
    let user = sqlx::query_scalar!(
        r#"select 'the job ' || job_id as "user!" from jobs where candidate_set_id = $1 and deleted_at is null limit 1"#,
        id.0
    );
    Ok(user.fetch_optional(conn).await?)
}

/// In words, what needs this job: its artifact, a job that starts where it ended, or the policy of its run.
pub async fn find_user_of_job(conn: &mut PgConnection, id: JobId) -> DbResult<Option<String>> {
    let user = sqlx::query_scalar!(
        r#"select 'the artifact ' || artifact_id as "user!" from artifacts where job_id = $1 and deleted_at is null
           union all
           select 'the job ' || job_id from jobs
           where state in ('queued', 'running') and spec #>> '{method,start,job}' = $1::uuid::text
           union all
           -- What the next refresh starts from and is compared with, and one whose outcome is not told.
           select 'the policy of its run' from policy_refreshes r join policies p using (run_id)
           where r.job_id = $1
             and (r.state = 'running' or r.number = p.best_number or r.number = (
                 select max(number) from policy_refreshes o
                 where o.run_id = r.run_id and o.state in ('improved', 'not_improved')))
           limit 1"#,
        id.0
    );
    Ok(user.fetch_optional(conn).await?)
}

/// In words, what needs this artifact: an alias.
pub async fn find_user_of_artifact(conn: &mut PgConnection, id: ArtifactId) -> DbResult<Option<String>> {
    let user = sqlx::query_scalar!(
        r#"select 'the alias `' || alias || '`' as "user!" from run_aliases where artifact_id = $1 limit 1"#,
        id.0
    );
    Ok(user.fetch_optional(conn).await?)
}

/// In words, what needs this run: a job at work, or a set or a job of another run.
pub async fn find_user_of_run(conn: &mut PgConnection, id: RunId) -> DbResult<Option<String>> {
    let user = sqlx::query_scalar!(
        r#"select 'the job ' || job_id || ', which has not ended' as "user!" from jobs
           where run_id = $1 and state in ('queued', 'running')
           union all
           select 'the candidate set ' || s.candidate_set_id || ' of another run'
           from candidate_sets s join candidate_set_members using (candidate_set_id)
               join checkpoints c using (checkpoint_id)
           where c.run_id = $1 and s.run_id <> $1 and s.deleted_at is null
           union all
           select 'the job ' || j.job_id || ' of another run' from jobs j
               join checkpoints c on c.checkpoint_id = (j.spec #>> '{lora,base_checkpoint_id}')::uuid
           where c.run_id = $1 and j.run_id <> $1 and j.spec #>> '{lora,base_checkpoint_id}' is not null
             and j.deleted_at is null
           limit 1"#,
        id.0
    );
    Ok(user.fetch_optional(conn).await?)
}

/// Marks a checkpoint deleted.
pub async fn mark_checkpoint_deleted(conn: &mut PgConnection, id: CheckpointId, at: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!("update checkpoints set deleted_at = $2 where checkpoint_id = $1", id.0, at).execute(conn).await?;
    Ok(())
}

/// Marks a set deleted.
pub async fn mark_candidate_set_deleted(
    conn: &mut PgConnection,
    id: CandidateSetId,
    at: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!("update candidate_sets set deleted_at = $2 where candidate_set_id = $1", id.0, at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Marks a job deleted.
pub async fn mark_job_deleted(conn: &mut PgConnection, id: JobId, at: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!("update jobs set deleted_at = $2 where job_id = $1", id.0, at).execute(conn).await?;
    Ok(())
}

/// Marks an artifact deleted.
pub async fn mark_artifact_deleted(conn: &mut PgConnection, id: ArtifactId, at: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!("update artifacts set deleted_at = $2 where artifact_id = $1", id.0, at).execute(conn).await?;
    Ok(())
}

/// Marks a run deleted, and with it all that it has and that is not deleted yet: one time for all of them, by which
/// [`unmark_run`] finds them again.
pub async fn mark_run_deleted(conn: &mut PgConnection, id: RunId, at: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!(
        "with of_artifacts as (update artifacts set deleted_at = $2 where run_id = $1 and deleted_at is null),
             of_jobs as (update jobs set deleted_at = $2 where run_id = $1 and deleted_at is null),
             of_sets as (update candidate_sets set deleted_at = $2 where run_id = $1 and deleted_at is null),
             of_checkpoints as (update checkpoints set deleted_at = $2 where run_id = $1 and deleted_at is null)
         select 1 as done",
        id.0,
        at,
    )
    .fetch_one(&mut *conn)
    .await?;
    // Apart from the others: their trigger counts the run's checkpoints, in the same row.
    sqlx::query!("update runs set deleted_at = $2 where run_id = $1", id.0, at).execute(conn).await?;
    Ok(())
}

/// The marks of a thing that may be undeleted: its run, and when it was deleted, where it is.
#[derive(Clone, Copy, Debug)]
pub struct Marked {
    /// Its run.
    pub run_id: RunId,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// The mark of a checkpoint, deleted or not; its row is locked.
pub async fn lock_marked_checkpoint(conn: &mut PgConnection, id: CheckpointId) -> DbResult<Option<Marked>> {
    let row = sqlx::query!("select run_id, deleted_at from checkpoints where checkpoint_id = $1 for update", id.0);
    Ok(row.fetch_optional(conn).await?.map(|row| Marked { run_id: row.run_id.into(), deleted_at: row.deleted_at }))
}

/// The mark of a set, deleted or not; its row is locked.
pub async fn lock_marked_candidate_set(conn: &mut PgConnection, id: CandidateSetId) -> DbResult<Option<Marked>> {
    let row =
        sqlx::query!("select run_id, deleted_at from candidate_sets where candidate_set_id = $1 for update", id.0);
    Ok(row.fetch_optional(conn).await?.map(|row| Marked { run_id: row.run_id.into(), deleted_at: row.deleted_at }))
}

/// The mark of a job, deleted or not; its row is locked.
pub async fn lock_marked_job(conn: &mut PgConnection, id: JobId) -> DbResult<Option<Marked>> {
    let row = sqlx::query!("select run_id, deleted_at from jobs where job_id = $1 for update", id.0);
    Ok(row.fetch_optional(conn).await?.map(|row| Marked { run_id: row.run_id.into(), deleted_at: row.deleted_at }))
}

/// The mark of an artifact, deleted or not; its row is locked.
pub async fn lock_marked_artifact(conn: &mut PgConnection, id: ArtifactId) -> DbResult<Option<Marked>> {
    let row = sqlx::query!("select run_id, deleted_at from artifacts where artifact_id = $1 for update", id.0);
    Ok(row.fetch_optional(conn).await?.map(|row| Marked { run_id: row.run_id.into(), deleted_at: row.deleted_at }))
}

/// The mark of a run, deleted or not; its row is locked.
pub async fn lock_marked_run(conn: &mut PgConnection, id: RunId) -> DbResult<Option<Marked>> {
    let row = sqlx::query!("select run_id, deleted_at from runs where run_id = $1 for update", id.0);
    Ok(row.fetch_optional(conn).await?.map(|row| Marked { run_id: row.run_id.into(), deleted_at: row.deleted_at }))
}

/// In words, what a deleted set needs and is deleted: a member. Its members are held.
pub async fn find_deleted_need_of_set(conn: &mut PgConnection, id: CandidateSetId) -> DbResult<Option<String>> {
    sqlx::query!(
        "select from checkpoints join candidate_set_members using (checkpoint_id) where candidate_set_id = $1
         order by checkpoint_id for share of checkpoints",
        id.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let need = sqlx::query_scalar!(
        r#"select 'the checkpoint ' || checkpoint_id || ' at step ' || step as "need!"
           from candidate_set_members join checkpoints using (checkpoint_id)
           where candidate_set_id = $1 and deleted_at is not null limit 1"#,
        id.0
    );
    Ok(need.fetch_optional(conn).await?)
}

/// In words, what a deleted job needs and is deleted: its set or the base of its adapters, which is held.
pub async fn find_deleted_need_of_job(conn: &mut PgConnection, id: JobId) -> DbResult<Option<String>> {
    sqlx::query!(
        "select from checkpoints
         where checkpoint_id = (select (spec #>> '{lora,base_checkpoint_id}')::uuid from jobs where job_id = $1)
         for share",
        id.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let need = sqlx::query_scalar!(
        r#"select 'the candidate set ' || s.candidate_set_id as "need!"
           from jobs join candidate_sets s using (candidate_set_id)
           where job_id = $1 and s.deleted_at is not null
           union all
           select 'the checkpoint ' || checkpoint_id
           from jobs join checkpoints on checkpoint_id = (spec #>> '{lora,base_checkpoint_id}')::uuid
           where job_id = $1 and checkpoints.deleted_at is not null
           limit 1"#,
        id.0
    );
    Ok(need.fetch_optional(conn).await?)
}

/// In words, what a deleted artifact needs and is deleted: its job.
pub async fn find_deleted_need_of_artifact(conn: &mut PgConnection, id: ArtifactId) -> DbResult<Option<String>> {
    let need = sqlx::query_scalar!(
        r#"select 'the job ' || job_id as "need!" from artifacts join jobs using (job_id)
           where artifact_id = $1 and jobs.deleted_at is not null"#,
        id.0
    );
    Ok(need.fetch_optional(conn).await?)
}

/// In words, what a deleted run needs of other runs and is deleted: a member of one of its sets, the base of a job's adapters.
/// These are held.
pub async fn find_deleted_need_of_run(
    conn: &mut PgConnection,
    id: RunId,
    deleted_at: DateTime<Utc>,
) -> DbResult<Option<String>> {
    sqlx::query!(
        "select from checkpoints
         where run_id <> $1 and checkpoint_id in (
             select checkpoint_id from candidate_set_members join candidate_sets using (candidate_set_id)
             where candidate_sets.run_id = $1
             union all
             select (spec #>> '{lora,base_checkpoint_id}')::uuid from jobs where jobs.run_id = $1)
         order by checkpoint_id for share",
        id.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let need = sqlx::query_scalar!(
        r#"select 'the checkpoint ' || c.checkpoint_id || ' of another run' as "need!"
           from candidate_sets s join candidate_set_members using (candidate_set_id)
               join checkpoints c using (checkpoint_id)
           where s.run_id = $1 and s.deleted_at = $2 and c.run_id <> $1 and c.deleted_at is not null
           union all
           select 'the checkpoint ' || c.checkpoint_id || ' of another run'
           from jobs j join checkpoints c on c.checkpoint_id = (j.spec #>> '{lora,base_checkpoint_id}')::uuid
           where j.run_id = $1 and j.deleted_at = $2 and c.run_id <> $1 and c.deleted_at is not null
           limit 1"#,
        id.0,
        deleted_at,
    );
    Ok(need.fetch_optional(conn).await?)
}

/// Takes the mark off a checkpoint; a step that is taken again is refused by `checkpoints_run_id_step_key`.
pub async fn unmark_checkpoint(conn: &mut PgConnection, id: CheckpointId) -> DbResult<()> {
    sqlx::query!("update checkpoints set deleted_at = null where checkpoint_id = $1", id.0).execute(conn).await?;
    Ok(())
}

/// Takes the mark off a set.
pub async fn unmark_candidate_set(conn: &mut PgConnection, id: CandidateSetId) -> DbResult<()> {
    sqlx::query!("update candidate_sets set deleted_at = null where candidate_set_id = $1", id.0).execute(conn).await?;
    Ok(())
}

/// Takes the mark off a job.
pub async fn unmark_job(conn: &mut PgConnection, id: JobId) -> DbResult<()> {
    sqlx::query!("update jobs set deleted_at = null where job_id = $1", id.0).execute(conn).await?;
    Ok(())
}

/// Takes the mark off an artifact; it no longer expires, or it would go at once.
pub async fn unmark_artifact(conn: &mut PgConnection, id: ArtifactId) -> DbResult<()> {
    sqlx::query!("update artifacts set deleted_at = null, expires_at = null where artifact_id = $1", id.0)
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes the mark off a run and all that was deleted with it; a name that is taken again is refused by `runs_name_key`.
pub async fn unmark_run(conn: &mut PgConnection, id: RunId, deleted_at: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!("update runs set deleted_at = null where run_id = $1", id.0).execute(&mut *conn).await?;
    sqlx::query!(
        "with of_artifacts as (update artifacts set deleted_at = null where run_id = $1 and deleted_at = $2),
             of_jobs as (update jobs set deleted_at = null where run_id = $1 and deleted_at = $2),
             of_sets as (update candidate_sets set deleted_at = null where run_id = $1 and deleted_at = $2),
             of_checkpoints as (update checkpoints set deleted_at = null where run_id = $1 and deleted_at = $2)
         select 1 as done",
        id.0,
        deleted_at,
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}
