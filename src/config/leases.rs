//! Worker leases.

use std::time::Duration;

/// Worker leases.
#[derive(Clone, Debug, clap::Args)]
pub struct LeaseConfig {
    /// Seconds after which a lease lapses without a heartbeat.
    #[arg(long = "lease-seconds", env = "BARYCENTER_LEASE_SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub lease_seconds: u32,
}

impl LeaseConfig {
    /// How long a lease lasts without a heartbeat.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }
}
