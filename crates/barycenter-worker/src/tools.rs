//! What the device thread reaches the server and the disk with.

use std::{path::PathBuf, sync::Arc};

use backon::Retryable as _;
use barycenter_api::{
    LeasedCandidate, SharedProjection,
    client::{Client, ClientError},
};
use tokio::runtime::Handle;

use crate::{cache::Cache, failure::patience, fetch::Model, projection::Held, sharing::Sharing};

/// What the device thread reaches the server and the disk with; it waits, and is none of the runtime's threads.
#[derive(Debug)]
pub(crate) struct Tools {
    client: Client,
    pub cache: Cache,
    pub sharing: Arc<Sharing>,
    pub held: Arc<Held>,
    runtime: Handle,
}

impl Tools {
    /// Made on a thread of the runtime.
    pub fn new(client: &Client, cache: &Cache, sharing: &Arc<Sharing>, held: &Arc<Held>) -> Self {
        let (client, cache, runtime) = (client.clone(), cache.clone(), Handle::current());
        Self { client, cache, sharing: Arc::clone(sharing), held: Arc::clone(held), runtime }
    }

    /// Fetches a candidate; a server that is away is waited for.
    pub fn fetch(&self, candidate: &LeasedCandidate) -> Result<Model, ClientError> {
        let fetch = || Model::fetch(&self.client, &self.cache, candidate);
        self.runtime.block_on(async { fetch.retry(patience()).when(ClientError::is_transient).await })
    }

    /// Fetches a projection; a server that is away is not waited for, since what was not fetched can be made.
    pub fn fetch_projection(&self, key: &str, shared: &SharedProjection) -> Result<PathBuf, ClientError> {
        self.runtime.block_on(self.cache.fetch_projection(&self.client, key, shared))
    }
}
