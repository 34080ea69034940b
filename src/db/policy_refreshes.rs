//! SQL of the refreshes of policies, and of the losses they are compared by.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    failure::Failure,
    ids::{ArtifactId, CandidateSetId, JobId, RunId},
    page::PageRequest,
    policy::{Comparison, Refresh, RefreshResult, RefreshState},
};

struct Row {
    refresh_id: Uuid,
    run_id: Uuid,
    number: i32,
    state: String,
    new_checkpoints: i64,
    candidate_set_id: Option<Uuid>,
    job_id: Option<Uuid>,
    started_from: Option<Uuid>,
    artifact_id: Option<Uuid>,
    chosen: Option<String>,
    select_loss: Option<f64>,
    test_loss: Option<f64>,
    compared_with: Option<i32>,
    difference: Option<f64>,
    interval_low: Option<f64>,
    interval_high: Option<f64>,
    moved_alias: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Refresh {
    type Error = DbError;

    fn try_from(row: Row) -> DbResult<Self> {
        let state =
            row.state.parse().map_err(|_| DbError::inconsistent("policy_refreshes", "state", row.refresh_id))?;
        let result = match (row.artifact_id, row.chosen, row.select_loss) {
            (Some(artifact_id), Some(chosen), Some(select_loss)) => Some(RefreshResult {
                artifact_id: ArtifactId(artifact_id),
                chosen,
                select_loss,
                test_loss: row.test_loss,
            }),
            _ => None,
        };
        let interval = row.interval_low.zip(row.interval_high).map(|(low, high)| [low, high]);
        let compared = row.compared_with.zip(row.difference);
        Ok(Self {
            refresh_id: row.refresh_id,
            run_id: row.run_id.into(),
            number: row.number.unsigned_abs(),
            state,
            new_checkpoints: row.new_checkpoints.unsigned_abs(),
            candidate_set_id: row.candidate_set_id.map(CandidateSetId),
            job_id: row.job_id.map(JobId),
            started_from: row.started_from.map(JobId),
            result,
            comparison: compared.map(|(with, difference)| Comparison {
                with: with.unsigned_abs(),
                difference,
                interval,
            }),
            moved_alias: row.moved_alias,
            error: row.error_code.map(|code| Failure { code, message: row.error_message.unwrap_or_default() }),
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    }
}

/// Inserts a refresh that begins, or that failed before it had a job.
pub async fn insert_refresh(conn: &mut PgConnection, refresh: &Refresh) -> DbResult<()> {
    sqlx::query!(
        "insert into policy_refreshes (
             refresh_id, run_id, number, state, new_checkpoints, candidate_set_id, job_id, started_from, error_code,
             error_message, started_at, finished_at
         )
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        refresh.refresh_id,
        refresh.run_id.0,
        number(refresh.number),
        refresh.state.as_str(),
        i64::try_from(refresh.new_checkpoints).unwrap_or(i64::MAX),
        refresh.candidate_set_id.map(Uuid::from),
        refresh.job_id.map(Uuid::from),
        refresh.started_from.map(Uuid::from),
        refresh.error.as_ref().map(|error| error.code.as_str()),
        refresh.error.as_ref().map(|error| error.message.as_str()),
        refresh.started_at,
        refresh.finished_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What happened at the end of a refresh, beside what it holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// It reached the target of its policy.
    pub target: bool,
    /// Averaging counts as stalled from now on.
    pub stalled: bool,
}

/// Writes the end of a running refresh. Answers whether it was running.
pub async fn mark_ended(conn: &mut PgConnection, refresh: &Refresh, reached: Reached) -> DbResult<bool> {
    let result = refresh.result.as_ref();
    let comparison = refresh.comparison;
    let interval = comparison.and_then(|comparison| comparison.interval);
    let done = sqlx::query!(
        "update policy_refreshes
         set state = $2, artifact_id = $3, chosen = $4, select_loss = $5, test_loss = $6, compared_with = $7, difference = $8,
             interval_low = $9, interval_high = $10, moved_alias = $11, target_reached = $12, stalled = $13, error_code = $14,
             error_message = $15, finished_at = $16
         where refresh_id = $1 and state = 'running'",
        refresh.refresh_id,
        refresh.state.as_str(),
        result.map(|result| result.artifact_id.0),
        result.map(|result| result.chosen.as_str()),
        result.map(|result| result.select_loss),
        result.and_then(|result| result.test_loss),
        comparison.map(|comparison| number(comparison.with)),
        comparison.map(|comparison| comparison.difference),
        interval.map(|[low, _]| low),
        interval.map(|[_, high]| high),
        refresh.moved_alias,
        reached.target,
        reached.stalled,
        refresh.error.as_ref().map(|error| error.code.as_str()),
        refresh.error.as_ref().map(|error| error.message.as_str()),
        refresh.finished_at,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Which refresh of a run.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// The one whose job has not ended, or whose outcome is not told.
    Running,
    /// The one of this number.
    Number(u32),
    /// The last that has a result.
    LastResult,
}

/// A refresh of a run.
pub async fn find_refresh(conn: &mut PgConnection, run_id: RunId, which: Which) -> DbResult<Option<Refresh>> {
    let (states, wanted): (&[RefreshState], _) = match which {
        Which::Running => (&[RefreshState::Running], None),
        Which::Number(number) => (&RefreshState::ALL, Some(number)),
        Which::LastResult => (&[RefreshState::Improved, RefreshState::NotImproved], None),
    };
    let states: Vec<String> = states.iter().map(|state| state.as_str().to_owned()).collect();
    let row = sqlx::query_as!(
        Row,
        "select refresh_id, run_id, number, state, new_checkpoints, candidate_set_id, job_id, started_from, artifact_id, chosen,
             select_loss, test_loss, compared_with, difference, interval_low, interval_high, moved_alias, error_code,
             error_message, started_at, finished_at
         from policy_refreshes
         where run_id = $1 and state = any($2) and ($3::integer is null or number = $3)
         order by number desc limit 1",
        run_id.0,
        &states,
        wanted.map(number),
    )
    .fetch_optional(conn)
    .await?;
    row.map(Refresh::try_from).transpose()
}

/// The number of the next refresh of a run, whose lock is held.
pub async fn next_number(conn: &mut PgConnection, run_id: RunId) -> DbResult<u32> {
    let last = sqlx::query_scalar!(
        r#"select coalesce(max(number), 0) as "last!" from policy_refreshes where run_id = $1"#,
        run_id.0
    );
    Ok(last.fetch_one(conn).await?.unsigned_abs().saturating_add(1))
}

/// Rows of a page of a run's refreshes, newest first.
pub async fn list_refreshes(conn: &mut PgConnection, run_id: RunId, page: PageRequest) -> DbResult<Vec<Refresh>> {
    let rows = sqlx::query_as!(
        Row,
        "select refresh_id, run_id, number, state, new_checkpoints, candidate_set_id, job_id, started_from, artifact_id, chosen,
             select_loss, test_loss, compared_with, difference, interval_low, interval_high, moved_alias, error_code,
             error_message, started_at, finished_at
         from policy_refreshes
         where run_id = $1 and refresh_id < $2
         order by refresh_id desc limit $3",
        run_id.0,
        page.before.unwrap_or(Uuid::max()),
        page.limit(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Refresh::try_from).collect()
}

/// Losses of the samples of a select part, and what each weighs in the mean.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectLosses {
    /// Of each sample.
    pub losses: Vec<f32>,
    /// One a sample, or none where all weigh the same.
    pub weights: Option<Vec<u32>>,
}

/// Keeps the losses of a job that a refresh waits for; those of other jobs are not kept.
pub async fn save_select_losses(conn: &mut PgConnection, job_id: JobId, kept: &SelectLosses) -> DbResult<()> {
    let losses: Vec<u8> = kept.losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
    let weights: Option<Vec<u8>> =
        kept.weights.as_ref().map(|weights| weights.iter().flat_map(|weight| weight.to_le_bytes()).collect());
    sqlx::query!(
        "insert into select_losses (job_id, losses_f32, weights_u32)
         select $1, $2, $3 where exists (select from policy_refreshes where job_id = $1 and state = 'running')",
        job_id.0,
        losses,
        weights,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The losses that are kept of a job.
pub async fn find_select_losses(conn: &mut PgConnection, job_id: JobId) -> DbResult<Option<SelectLosses>> {
    let row = sqlx::query!("select losses_f32, weights_u32 from select_losses where job_id = $1", job_id.0)
        .fetch_optional(conn)
        .await?;
    let words = |bytes: &[u8]| bytes.as_chunks::<4>().0.to_vec();
    Ok(row.map(|row| SelectLosses {
        losses: words(&row.losses_f32).into_iter().map(f32::from_le_bytes).collect(),
        weights: row.weights_u32.map(|bytes| words(&bytes).into_iter().map(u32::from_le_bytes).collect()),
    }))
}

/// Forgets the losses of a run's refreshes but those of the best and of one that runs.
pub async fn delete_select_losses(conn: &mut PgConnection, run_id: RunId, best: Option<u32>) -> DbResult<()> {
    sqlx::query!(
        "delete from select_losses where job_id in (
             select job_id from policy_refreshes
             where run_id = $1 and state <> 'running' and ($2::integer is null or number <> $2))",
        run_id.0,
        best.map(number),
    )
    .execute(conn)
    .await?;
    Ok(())
}
