//! Bounds of uploads.

use std::time::Duration;

/// Bounds of uploads.
#[derive(Clone, Debug, clap::Args)]
pub struct UploadConfig {
    /// Largest file that is accepted, in bytes.
    #[arg(long = "max-upload-bytes", env = "BARYCENTER_MAX_UPLOAD_BYTES", default_value_t = 64 << 30)]
    pub max_upload_bytes: u64,
    /// Largest safetensors header that is accepted, in bytes.
    #[arg(long = "max-header-bytes", env = "BARYCENTER_MAX_HEADER_BYTES", default_value_t = 16 << 20)]
    pub max_header_bytes: u64,
    /// Seconds without a sign of life after which an unfinished upload is removed.
    #[arg(long = "upload-grace-seconds", env = "BARYCENTER_UPLOAD_GRACE_SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(90..))]
    pub upload_grace_seconds: u32,
}

impl UploadConfig {
    /// How long an unfinished upload may be silent before it is removed.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.upload_grace_seconds.into())
    }
}
