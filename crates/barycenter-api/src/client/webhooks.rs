//! Webhooks.

use reqwest::Method;
use uuid::Uuid;

use super::{
    Client, Result,
    exchange::{Repeat, decode},
};
use crate::{
    CreateWebhook, CreatedWebhook, EditWebhook, ListDeliveries, ListQuery, Page, TestedWebhook, Webhook,
    WebhookDelivery,
};

impl Client {
    /// Makes a webhook; the answer holds the secret where the server made one.
    pub async fn create_webhook(&self, webhook: &CreateWebhook) -> Result<CreatedWebhook> {
        self.create(&self.url(&["webhooks"]), webhook).await
    }

    /// One page of webhooks, newest first.
    pub async fn list_webhooks(&self, query: &ListQuery) -> Result<Page<Webhook>> {
        self.fetch(&self.url(&["webhooks"]), query).await
    }

    /// A webhook.
    pub async fn find_webhook(&self, webhook_id: Uuid) -> Result<Webhook> {
        self.fetch(&self.url(&["webhooks", &webhook_id.to_string()]), &()).await
    }

    /// Edits a webhook.
    pub async fn edit_webhook(&self, webhook_id: Uuid, edit: &EditWebhook) -> Result<Webhook> {
        let url = self.url(&["webhooks", &webhook_id.to_string()]);
        let make = || self.request(Method::PATCH, &url).json(edit);
        decode(&url, self.send(&url, Repeat::Harmless, make).await?).await
    }

    /// Removes a webhook.
    pub async fn delete_webhook(&self, webhook_id: Uuid) -> Result<()> {
        let url = self.url(&["webhooks", &webhook_id.to_string()]);
        self.send(&url, Repeat::IfNotCarriedOut, || self.request(Method::DELETE, &url)).await.map(drop)
    }

    /// Sends a message that tells of nothing, and says what the receiver answered.
    pub async fn test_webhook(&self, webhook_id: Uuid) -> Result<TestedWebhook> {
        let url = self.url(&["webhooks", &webhook_id.to_string(), "test"]);
        let make = || self.request(Method::POST, &url);
        decode(&url, self.send(&url, Repeat::IfNotCarriedOut, make).await?).await
    }

    /// One page of a webhook's deliveries, newest first.
    pub async fn list_deliveries(&self, webhook_id: Uuid, query: &ListDeliveries) -> Result<Page<WebhookDelivery>> {
        self.fetch(&self.url(&["webhooks", &webhook_id.to_string(), "deliveries"]), query).await
    }

    /// Makes a delivery due at once.
    pub async fn redeliver(&self, webhook_id: Uuid, delivery_id: Uuid) -> Result<WebhookDelivery> {
        let segments = ["webhooks", &webhook_id.to_string(), "deliveries", &delivery_id.to_string(), "redeliver"];
        let url = self.url(&segments);
        let make = || self.request(Method::POST, &url);
        decode(&url, self.send(&url, Repeat::Harmless, make).await?).await
    }
}
