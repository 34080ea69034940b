//! The worker as the server knows it: registration, and telling now and then that it is there.

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use barycenter_api::{
    RegisterWorker, WorkerHeartbeat,
    client::{Client, ClientError},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use uuid::Uuid;

use crate::cache::Cache;

/// Until the server has said how often it wants to hear.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(10);

/// A worker's place at the server.
#[derive(Debug)]
pub(crate) struct Membership {
    client: Client,
    cache: Cache,
    registration: RegisterWorker,
    worker_id: Mutex<Option<Uuid>>,
    /// Projections that the server knows of.
    told: Mutex<Option<Vec<String>>>,
}

impl Membership {
    /// A worker that has not registered yet.
    pub fn new(client: Client, cache: Cache, registration: RegisterWorker) -> Self {
        Self { client, cache, registration, worker_id: Mutex::default(), told: Mutex::default() }
    }

    /// The worker's name.
    pub fn name(&self) -> &str {
        &self.registration.name
    }

    fn known(&self) -> Option<Uuid> {
        *self.worker_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn know(&self, worker_id: Option<Uuid>) {
        *self.worker_id.lock().unwrap_or_else(PoisonError::into_inner) = worker_id;
    }

    /// The id under which the server knows this worker; registers where it does not.
    pub async fn worker_id(&self) -> Result<Uuid, ClientError> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let registration = RegisterWorker { projections: self.cache.held_projections(), ..self.registration.clone() };
        let worker = self.client.register_worker(&registration).await?;
        info!(worker.id = %worker.worker_id, worker.state = %worker.state, "registered");
        self.know(Some(worker.worker_id));
        Ok(worker.worker_id)
    }

    /// The server knows this worker no more: it registers before its next claim.
    pub fn forget(&self) {
        self.know(None);
    }

    /// Tells now and then that the worker is there, until told to stop.
    pub async fn tell(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = FIRST_HEARTBEAT;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = self.beat().await.unwrap_or(pause);
        }
    }

    /// Tells that the worker is there and, where that has changed, what its cache holds; returns when to tell it again.
    pub async fn beat(&self) -> Option<Duration> {
        let worker_id = self.known()?;
        let held = self.cache.held_projections();
        let is_told = self.told().as_ref() == Some(&held);
        let projections = (!is_told).then(|| held.clone());
        match self.client.worker_heartbeat(worker_id, &WorkerHeartbeat { projections }).await {
            Ok(reply) => {
                *self.told() = Some(held);
                Duration::try_from_secs_f64(reply.heartbeat_seconds).ok()
            }
            // The claim loop deals with a server that is away.
            Err(error) => {
                debug!(%error, "the server was not told that the worker is there");
                None
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of this machine, or of the container that the worker runs in, in bytes; `None` where the system does not say.
pub(crate) fn memory_of_machine() -> Option<u64> {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text));
    let bound = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    [total, bound].into_iter().flatten().min()
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let kibibytes = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let number: u64 = kibibytes.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_machine_is_read_in_bytes() {
        assert_eq!(total_memory("MemTotal:       32768000 kB\nMemFree: 1 kB\n"), Some(32_768_000 * 1024));
        assert_eq!(total_memory("nothing of the kind"), None);
    }
}
