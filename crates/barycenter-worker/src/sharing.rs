//! Projections on their way to the server's cache, beside the work of jobs.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use barycenter_api::{PushProjection, client::Client};
use tokio::{runtime::Handle, task::JoinHandle};
use tracing::{debug, info};
use uuid::Uuid;

/// A projection for the server's cache.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The lease of the job that it was made for.
    pub lease_id: Uuid,
    pub projection_key: String,
    pub revisions: u32,
    pub file: PathBuf,
}

/// Sends projections one after the other in the background. No job waits for it or fails by it: what does not arrive is made by
/// whoever needs it.
#[derive(Debug)]
pub(crate) struct Sharing {
    client: Client,
    runtime: Handle,
    latest: Mutex<Option<JoinHandle<()>>>,
}

impl Sharing {
    /// Made on a thread of the runtime.
    pub fn new(client: Client) -> Self {
        Self { client, runtime: Handle::current(), latest: Mutex::default() }
    }

    /// Sends a projection once those before it are through.
    pub fn offer(&self, offer: Offer) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, client) = (latest.take(), self.client.clone());
        *latest = Some(self.runtime.spawn(async move {
            if let Some(before) = before {
                // One that died sends nothing more: the next one may.
                let _ = before.await;
            }
            send(&client, &offer).await;
        }));
    }
}

async fn send(client: &Client, offer: &Offer) {
    let key = offer.projection_key.as_str();
    let beside = PushProjection { revisions: offer.revisions, digest_blake3: None };
    match client.push_projection(offer.lease_id, key, &beside, &offer.file).await {
        Ok(stored) => info!(projection.key = key, bytes = stored.size_bytes, "shared a projection"),
        Err(error) => debug!(projection.key = key, %error, "a projection is not shared"),
    }
}
