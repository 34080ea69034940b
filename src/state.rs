//! What every request shares.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;

use crate::{config::Config, db::notify::JobChanges, domain::clock::Clock, storage::Store};

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
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
}
