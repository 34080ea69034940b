//! Object storage.

use url::Url;

/// Object storage.
#[derive(Clone, Debug, clap::Args)]
pub struct StorageConfig {
    /// Where objects are kept: `file:///folder`, `s3://bucket/prefix` or `memory:///`.
    ///
    /// S3 takes its credentials, region and endpoint from the usual `AWS_*` variables
    /// (`AWS_ENDPOINT`, `AWS_ALLOW_HTTP=true` for a store without TLS).
    #[arg(id = "storage_url", long = "storage-url", env = "BARYCENTER_STORAGE_URL")]
    pub url: Url,
}
