//! SQL of events. Triggers write them (migration 9); they get their ids here, after the commit.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    event::{Event, Scope},
    ids::JobId,
};

/// Names the lock under which ids are given; any number that nothing else uses.
const LOCK: i64 = 0x6576_656e_7473;

struct EventRow {
    event_id: Option<i64>,
    kind: String,
    project: String,
    run_id: Uuid,
    job_id: Option<Uuid>,
    detail: Value,
    occurred_at: DateTime<Utc>,
}

impl TryFrom<EventRow> for Event {
    type Error = DbError;

    fn try_from(row: EventRow) -> DbResult<Self> {
        let kind = row.kind.parse().map_err(|_| DbError::inconsistent("events", "kind", row.run_id))?;
        Ok(Self {
            event_id: row.event_id.unwrap_or_default(),
            kind,
            project: row.project,
            run_id: row.run_id.into(),
            job_id: row.job_id.map(JobId),
            detail: row.detail,
            occurred_at: row.occurred_at,
        })
    }
}

/// Whether there are events without an id.
pub async fn has_unnumbered(connection: &mut PgConnection) -> DbResult<bool> {
    let found = sqlx::query_scalar!(r#"select exists (select from events where event_id is null) as "found!""#)
        .fetch_one(connection)
        .await?;
    Ok(found)
}

/// Gives ids to the events that have none, in the order in which they were written. Needs a transaction of its own, which the
/// caller commits at once: until then all others that give ids wait.
pub async fn number_events(connection: &mut PgConnection) -> DbResult<()> {
    sqlx::query!("select pg_advisory_xact_lock($1)", LOCK).execute(&mut *connection).await?;
    // A statement of its own: its snapshot holds what was committed while this one waited for the lock.
    sqlx::query!(
        r#"
        update events
        set event_id = numbered.event_id
        from (
            select entry, nextval('event_ids') as event_id
            from (select entry from events where event_id is null order by entry) as unnumbered
        ) as numbered
        where events.entry = numbered.entry
        "#
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The events of a scope, or all, after an id, at most `limit`, in order.
pub async fn list_events(
    connection: &mut PgConnection,
    scope: Option<&Scope>,
    after: i64,
    limit: i64,
) -> DbResult<Vec<Event>> {
    let (job_id, run_id, project) = scope.map(Scope::parts).unwrap_or_default();
    let rows = sqlx::query_as!(
        EventRow,
        r#"
        select event_id, kind, project, run_id, job_id, detail, occurred_at
        from events
        where event_id > $1
          and ($2::uuid is null or job_id = $2)
          and ($3::uuid is null or run_id = $3)
          and ($4::text is null or project = $4)
        order by event_id
        limit $5
        "#,
        after,
        job_id,
        run_id,
        project,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Event::try_from).collect()
}

/// The ids of the oldest and the newest event; `None` where there is none.
pub async fn find_range(connection: &mut PgConnection) -> DbResult<Option<(i64, i64)>> {
    let row = sqlx::query!("select min(event_id) as oldest, max(event_id) as newest from events")
        .fetch_one(connection)
        .await?;
    Ok(row.oldest.zip(row.newest))
}

/// Removes events that happened before a time, and all but the newest so many.
pub async fn delete_old(connection: &mut PgConnection, before: DateTime<Utc>, keep: i64) -> DbResult<u64> {
    let done = sqlx::query!(
        r#"
        delete from events
        where event_id is not null
          and (occurred_at < $1 or event_id <= (select max(event_id) from events) - $2)
        "#,
        before,
        keep,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
