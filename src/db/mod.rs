//! All SQL: plain functions over `&mut PgConnection`, one file for each thing. None begins a transaction.

pub mod aliases;
pub mod artifacts;
pub mod blobs;
pub mod candidate_sets;
pub mod candidates;
pub mod checkpoint_list;
pub mod checkpoints;
pub mod claims;
pub mod datasets;
pub mod deletion;
pub mod error;
pub mod events;
pub mod files;
pub mod gc;
pub mod history;
pub mod idempotency;
pub mod job_inputs;
pub mod job_log;
pub mod jobs;
pub mod layouts;
pub mod leases;
pub mod migrations;
pub mod multipart_uploads;
pub mod notify;
pub mod policies;
pub mod policy_refreshes;
pub mod projections;
pub mod projects;
pub mod queue;
pub mod retention;
pub mod runs;
pub mod upload_parts;
pub mod uploads;
pub mod webhook_deliveries;
pub mod webhooks;
pub mod workers;

use std::time::Duration;

use sqlx::{PgPool, postgres::PgPoolOptions};

pub use error::{DbError, DbResult};

use crate::config::DatabaseConfig;

/// Opens the pool; the first connection is made at once, so that a wrong URL is found at the start.
pub async fn connect(config: &DatabaseConfig) -> DbResult<PgPool> {
    let pool = PgPoolOptions::new()
        .max_connections(config.pool_size)
        .acquire_timeout(Duration::from_secs(10))
        .connect(&config.url)
        .await?;
    Ok(pool)
}

/// Asks the database for a sign of life.
pub async fn ping(pool: &PgPool) -> DbResult<()> {
    sqlx::query_scalar!("select 1").fetch_one(pool).await?;
    Ok(())
}
