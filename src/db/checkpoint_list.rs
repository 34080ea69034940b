//! Pages of a run's checkpoints, in every order there is. Each order is walked along its own index from where the page
//! before ended, so a page costs what it shows, however many come before it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbResult, checkpoints::CheckpointRow};
use crate::domain::{
    checkpoint::Checkpoint,
    checkpoint_list::{Filter, ListRequest, Order, Position, SortKey},
    ids::RunId,
};

/// Later than any checkpoint, and a time that Postgres knows.
const END_OF_TIME: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0).expect("the last second of 9999");
const START_OF_TIME: DateTime<Utc> = DateTime::from_timestamp(0, 0).expect("the first second of 1970");

/// One checked query: the columns and the filters that all orders share, around what tells them apart. The first eight
/// parameters are the filters'.
macro_rules! page {
    ($conn:expr, $run:expr, $filter:expr, $limit:expr, $source:tt, $after:tt, $order:tt, $($argument:expr),+) => {
        page!(@ $conn, $run, $filter, $limit, "c.deleted_at is null", $source, $after, $order, $($argument),+)
    };
    (@ $conn:expr, $run:expr, $filter:expr, $limit:expr, $there:tt, $source:tt, $after:tt, $order:tt, $($argument:expr),+) => {{
        let Bounds { names, lows, highs } = Bounds::of($filter);
        let (from_step, to_step) = ($filter.from_step.unwrap_or(0), $filter.to_step.unwrap_or(i64::MAX));
        sqlx::query_as!(
            CheckpointRow,
            r#"select checkpoint_id, c.run_id, c.step, epoch, metrics as "metrics: _", tags, digest_blake3, size_bytes,
                   object_key, file_count, files_bytes, layout_blake3, tensor_count, pinned_at is not null as "pinned!", c.created_at
               from "# + $source + r#" join blobs using (digest_blake3) join layouts using (layout_blake3)
               where "# + $there + r#" and c.step between $2 and $3
                 and c.tags @> $4 and c.created_at >= $5 and c.created_at < $6
                 and (cardinality($7::text[]) = 0 or (
                     select bool_and(coalesce((c.metrics ->> bound.name)::float8 between bound.low and bound.high, false))
                     from unnest($7::text[], $8::float8[], $9::float8[]) as bound (name, low, high)))
                 and "# + $after + " order by " + $order + " limit $10",
            $run.0,
            from_step,
            to_step,
            &$filter.tags,
            $filter.created_from.unwrap_or(START_OF_TIME),
            $filter.created_before.unwrap_or(END_OF_TIME),
            &names,
            &lows,
            &highs,
            $limit,
            $($argument),+
        )
        .fetch_all($conn)
        .await?
    }};
}

struct Bounds {
    names: Vec<String>,
    lows: Vec<f64>,
    highs: Vec<f64>,
}

impl Bounds {
    fn of(filter: &Filter) -> Self {
        Self {
            names: filter.bounds.iter().map(|bound| bound.metric.clone()).collect(),
            lows: filter.bounds.iter().map(|bound| bound.low).collect(),
            highs: filter.bounds.iter().map(|bound| bound.high).collect(),
        }
    }
}

/// Rows of a page: one more than it holds, where another follows.
pub async fn list_checkpoints(
    conn: &mut PgConnection,
    run_id: RunId,
    request: &ListRequest,
) -> DbResult<Vec<Checkpoint>> {
    let rows = match &request.sort.key {
        SortKey::Step => by_step(conn, run_id, request).await?,
        SortKey::CreatedAt => by_time(conn, run_id, request).await?,
        SortKey::Metric(name) => by_metric(conn, run_id, request, name).await?,
    };
    rows.into_iter().map(Checkpoint::try_from).collect()
}

async fn by_step(conn: &mut PgConnection, run_id: RunId, request: &ListRequest) -> DbResult<Vec<CheckpointRow>> {
    let (filter, limit) = (&request.filter, i64::from(request.size) + 1);
    let after = match request.after {
        Some(Position::Step(step)) => Some(step),
        _ => None,
    };
    Ok(match request.sort.order {
        Order::Ascending => {
            page!(
                conn,
                run_id,
                filter,
                limit,
                "checkpoints c",
                "c.run_id = $1 and c.step > $11",
                "c.step",
                after.unwrap_or(-1)
            )
        }
        Order::Descending => {
            // The greatest step there is has nothing above it that a strict bound could name.
            let most = after.map_or(i64::MAX, |step| step.saturating_sub(1));
            page!(conn, run_id, filter, limit, "checkpoints c", "c.run_id = $1 and c.step <= $11", "c.step desc", most)
        }
    })
}

