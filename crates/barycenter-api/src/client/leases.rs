//! The worker's side of the protocol.

use std::path::Path;

use uuid::Uuid;

use super::{
    ByteCounter, Client, Result,
    exchange::{Repeat, decode, decode_some},
};
use crate::{Claim, Fail, Finish, Heartbeat, HeartbeatReply, Lease, StoredArtifact};

impl Client {
    /// Takes a job; `None` where there was none in the time given.
    ///
    /// A claim whose answer was lost is not repeated: the job it may have taken comes back when its lease lapses.
    pub async fn claim(&self, claim: &Claim) -> Result<Option<Lease>> {
        let url = self.url(&["leases"]);
        let answer = self.post(&url, Repeat::IfNotCarriedOut, claim).await?;
        decode_some(&url, answer).await
    }

    /// Renews a lease and reports.
    pub async fn heartbeat(&self, lease_id: Uuid, heartbeat: &Heartbeat) -> Result<HeartbeatReply> {
        let url = self.lease(lease_id, "heartbeat");
        let answer = self.post(&url, Repeat::Harmless, heartbeat).await?;
        decode(&url, answer).await
    }

    /// Uploads the averaged model; it stays invisible until [`Client::finish`].
    pub async fn upload_artifact(&self, lease_id: Uuid, file: &Path, sent: &ByteCounter) -> Result<StoredArtifact> {
        self.put_file(&self.lease(lease_id, "artifact"), &(), file, sent, Repeat::Harmless).await
    }

    /// Publishes the artifact and ends the job as succeeded.
    ///
    /// Sent again only where it was certainly not carried out; after a broken connection the caller looks at the job.
    pub async fn finish(&self, lease_id: Uuid, finish: &Finish) -> Result<()> {
        self.post(&self.lease(lease_id, "finish"), Repeat::IfNotCarriedOut, finish).await.map(drop)
    }

    /// Ends the attempt without an artifact.
    pub async fn fail(&self, lease_id: Uuid, fail: &Fail) -> Result<()> {
        self.post(&self.lease(lease_id, "fail"), Repeat::IfNotCarriedOut, fail).await.map(drop)
    }

    fn lease(&self, lease_id: Uuid, action: &str) -> reqwest::Url {
        self.url(&["leases", &lease_id.to_string(), action])
    }
}
