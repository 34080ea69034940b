//! Puts the layers together and runs them: what `serve` and `dev` share.

use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{events, gc, policies, reaper, sweeper, webhooks},
    config::Config,
    db::{self, notify::JobChanges},
    domain::{clock::SystemClock, collection::Collected},
    http,
    job_tags::JobTags,
    outbound::Outbound,
    state::{self, AppState},
    storage::Store,
    telemetry,
};

/// Connects to database and store; refuses a database that lacks migrations, and names them.
pub async fn connect(config: Config) -> anyhow::Result<AppState> {
    let pool = db::connect(&config.database).await.context("connecting to Postgres")?;
    let pending = db::migrations::list_pending(&mut *pool.acquire().await?).await?;
    ensure!(
        pending.is_empty(),
        "the database lacks migrations, run `barycenter migrate` first: {}",
        pending.join(", ")
    );
    let store = Store::open_from_environment(&config.storage.url, &config.storage.register_prefixes)?;
    let jobs_changed = JobChanges::default();
    let outbound = Outbound::new(&config.webhooks)?;
    Ok(AppState {
        pool,
        store,
        clock: Arc::new(SystemClock),
        config: Arc::new(config),
        job_tags: Arc::new(JobTags::new(&jobs_changed)),
        jobs_changed,
        events: state::event_channel(),
        stopping: CancellationToken::new(),
        outbound,
        metrics: telemetry::install_metrics()?,
    })
}

/// Serves until told to stop, then lets the requests at work end.
pub async fn serve(state: AppState, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let tasks = TaskTracker::new();
    tasks.spawn(reaper::run(state.clone(), stop.clone()));
    tasks.spawn(sweeper::run(state.clone(), stop.clone()));
    tasks.spawn(events::run(state.clone(), stop.clone()));
    tasks.spawn(webhooks::run(state.clone(), stop.clone()));
    tasks.spawn(gc::run(state.clone(), stop.clone()));
    tasks.spawn(policies::run(state.clone(), stop.clone()));
    tasks.spawn(state.jobs_changed.clone().listen(state.pool.clone(), stop.clone()));
    tasks.close();
    let pool = state.pool.clone();
    tracing::info!(http.address = %listener.local_addr()?, "listening");
    let served =
        axum::serve(listener, http::router(state)).with_graceful_shutdown(stop.clone().cancelled_owned()).await;
    stop.cancel();
    tasks.wait().await;
    pool.close().await;
    served.context("serving HTTP")
}

/// Removes for good what was deleted longer ago than the grace, or tells what that would be; then ends.
pub async fn collect(config: Config, dry_run: bool) -> anyhow::Result<Collected> {
    let state = connect(config).await?;
    let collected = if dry_run { gc::preview(&state).await } else { gc::collect(&state).await };
    state.pool.close().await;
    collected.context("collecting")
}

/// Applies the migrations that the database lacks.
pub async fn migrate(config: &crate::config::DatabaseConfig) -> anyhow::Result<()> {
    let pool = db::connect(config).await.context("connecting to Postgres")?;
    let pending = db::migrations::list_pending(&mut *pool.acquire().await?).await?;
    db::migrations::run(&pool).await.context("applying migrations")?;
    tracing::info!(migrations.applied = pending.len(), "the database is up to date");
    Ok(())
}
