//! SQL of projects.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::DbResult;
use crate::domain::project::Project;

/// Makes a project unless it is there.
pub async fn ensure_project(connection: &mut PgConnection, project: &str, now: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!(
        "insert into projects (project, created_at) values ($1, $2) on conflict (project) do nothing",
        project,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets how many jobs of a project may run at a time; makes the project where it is new.
pub async fn set_max_running_jobs(
    connection: &mut PgConnection,
    project: &str,
    max_running_jobs: Option<u32>,
    now: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!(
        r#"
        insert into projects (project, max_running_jobs, created_at) values ($1, $2, $3)
        on conflict (project) do update set max_running_jobs = excluded.max_running_jobs
        "#,
        project,
        max_running_jobs.map(|most| i32::try_from(most).unwrap_or(i32::MAX)),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Projects in the order of their names, after the given one, at most `limit`; or one project alone.
pub async fn list_projects(
    connection: &mut PgConnection,
    only: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> DbResult<Vec<Project>> {
    let rows = sqlx::query!(
        r#"
        select
            project, max_running_jobs, created_at,
            (select count(*) from jobs where jobs.state = 'running' and jobs.project = projects.project) as "running!",
            (select count(*) from jobs where jobs.state = 'queued' and jobs.project = projects.project) as "queued!"
        from projects
        where ($1::text is null or project = $1) and ($2::text is null or project > $2)
        order by project
        limit $3
        "#,
        only,
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Project {
            project: row.project,
            max_running_jobs: row.max_running_jobs.map(i32::unsigned_abs),
            running_jobs: row.running.unsigned_abs(),
            queued_jobs: row.queued.unsigned_abs(),
            created_at: row.created_at,
        })
        .collect())
}

/// Whether a project runs more jobs than it may. Where it has a bound, other claims on it wait until this transaction ends,
/// so that two of them never both see the last free place.
pub async fn hold_and_check(connection: &mut PgConnection, project: &str) -> DbResult<bool> {
    let bound = sqlx::query_scalar!(
        r#"
        select max_running_jobs as "max!" from projects where project = $1 and max_running_jobs is not null for update
        "#,
        project
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(bound) = bound else { return Ok(false) };
    // A statement of its own: it sees what the transaction that held the lock has committed.
    let running = sqlx::query_scalar!(
        r#"select count(*) as "running!" from jobs where state = 'running' and project = $1"#,
        project
    )
    .fetch_one(connection)
    .await?;
    Ok(running > i64::from(bound))
}
