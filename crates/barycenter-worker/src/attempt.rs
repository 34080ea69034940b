//! One attempt at a job: fetch, compute, upload, finish; with heartbeats from first to last.

use std::{collections::HashSet, sync::Arc, time::Duration};

use backon::Retryable as _;
use barycenter_api::{
    Directive, Fail, Finish, Floats, Lease, LogLevel, Phase,
    client::{ByteCounter, Client, ClientError},
};
use barycenter_core::Error;
use barycenter_faults::{self as faults, Point};
use rayon::ThreadPool;
use tempfile::NamedTempFile;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info, info_span, warn};

use crate::{
    cache::Cache,
    compute::{self, Inputs, Product},
    failure::{Failure, code_of_io, patience},
    fetch::Model,
    journal::{Ending, Journal},
    projection::Held,
    report::{report, select_losses},
    sharing::Sharing,
    tools::Tools,
};

/// People watch progress; the lease alone would be content with a heartbeat every several seconds.
const LONGEST_BETWEEN_HEARTBEATS: f64 = 2.0;

/// Runs the job of a lease to its end and tells the server; failures end here, in the job's record and the log.
pub(crate) async fn run(
    (client, cache, sharing, held): (&Client, &Cache, &Arc<Sharing>, &Arc<Held>),
    pool: &Arc<ThreadPool>,
    lease: Lease,
    shutdown: &CancellationToken,
) {
    let span = info_span!("job.run", job.id = %lease.job_id, job.attempt = lease.attempt);
    let (lease, journal) = (Arc::new(lease), Arc::new(Journal::new()));
    held.make_room_for(lease.projection.as_ref());
    let attempt = Attempt { client, cache, sharing, held, pool, lease, journal, heartbeats: Mutex::default() };
    attempt.run(shutdown).instrument(span).await;
}

struct Attempt<'a> {
    client: &'a Client,
    cache: &'a Cache,
    sharing: &'a Arc<Sharing>,
    held: &'a Arc<Held>,
    pool: &'a Arc<ThreadPool>,
    lease: Arc<Lease>,
    journal: Arc<Journal>,
    /// Held by the heartbeat under way: an older state of the fit must not arrive after a newer one.
    heartbeats: Mutex<()>,
}

