//! Events: giving them their ids, passing them on, following them from any place.

use std::{collections::VecDeque, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{Stream, stream};
use sqlx::PgConnection;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{
    AppError, AppResult,
    jobs::{self, POLL_EVERY},
    runs::find_run_with,
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        event::{self, Event, Scope},
        ids::JobId,
        name::{check_name, shown},
        problem_code::ProblemCode,
    },
    state::AppState,
};

/// Events read at once.
const PAGE: i64 = 500;

/// Gives ids to new events and passes them on to this server's readers, whenever a job changes and once a second, until told
/// to stop. Several servers may do so at once.
pub async fn run(state: AppState, stop: CancellationToken) {
    let mut changes = state.jobs_changed.subscribe();
    let mut last = None;
    loop {
        match pass_on(&state, last).await {
            Ok(newest) => last = Some(newest),
            Err(error) => tracing::warn!(error = ?error, "events could not be passed on"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = changes.changed(POLL_EVERY, |_| true) => {}
        }
    }
    // Streams have no end of their own: without this the server would wait for its readers to leave.
    state.stopping.cancel();
}

/// Passes on what is newer than `last`, in its order; returns the newest id.
async fn pass_on(state: &AppState, last: Option<i64>) -> AppResult<i64> {
    number(state).await?;
    let mut conn = connection(state).await?;
    let Some(mut last) = last else {
        return newest(&mut conn).await;
    };
    loop {
        let events = db::events::list_events(&mut conn, None, last, PAGE).await?;
        let whole_page = events.len() as i64 == PAGE;
        for event in events {
            last = event.event_id;
            // No receiver means that nobody reads.
            let _ = state.events.send(Arc::new(event));
        }
        if !whole_page {
            return Ok(last);
        }
    }
}

/// Gives ids to the events that are committed.
pub(super) async fn number(state: &AppState) -> AppResult<()> {
    if db::events::has_unnumbered(&mut *connection(state).await?).await? {
        let mut transaction = begin(state).await?;
        db::events::number_events(&mut transaction).await?;
        commit(transaction).await?;
    }
    Ok(())
}

/// The id of the newest event; 0 where there is none.
pub(super) async fn newest(conn: &mut PgConnection) -> AppResult<i64> {
    Ok(db::events::find_range(conn).await?.map_or(0, |(_, newest)| newest))
}

/// Removes events that are too old or too many.
pub(super) async fn prune(conn: &mut PgConnection, now: DateTime<Utc>) -> AppResult<()> {
    db::events::delete_old(conn, now - event::KEEP_FOR, event::KEEP_AT_MOST).await?;
    Ok(())
}

/// The scope of a run that a path names.
pub async fn scope_of_run(state: &AppState, run: &str) -> AppResult<Scope> {
    Ok(Scope::Run(find_run_with(&mut *connection(state).await?, run).await?.run_id))
}

/// The scope of a project that a path names.
pub async fn scope_of_project(state: &AppState, project: &str) -> AppResult<Scope> {
    let mut conn = connection(state).await?;
    let known = check_name(project).is_ok()
        && !db::projects::list_projects(&mut conn, Some(project), None, 1).await?.is_empty();
    if known {
        return Ok(Scope::Project(project.to_owned()));
    }
    let detail = format!("there is no project `{}`", shown(project));
    Err(AppError::refused(ProblemCode::ProjectNotFound, detail))
}

/// What a stream of events brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// An event.
    Event(Arc<Event>),
    /// Events after the place that was asked for are not kept any more: the reader looks at the things themselves.
    Gap,
}

/// The events of a scope after an id; unless told, a job's from its first and all others from now on. A job's end with the
/// event that ends it. `None` where a job has ended and the reader has seen all of it.
pub async fn follow(
    state: &AppState,
    scope: Scope,
    after: Option<i64>,
) -> AppResult<Option<impl Stream<Item = Followed> + use<>>> {
    // Before the table is looked at: no event falls between.
    let receiver = state.events.subscribe();
    number(state).await?;
    let mut conn = connection(state).await?;
    let range = db::events::find_range(&mut conn).await?;
    let newest = range.map_or(0, |(_, newest)| newest);
    let is_lost = |after: i64| range.is_some_and(|(oldest, newest)| after + 1 < oldest || after > newest);
    let gap = after.is_some_and(is_lost);
    let cursor = match (&scope, after) {
        (_, Some(after)) => after.min(newest),
        (Scope::Job(_), None) => 0,
        (_, None) => newest,
    };
    if let Scope::Job(job_id) = scope
        && has_ended(&mut conn, job_id).await?
        && db::events::list_events(&mut conn, Some(&scope), cursor, 1).await?.is_empty()
    {
        return Ok(None);
    }
    drop(conn);
    let ready = VecDeque::from_iter(gap.then_some(Followed::Gap));
    let follower = Follower { state: state.clone(), scope, cursor, receiver, ready, caught_up: false, ended: false };
    Ok(Some(stream::unfold(follower, async |mut follower| follower.next().await.map(|followed| (followed, follower)))))
}

async fn has_ended(conn: &mut PgConnection, job_id: JobId) -> AppResult<bool> {
    let job = db::jobs::find(conn, job_id).await?.ok_or_else(|| jobs::not_found(job_id))?;
    Ok(job.state.is_terminal())
}

/// One reader: the table first, then what is passed on, the table again where it fell behind.
struct Follower {
    state: AppState,
    scope: Scope,
    /// The last event seen.
    cursor: i64,
    receiver: Receiver<Arc<Event>>,
    ready: VecDeque<Followed>,
    caught_up: bool,
    ended: bool,
}

impl Follower {
    /// The next, or `None` where the job or the server ends, or the table cannot be read: readers come back with the last id.
    async fn next(&mut self) -> Option<Followed> {
        loop {
            if let Some(followed) = self.ready.pop_front() {
                return Some(followed);
            }
            if self.ended {
                return None;
            }
            if self.caught_up {
                self.receive().await?;
            } else if let Err(error) = self.read().await {
                tracing::warn!(error = ?error, "a stream of events ends early");
                return None;
            }
        }
    }

    async fn read(&mut self) -> AppResult<()> {
        let mut conn = connection(&self.state).await?;
        let events = db::events::list_events(&mut conn, Some(&self.scope), self.cursor, PAGE).await?;
        self.caught_up = (events.len() as i64) < PAGE;
        for event in events {
            self.take(Arc::new(event));
        }
        Ok(())
    }

    /// `None` where the server ends.
    async fn receive(&mut self) -> Option<()> {
        let received = tokio::select! {
            () = self.state.stopping.cancelled() => return None,
            received = self.receiver.recv() => received,
        };
        match received {
            Ok(event) if self.scope.holds(&event) => self.take(event),
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => self.caught_up = false,
            Err(RecvError::Closed) => return None,
        }
        Some(())
    }

    fn take(&mut self, event: Arc<Event>) {
        if event.event_id <= self.cursor {
            return;
        }
        self.cursor = event.event_id;
        self.ended = matches!(self.scope, Scope::Job(_)) && event.kind.ends_job();
        self.ready.push_back(Followed::Event(event));
    }
}
