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
    /// Hours without a part after which an unfinished upload in parts is removed.
    #[arg(long = "upload-patience-hours", env = "BARYCENTER_UPLOAD_PATIENCE_HOURS", default_value_t = 72,
          value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub upload_patience_hours: u32,
    /// Smallest part that an upload in parts may have, in bytes: a power of two. S3 takes none below 5 MiB.
    #[arg(long = "min-part-bytes", env = "BARYCENTER_MIN_PART_BYTES", default_value_t = 8 << 20,
          value_parser = power_of_two)]
    pub min_part_bytes: u64,
}

fn power_of_two(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(bytes) if bytes.is_power_of_two() && (1024..=MAX_PART_BYTES).contains(&bytes) => Ok(bytes),
        _ => Err(format!("must be a power of two from 1024 to {MAX_PART_BYTES}")),
    }
}

/// Largest part that an upload in parts may have.
pub const MAX_PART_BYTES: u64 = 1 << 30;

impl UploadConfig {
    /// How long an unfinished upload may be silent before it is removed.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.upload_grace_seconds.into())
    }

    /// How long an unfinished upload in parts may get no part before it is removed.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(u64::from(self.upload_patience_hours) * 3600)
    }
}
