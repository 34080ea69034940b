//! What every request shares.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    db::notify::JobChanges,
    domain::{clock::Clock, event::Event},
    job_tags::JobTags,
    outbound::Outbound,
    storage::Store,
};

/// Events kept for a slow reader; one that falls further behind reads the table.
const BACKLOG: usize = 1024;

/// What every request shares; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// Connections to Postgres.
    pub pool: PgPool,
    /// Object storage.
    pub store: Store,
    /// Source of times and ids.
    pub clock: Arc<dyn Clock>,
    /// Settings.
    pub config: Arc<Config>,
    /// Tells when a job has been queued or has changed state, here or in another replica; waiters then look again.
    pub jobs_changed: JobChanges,
    /// What jobs looked like a moment ago, for those who poll.
    pub job_tags: Arc<JobTags>,
    /// Passes new events on to the readers of this server.
    pub events: broadcast::Sender<Arc<Event>>,
    /// Cancelled when the server ends, so that its endless answers end.
    pub stopping: CancellationToken,
    /// Speaks to the receivers of webhooks, and to nobody else.
    pub outbound: Outbound,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
}

/// A channel for new events; nobody reads from it yet.
pub fn event_channel() -> broadcast::Sender<Arc<Event>> {
    broadcast::channel(BACKLOG).0
}
