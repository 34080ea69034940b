//! Projections that workers share.

use std::path::Path;

use reqwest::Method;
use uuid::Uuid;

use super::{ByteCounter, Client, Result, exchange::Repeat};
use crate::{ListQuery, Page, Projection, PushProjection};

impl Client {
    /// One page of the projections in the server's cache, last come first.
    pub async fn list_projections(&self, query: &ListQuery) -> Result<Page<Projection>> {
        self.fetch(&self.url(&["projections"]), query).await
    }

    /// A projection in the server's cache.
    pub async fn find_projection(&self, projection_key: &str) -> Result<Projection> {
        self.fetch(&self.url(&["projections", projection_key]), &()).await
    }

    /// Takes a projection out of the server's cache.
    pub async fn delete_projection(&self, projection_key: &str) -> Result<()> {
        let url = self.url(&["projections", projection_key]);
        self.send(&url, Repeat::IfNotCarriedOut, || self.request(Method::DELETE, &url)).await.map(drop)
    }

    /// Puts the projection of a leased job into the server's cache; one that is there is not sent in full.
    pub async fn push_projection(
        &self,
        lease_id: Uuid,
        projection_key: &str,
        beside: &PushProjection,
        file: &Path,
    ) -> Result<Projection> {
        let url = self.url(&["leases", &lease_id.to_string(), "projections", projection_key]);
        self.put_file(&url, beside, file, &ByteCounter::none(), Repeat::Harmless).await
    }
}
