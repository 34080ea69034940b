//! Settings: one small struct for each area, read once from flags and environment, then handed on.

mod auth;
mod database;
mod deletion;
mod http;
mod leases;
mod projections;
mod storage;
mod uploads;
mod webhooks;

pub use auth::AuthConfig;
pub use database::DatabaseConfig;
pub use deletion::DeletionConfig;
pub use http::HttpConfig;
pub use leases::LeaseConfig;
pub use projections::ProjectionConfig;
pub use storage::StorageConfig;
pub use uploads::{MAX_PART_BYTES, UploadConfig};
pub use webhooks::{Allowed, WebhookConfig};

/// Everything that `barycenter serve` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Where HTTP listens.
    #[command(flatten)]
    pub http: HttpConfig,
    /// Postgres.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// Object storage.
    #[command(flatten)]
    pub storage: StorageConfig,
    /// Who may call.
    #[command(flatten)]
    pub auth: AuthConfig,
    /// Worker leases.
    #[command(flatten)]
    pub leases: LeaseConfig,
    /// Bounds of uploads.
    #[command(flatten)]
    pub uploads: UploadConfig,
    /// How long deleted things can be undeleted.
    #[command(flatten)]
    pub deletion: DeletionConfig,
    /// How much is kept of the projections that workers share.
    #[command(flatten)]
    pub projections: ProjectionConfig,
    /// Where webhooks may lead and how long receivers may take.
    #[command(flatten)]
    pub webhooks: WebhookConfig,
}