async fn by_time(conn: &mut PgConnection, run_id: RunId, request: &ListRequest) -> DbResult<Vec<CheckpointRow>> {
    let (filter, limit) = (&request.filter, i64::from(request.size) + 1);
    let after = match request.after {
        Some(Position::CreatedAt(at, id)) => Some((at, id)),
        _ => None,
    };
    Ok(match request.sort.order {
        Order::Ascending => {
            let (at, id) = after.unwrap_or((START_OF_TIME, Uuid::nil()));
            page!(
                conn,
                run_id,
                filter,
                limit,
                "checkpoints c",
                "c.run_id = $1 and (c.created_at, c.checkpoint_id) > ($11, $12)",
                "c.created_at, c.checkpoint_id",
                at,
                id
            )
        }
        Order::Descending => {
            let (at, id) = after.unwrap_or((END_OF_TIME, Uuid::max()));
            page!(
                conn,
                run_id,
                filter,
                limit,
                "checkpoints c",
                "c.run_id = $1 and (c.created_at, c.checkpoint_id) < ($11, $12)",
                "c.created_at desc, c.checkpoint_id desc",
                at,
                id
            )
        }
    })
}

/// Rows of a page of checkpoints that are deleted and not yet removed, in order of the time at which they were stored, each with
/// the time of its deletion.
pub async fn list_deleted_checkpoints(
    conn: &mut PgConnection,
    run_id: RunId,
    request: &ListRequest,
) -> DbResult<Vec<(Checkpoint, DateTime<Utc>)>> {
    let (filter, limit) = (&request.filter, i64::from(request.size) + 1);
    let ascending = request.sort.order == Order::Ascending;
    let end = if ascending { (START_OF_TIME, Uuid::nil()) } else { (END_OF_TIME, Uuid::max()) };
    let (at, id) = match request.after {
        Some(Position::CreatedAt(at, id)) => (at, id),
        _ => end,
    };
    let rows = if ascending {
        page!(@
            &mut *conn,
            run_id,
            filter,
            limit,
            "c.deleted_at is not null",
            "checkpoints c",
            "c.run_id = $1 and (c.created_at, c.checkpoint_id) > ($11, $12)",
            "c.created_at, c.checkpoint_id",
            at,
            id
        )
    } else {
        page!(@
            &mut *conn,
            run_id,
            filter,
            limit,
            "c.deleted_at is not null",
            "checkpoints c",
            "c.run_id = $1 and (c.created_at, c.checkpoint_id) < ($11, $12)",
            "c.created_at desc, c.checkpoint_id desc",
            at,
            id
        )
    };
    let times = find_times_of_deletion(conn, &rows).await?;
    let of = |row: CheckpointRow| Some((times.get(&row.checkpoint_id).copied()?, row));
    rows.into_iter().filter_map(of).map(|(at, row)| Ok((row.try_into()?, at))).collect()
}

/// When these were deleted; one that was undeleted meanwhile is left out.
async fn find_times_of_deletion(
    conn: &mut PgConnection,
    rows: &[CheckpointRow],
) -> DbResult<HashMap<Uuid, DateTime<Utc>>> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.checkpoint_id).collect();
    let times = sqlx::query!(
        r#"select checkpoint_id, deleted_at as "deleted_at!" from checkpoints
           where checkpoint_id = any($1) and deleted_at is not null"#,
        &ids,
    );
    Ok(times.fetch_all(conn).await?.into_iter().map(|row| (row.checkpoint_id, row.deleted_at)).collect())
}

/// Walks `checkpoint_metrics`; a condition on the metric itself bounds the walk. The run is asked for there alone: asked for twice,
/// the planner takes the two for independent, expects one row, and sorts them all.
async fn by_metric(
    conn: &mut PgConnection,
    run_id: RunId,
    request: &ListRequest,
    name: &str,
) -> DbResult<Vec<CheckpointRow>> {
    let (filter, limit) = (&request.filter, i64::from(request.size) + 1);
    let own = filter.bounds.iter().filter(|bound| bound.metric == name);
    let (low, high) =
        own.fold((f64::NEG_INFINITY, f64::INFINITY), |(low, high), bound| (low.max(bound.low), high.min(bound.high)));
    let after = match request.after {
        Some(Position::Metric(value, step)) => Some((value, step)),
        _ => None,
    };
    Ok(match request.sort.order {
        Order::Ascending => {
            let (value, step) = after.unwrap_or((f64::NEG_INFINITY, -1));
            page!(
                conn,
                run_id,
                filter,
                limit,
                "checkpoint_metrics m join checkpoints c using (checkpoint_id)",
                "m.run_id = $1 and m.name = $11 and m.value between $12 and $13 and (m.value, m.step) > ($14, $15)",
                "m.value, m.step",
                name,
                low,
                high,
                value,
                step
            )
        }
        Order::Descending => {
            let (value, step) = after.unwrap_or((f64::INFINITY, i64::MAX));
            page!(
                conn,
                run_id,
                filter,
                limit,
                "checkpoint_metrics m join checkpoints c using (checkpoint_id)",
                "m.run_id = $1 and m.name = $11 and m.value between $12 and $13 and (m.value, m.step) < ($14, $15)",
                "m.value desc, m.step desc",
                name,
                low,
                high,
                value,
                step
            )
        }
    })
}
