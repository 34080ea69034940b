//! How much is kept of the projections that workers share.

use chrono::TimeDelta;

/// How much is kept of the projections that workers share.
#[derive(Clone, Debug, clap::Args)]
pub struct ProjectionConfig {
    /// Bytes of projections above which those go that were used longest ago; 100 GiB unless told. 0 keeps none: workers share nothing.
    #[arg(long = "projections-bytes", env = "BARYCENTER_PROJECTIONS_BYTES", default_value_t = 100 << 30)]
    pub projections_bytes: u64,
    /// Hours without a use after which a projection goes; two weeks unless told.
    #[arg(long = "projections-keep-hours", env = "BARYCENTER_PROJECTIONS_KEEP_HOURS", default_value_t = 14 * 24,
          value_parser = clap::value_parser!(u32).range(1..=87_600))]
    pub projections_keep_hours: u32,
}

impl ProjectionConfig {
    /// How long a projection stays without a use.
    pub fn keep(&self) -> TimeDelta {
        TimeDelta::hours(self.projections_keep_hours.into())
    }
}
