//! Leases averaging jobs over HTTP and runs them on a device.
//!
//! A worker needs a URL and, where the server asks for one, a token: it never sees the database or the object store.
//! It fetches by digest into a bounded disk cache, computes on a thread of its own, and tells of itself by heartbeats
//! that carry the state another worker would resume from.

mod attempt;
mod cache;
mod compute;
mod convert;
mod fetch;
mod journal;
mod lora;
mod report;

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use anyhow::Context as _;
use backon::{ExponentialBuilder, Retryable as _};
use barycenter_api::{Claim, Lease, WorkerInfo, client::Client};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cache::Cache;

/// Longest that one claim waits at the server.
const CLAIM_WAIT_SECONDS: u32 = 20;

/// Where a worker finds its jobs and keeps its files.
#[derive(Clone, Debug, clap::Args)]
pub struct WorkerOptions {
    /// URL of the server.
    #[arg(long, env = "BARYCENTER_SERVER", default_value = "http://127.0.0.1:8700")]
    pub server: String,
    /// Token of the server; taken from the environment alone, so that it shows in no process list.
    #[arg(skip = std::env::var("BARYCENTER_TOKEN").ok())]
    pub token: Option<String>,
    /// Folder of the cache of candidates, datasets and projections.
    #[arg(long, env = "BARYCENTER_CACHE_DIR", default_value = ".barycenter/cache")]
    pub cache_dir: PathBuf,
    /// Size above which the least recently used files of the cache go.
    #[arg(long, env = "BARYCENTER_CACHE_BYTES", default_value_t = 50 << 30)]
    pub cache_bytes: u64,
    /// Name of this worker; the host's name unless told.
    #[arg(long, env = "BARYCENTER_WORKER_NAME")]
    pub name: Option<String>,
    /// Threads to compute on; all cores unless told.
    #[arg(long, env = "BARYCENTER_THREADS")]
    pub threads: Option<NonZeroUsize>,
}

impl WorkerOptions {
    fn info(&self) -> WorkerInfo {
        WorkerInfo {
            name: self.name.clone().unwrap_or_else(host_name),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: "cpu".to_owned(),
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "worker".to_owned() } else { name.trim().to_owned() }
}

/// Takes jobs one after the other until `shutdown`; a job under way then is handed back to the queue with its state.
///
/// # Errors
/// Where the cache cannot be opened or the thread pool not made. Failing jobs and an absent server are not errors.
pub async fn run(options: WorkerOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = Client::new(&options.server, options.token.as_deref()).context("worker")?;
    let cache = Cache::open(&options.cache_dir, options.cache_bytes)?;
    let pool = compute::thread_pool(options.threads)?;
    let claim = Claim { worker: options.info(), wait_seconds: CLAIM_WAIT_SECONDS };
    info!(worker.name = claim.worker.name, server = options.server, "worker started");
    loop {
        let lease = tokio::select! {
            () = shutdown.cancelled() => break,
            lease = next_lease(&client, &claim) => lease,
        };
        if let Some(lease) = lease {
            attempt::run(&client, &cache, &pool, lease, &shutdown).await;
        }
    }
    info!("worker stopped");
    Ok(())
}

/// One claim, tried again with back-off for as long as the server cannot be reached.
async fn next_lease(client: &Client, claim: &Claim) -> Option<Lease> {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times();
    (|| client.claim(claim))
        .retry(backoff)
        .notify(|error, delay| warn!(%error, retry_in_ms = delay.as_millis() as u64, "claim failed"))
        .await
        .unwrap_or_default()
}
