//! Log lines of jobs: kept within a bound, tailed.

use std::time::Duration;

use barycenter_api::{JobLog, LogLevel, LogLine, NewLogLine};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{
    AppError, AppResult,
    jobs::{self, POLL_EVERY},
    transaction::connection,
};
use crate::{
    db::{
        self,
        job_log::{LineRow, NewLines},
    },
    domain::ids::JobId,
    state::AppState,
};

/// Lines kept of a job, the newest.
const KEEP: i64 = 5000;
const MAX_LINES_A_HEARTBEAT: usize = 1000;
const MAX_LINE_CHARS: usize = 2000;
/// A line cannot be older than a job lasts.
const MAX_AGE_MS: u64 = 365 * 24 * 3600 * 1000;

/// Checks the lines of a heartbeat.
pub(super) fn check(lines: &[NewLogLine]) -> AppResult<()> {
    if lines.len() > MAX_LINES_A_HEARTBEAT {
        return Err(AppError::invalid_field("log", format!("may have {MAX_LINES_A_HEARTBEAT} lines a heartbeat")));
    }
    if let Some(wrong) = lines.iter().position(|line| line.number < 1) {
        return Err(AppError::invalid_field(format!("log.{wrong}.number"), "must be at least 1"));
    }
    Ok(())
}

/// Stores the lines of a heartbeat that are not there yet.
pub(super) async fn record(
    conn: &mut PgConnection,
    attempt: (JobId, u32),
    lines: &[NewLogLine],
    now: DateTime<Utc>,
) -> AppResult<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut new = NewLines::default();
    for line in lines {
        new.numbers.push(line.number);
        new.logged_at.push(now - TimeDelta::milliseconds(line.age_ms.min(MAX_AGE_MS) as i64));
        new.levels.push(line.level.as_str().to_owned());
        // Postgres keeps every text but one with a NUL character.
        new.messages.push(line.message.chars().filter(|c| *c != '\0').take(MAX_LINE_CHARS).collect());
    }
    db::job_log::insert_lines(conn, attempt, &new, KEEP).await?;
    Ok(())
}

/// Which lines to read.
#[derive(Clone, Copy, Debug)]
pub struct LogPage<'a> {
    /// Only lines after this place.
    pub after: Option<&'a str>,
    /// Only so many of the newest.
    pub tail: Option<u32>,
    /// At most so many.
    pub limit: u32,
    /// How long to wait for the first.
    pub patience: Duration,
}

/// Lines of a job; where there is none, once there is one, the job has ended or the patience is over.
pub async fn read_log(state: &AppState, job_id: JobId, page: LogPage<'_>) -> AppResult<JobLog> {
    let after = page.after.map(parse_place).transpose()?;
    let deadline = Instant::now() + page.patience;
    let mut changes = state.jobs_changed.subscribe();
    loop {
        let log = read_once(state, job_id, &page, after).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        if !log.lines.is_empty() || log.complete || left.is_zero() {
            return Ok(log);
        }
        changes.changed(left.min(POLL_EVERY), |change| change.job_id == job_id).await;
    }
}

async fn read_once(
    state: &AppState,
    job_id: JobId,
    page: &LogPage<'_>,
    after: Option<(i32, i64)>,
) -> AppResult<JobLog> {
    let mut conn = connection(state).await?;
    // First the state: a line that is stored in between is read, and one that comes later finds the job not ended.
    let job = db::jobs::find(&mut conn, job_id).await?.ok_or_else(|| jobs::not_found(job_id))?;
    let rows = match (after, page.tail) {
        (None, Some(tail)) => db::job_log::list_newest(&mut conn, job_id, i64::from(tail.min(page.limit))).await?,
        (after, _) => {
            let place = after.unwrap_or((0, 0));
            db::job_log::list_lines(&mut conn, job_id, place, i64::from(page.limit)).await?
        }
    };
    let next =
        rows.last().map(|row| format!("{}.{}", row.attempt, row.number)).or_else(|| page.after.map(str::to_owned));
    let complete = job.state.is_terminal() && (rows.len() as u64) < u64::from(page.limit);
    Ok(JobLog { lines: rows.into_iter().map(to_wire).collect(), next, complete })
}

fn parse_place(text: &str) -> AppResult<(i32, i64)> {
    let place = text.split_once('.').and_then(|(attempt, number)| Some((attempt.parse().ok()?, number.parse().ok()?)));
    place.ok_or_else(|| {
        let code = crate::domain::problem_code::ProblemCode::InvalidQuery;
        AppError::fault(code, "after", "is no `next` of an earlier answer")
    })
}

fn to_wire(row: LineRow) -> LogLine {
    LogLine {
        attempt: row.attempt.unsigned_abs(),
        number: row.number,
        logged_at: row.logged_at,
        level: match row.level.as_str() {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            _ => LogLevel::Info,
        },
        message: row.message,
    }
}
