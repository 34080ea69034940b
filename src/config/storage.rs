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
    /// URL of a folder or bucket whose objects may be registered as checkpoints where they lie; may be given several times.
    ///
    /// Objects there are read and never written or deleted. None unless told.
    #[arg(long = "register-prefix", env = "BARYCENTER_REGISTER_PREFIX", value_delimiter = ',', value_name = "URL")]
    pub register_prefixes: Vec<Url>,
}
