//! Leases averaging jobs over HTTP and runs them on a device.
//!
//! A worker needs a URL and, where the server asks for one, a token: it never sees the database or the object store.
//! It fetches by digest into a bounded disk cache, computes on a thread of its own, and tells of itself by heartbeats
//! that carry the state another worker would resume from.

mod attempt;
mod cache;
mod compute;
mod convert;
mod failure;
mod fetch;
mod fit_state;
mod journal;
mod lora;
mod membership;
mod projection;
mod report;
mod sharing;
mod tools;

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use backon::{ExponentialBuilder, Retryable as _};
use barycenter_api::{
    Claim, DeviceKind, Lease, RegisterWorker, WorkerDevice,
    client::{Client, ClientError},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    cache::{Cache, Limits},
    membership::Membership,
    projection::Held,
    sharing::Sharing,
};

/// Longest that one claim waits at the server.
const CLAIM_WAIT_SECONDS: u32 = 20;

/// How long files stay in a cache without a use unless told, in hours: thirty days.
pub const CACHE_KEEP_HOURS: u32 = 30 * 24;

/// Bytes of the largest projection that a worker holds in memory between two jobs unless told.
pub const HELD_PROJECTION_BYTES: u64 = 4 << 30;

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
    /// Hours without a use after which a file of the cache goes; thirty days unless told.
    #[arg(long, env = "BARYCENTER_CACHE_KEEP_HOURS", default_value_t = CACHE_KEEP_HOURS,
          value_parser = clap::value_parser!(u32).range(1..=87_600))]
    pub cache_keep_hours: u32,
    /// Bytes of the largest projection that is held in memory from a job to the next, which begins with it where it extends it; 4 GiB
    /// unless told. 0 holds none.
    #[arg(long, env = "BARYCENTER_HELD_PROJECTION_BYTES", default_value_t = HELD_PROJECTION_BYTES)]
    pub held_projection_bytes: u64,
    /// Name of this worker, by which it is known after a restart; the host's name unless told. Workers on one host need a name each.
    #[arg(long, env = "BARYCENTER_WORKER_NAME")]
    pub name: Option<String>,
    /// Threads to compute on; all cores unless told.
    #[arg(long, env = "BARYCENTER_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// Memory that a job may take; jobs that are estimated to take more go to other workers. What the machine, or the
    /// container, has unless told.
    #[arg(long, env = "BARYCENTER_WORKER_MEMORY_BYTES")]
    pub memory_bytes: Option<u64>,
}

impl WorkerOptions {
    fn registration(&self) -> RegisterWorker {
        RegisterWorker {
            name: self.name.clone().unwrap_or_else(host_name),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: WorkerDevice { kind: DeviceKind::Cpu, name: "cpu".to_owned() },
            memory_bytes: self.memory_bytes.or_else(membership::memory_of_machine),
            networks: Vec::new(),
            projections: Vec::new(),
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "worker".to_owned() } else { name.trim().to_owned() }
}

/// Takes jobs one after the other until `shutdown` or until it is drained; a job under way at a shutdown is handed back to the
/// queue with its state.
///
/// # Errors
/// Where the cache cannot be opened or the thread pool not made. Failing jobs and an absent server are not errors.
pub async fn run(options: WorkerOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = Client::new(&options.server, options.token.as_deref()).context("worker")?;
    let unused_for = Duration::from_hours(options.cache_keep_hours.into());
    let cache = Cache::open(&options.cache_dir, Limits { bytes: options.cache_bytes, unused_for })?;
    let sharing = Arc::new(Sharing::new(client.clone()));
    let held = Arc::new(Held::new(options.held_projection_bytes));
    let pool = compute::thread_pool(options.threads)?;
    let membership = Arc::new(Membership::new(client.clone(), cache.clone(), options.registration()));
    info!(worker.name = membership.name(), server = options.server, "worker started");
    let telling = tokio::spawn(Arc::clone(&membership).tell(shutdown.child_token()));
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next_lease(&client, &membership) => next,
        };
        match next {
            Next::Job(lease) => {
                attempt::run((&client, &cache, &sharing, &held), &pool, *lease, &shutdown).await;
                // Before the next claim: it may be for a job that shares the projection just built.
                membership.beat().await;
            }
            Next::Nothing => {}
            Next::Drained => break,
        }
    }
    telling.abort();
    info!("worker stopped");
    Ok(())
}

/// What a claim brings.
enum Next {
    Job(Box<Lease>),
    Nothing,
    Drained,
}

/// One claim, tried again with back-off for as long as the server cannot be reached.
async fn next_lease(client: &Client, membership: &Membership) -> Next {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times();
    let claim = async || -> Result<Option<Lease>, ClientError> {
        let worker_id = membership.worker_id().await?;
        client.claim(&Claim { worker_id, wait_seconds: CLAIM_WAIT_SECONDS }).await
    };
    let claimed = claim
        .retry(backoff)
        // Registered anew at the next try.
        .when(|error| !is(error, "worker_draining") && !is(error, "worker_not_found"))
        .notify(|error, delay| warn!(%error, retry_in_ms = delay.as_millis() as u64, "claim failed"))
        .await;
    match claimed {
        Ok(Some(lease)) => Next::Job(Box::new(lease)),
        Ok(None) => Next::Nothing,
        Err(error) if is(&error, "worker_draining") => {
            info!("drained: the worker is given no more jobs");
            Next::Drained
        }
        Err(_) => {
            membership.forget();
            Next::Nothing
        }
    }
}

/// Whether the server refused with this code.
fn is(error: &ClientError, code: &str) -> bool {
    matches!(error, ClientError::Problem { problem, .. } if problem.code == code)
}
