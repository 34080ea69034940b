//! SQL of the log lines of jobs.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::DbResult;
use crate::domain::ids::JobId;

/// Lines to be stored, field by field.
#[derive(Clone, Debug, Default)]
pub struct NewLines {
    /// Places within the attempt.
    pub numbers: Vec<i64>,
    /// Times.
    pub logged_at: Vec<DateTime<Utc>>,
    /// Levels.
    pub levels: Vec<String>,
    /// Texts.
    pub messages: Vec<String>,
}

/// Stores the lines that are not there yet, and removes the oldest of the job beyond `keep`.
pub async fn insert_lines(
    connection: &mut PgConnection,
    (job_id, attempt): (JobId, u32),
    lines: &NewLines,
    keep: i64,
) -> DbResult<()> {
    let attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
    sqlx::query!(
        r#"
        insert into job_log_lines (job_id, attempt, number, logged_at, level, message)
        select $1, $2, number, logged_at, level, message
        from unnest($3::bigint[], $4::timestamptz[], $5::text[], $6::text[]) as line (number, logged_at, level, message)
        on conflict do nothing
        "#,
        job_id.0,
        attempt,
        &lines.numbers,
        &lines.logged_at,
        &lines.levels,
        &lines.messages,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        delete from job_log_lines
        where job_id = $1
          and (attempt, number) <= (
              select attempt, number from job_log_lines where job_id = $1 order by attempt desc, number desc offset $2 limit 1
          )
        "#,
        job_id.0,
        keep,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A stored line.
#[derive(Clone, Debug)]
pub struct LineRow {
    /// The attempt.
    pub attempt: i32,
    /// Its place within the attempt.
    pub number: i64,
    /// When it was logged.
    pub logged_at: DateTime<Utc>,
    /// Level.
    pub level: String,
    /// Text.
    pub message: String,
}

/// Lines after a place, oldest first.
pub async fn list_lines(
    connection: &mut PgConnection,
    job_id: JobId,
    (attempt, number): (i32, i64),
    limit: i64,
) -> DbResult<Vec<LineRow>> {
    Ok(sqlx::query_as!(
        LineRow,
        r#"
        select attempt, number, logged_at, level, message
        from job_log_lines
        where job_id = $1 and (attempt, number) > ($2, $3)
        order by attempt, number
        limit $4
        "#,
        job_id.0,
        attempt,
        number,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// The newest lines, oldest of them first.
pub async fn list_newest(connection: &mut PgConnection, job_id: JobId, limit: i64) -> DbResult<Vec<LineRow>> {
    let mut rows = sqlx::query_as!(
        LineRow,
        r#"
        select attempt, number, logged_at, level, message
        from job_log_lines
        where job_id = $1
        order by attempt desc, number desc
        limit $2
        "#,
        job_id.0,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.reverse();
    Ok(rows)
}