impl Attempt<'_> {
    async fn run(&self, shutdown: &CancellationToken) {
        info!(candidates = self.lease.candidates.len(), "job started");
        let told =
            format!("attempt {} of a job of {} candidates began", self.lease.attempt, self.lease.candidates.len());
        self.journal.say(LogLevel::Info, told);
        let worked = tokio::select! {
            worked = self.work() => worked,
            never = self.keep_alive(shutdown) => match never {},
        };
        match (worked, self.journal.ending()) {
            (Ok(()), _) => info!("job succeeded"),
            (Err(_), Some(Ending::Lost)) => warn!("the lease was lost; nothing was published"),
            (Err(_), Some(Ending::Cancelled)) => self.fail("cancelled", "cancelled on request", false).await,
            (Err(_), Some(Ending::ShuttingDown)) => {
                self.journal.say(LogLevel::Warn, "the worker is shut down and hands the job back");
                self.beat().await;
                self.fail("worker_stopped", "the worker was shut down", true).await;
            }
            (Err(failure), None) => {
                error!(code = failure.code, message = failure.message, "job failed");
                self.journal.say(LogLevel::Error, format!("{}: {}", failure.code, failure.message));
                self.beat().await;
                self.fail(failure.code, &failure.message, failure.retry).await;
            }
        }
    }

    async fn work(&self) -> Result<(), Failure> {
        faults::pass(Point::WorkerClaimed).await;
        let inputs = self.fetch().await?;
        let artifact = NamedTempFile::new_in(self.cache.scratch()).map_err(|e| Failure {
            code: code_of_io(&e),
            message: format!("{}: {e}", self.cache.scratch().display()),
            retry: true,
        })?;
        let product = self.compute(inputs, artifact.path().to_owned()).await?;
        self.publish(product, artifact).await
    }

    async fn fetch(&self) -> Result<Inputs, Failure> {
        let lease = &self.lease;
        let total = (lease.datasets.len() + lease.candidates.len() + usize::from(lease.base.is_some())) as u64;
        let datasets = lease
            .datasets
            .iter()
            .map(|d| (format!("/v1/datasets/{}/content", d.dataset_id), d.size_bytes, &d.digest_blake3));
        let mut paths = Vec::with_capacity(total as usize);
        for (url_path, size_bytes, digest) in datasets {
            self.journal.report(Phase::Fetch, paths.len() as u64, total).map_err(Failure::from)?;
            let fetch = || self.cache.fetch(self.client, &url_path, size_bytes, digest);
            paths.push(fetch.retry(patience()).when(ClientError::is_transient).await.map_err(Failure::from)?);
        }
        let mut in_use: HashSet<_> = paths.iter().cloned().collect();
        let mut candidates = Vec::new();
        for candidate in lease.candidates.iter().chain(&lease.base) {
            let done = (paths.len() + candidates.len()) as u64;
            self.journal.report(Phase::Fetch, done, total).map_err(Failure::from)?;
            let fetch = || Model::fetch(self.client, self.cache, candidate);
            let model = fetch.retry(patience()).when(ClientError::is_transient).await.map_err(Failure::from)?;
            in_use.extend(model.cached().cloned());
            candidates.push(model);
        }
        in_use.extend(lease.projection.iter().flat_map(|projection| self.cache.projections_of(projection)));
        if let Err(error) = self.cache.evict(&in_use) {
            warn!(%error, "the cache could not be trimmed");
        }
        let base = lease.base.as_ref().and_then(|_| candidates.pop());
        Ok(Inputs { candidates, base, datasets: paths })
    }

    async fn compute(&self, inputs: Inputs, artifact: std::path::PathBuf) -> Result<Product, Failure> {
        let (lease, journal) = (Arc::clone(&self.lease), Arc::clone(&self.journal));
        let pool = Arc::clone(self.pool);
        let tools = Tools::new(self.client, self.cache, self.sharing, self.held);
        let device = tokio::task::spawn_blocking(move || {
            pool.install(|| compute::run(&lease, &inputs, &tools, &journal, &artifact))
        });
        match device.await {
            Ok(result) => result,
            Err(panic) => {
                Err(Failure { code: "compute", message: format!("the device thread died: {panic}"), retry: true })
            }
        }
    }

    async fn publish(&self, product: Product, artifact: NamedTempFile) -> Result<(), Failure> {
        self.journal.report(Phase::Upload, 0, 1).map_err(Failure::from)?;
        let lease_id = self.lease.lease_id;
        let uncounted = ByteCounter::none();
        let upload = || self.client.upload_artifact(lease_id, artifact.path(), &uncounted);
        let stored = upload.retry(patience()).when(ClientError::is_transient).await.map_err(Failure::from)?;
        if stored.digest_blake3 != product.written.digest_blake3 {
            let message =
                format!("the server received {}, not {}", stored.digest_blake3, product.written.digest_blake3);
            return Err(Failure { code: "io", message, retry: true });
        }
        faults::pass(Point::WorkerUploaded).await;
        // The last snapshots and lines are stored before the job is seen to end.
        self.journal.say(LogLevel::Info, format!("uploaded {} bytes", stored.size_bytes));
        while self.journal.has_news() {
            self.beat().await;
            if self.journal.ending().is_some() {
                return Err(Failure::from(Error::Stopped));
            }
        }
        let finish = Finish {
            artifact_digest_blake3: stored.digest_blake3,
            blocks: product.blocks.clone(),
            coefficients: Floats(product.outcome.coefficients.clone()),
            report: report(&self.lease, &product, self.journal.phases()),
            merge: product.merge.clone(),
            select_losses: select_losses(&product.outcome.select),
        };
        faults::pass(Point::WorkerFinishing).await;
        let finish = || self.client.finish(lease_id, &finish);
        finish.retry(patience()).when(ClientError::is_transient).await.map_err(Failure::from)?;
        Ok(())
    }

    async fn keep_alive(&self, shutdown: &CancellationToken) -> std::convert::Infallible {
        let seconds = self.lease.heartbeat_seconds.min(LONGEST_BETWEEN_HEARTBEATS);
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(seconds));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled(), if self.journal.ending().is_none() => self.journal.end(Ending::ShuttingDown),
            }
            self.beat().await;
        }
    }

    /// One heartbeat. Where the server is away its content waits for the next one.
    async fn beat(&self) {
        let _in_order = self.heartbeats.lock().await;
        let heartbeat = self.journal.heartbeat();
        match self.client.heartbeat(self.lease.lease_id, &heartbeat).await {
            Ok(reply) => self.journal.acknowledge(&heartbeat, reply.directive),
            Err(error) if error.is_transient() => warn!(%error, "heartbeat not delivered"),
            Err(error) => {
                warn!(%error, "heartbeat refused: the lease is gone");
                self.journal.acknowledge(&heartbeat, Directive::Lost);
            }
        }
    }

    async fn fail(&self, code: &str, message: &str, retry: bool) {
        let fail = Fail { code: code.to_owned(), message: message.to_owned(), retry };
        let call = || self.client.fail(self.lease.lease_id, &fail);
        if let Err(error) = call.retry(patience()).when(ClientError::is_transient).await {
            warn!(%error, "the failure could not be reported; the lease will lapse");
        }
    }
}
