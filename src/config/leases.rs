//! Worker leases.

use chrono::TimeDelta;

use crate::domain::lease::LeaseTerms;

/// Heartbeats that fit into a lease: a worker may miss all but the last.
const HEARTBEATS_A_LEASE: i32 = 6;

/// Worker leases.
#[derive(Clone, Debug, clap::Args)]
pub struct LeaseConfig {
    /// Seconds after which a lease lapses without a heartbeat.
    #[arg(long = "lease-seconds", env = "BARYCENTER_LEASE_SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub lease_seconds: u32,
    /// Attempts of a job that may fail before it fails itself.
    #[arg(long = "max-attempts", env = "BARYCENTER_MAX_ATTEMPTS", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_attempts: u32,
    /// Seconds until a job is tried again after its first failure; doubled by each further one.
    #[arg(long = "retry-pause-seconds", env = "BARYCENTER_RETRY_PAUSE_SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub retry_pause_seconds: u32,
    /// Longest pause between two attempts of a job, in seconds.
    #[arg(long = "retry-longest-pause-seconds", env = "BARYCENTER_RETRY_LONGEST_PAUSE_SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub retry_longest_pause_seconds: u32,
}

impl LeaseConfig {
    /// How long leases last and how often a job is tried.
    pub fn terms(&self) -> LeaseTerms {
        let duration = TimeDelta::seconds(self.lease_seconds.into());
        LeaseTerms {
            duration,
            heartbeat: duration / HEARTBEATS_A_LEASE,
            max_attempts: self.max_attempts,
            pause: TimeDelta::seconds(self.retry_pause_seconds.into()),
            longest_pause: TimeDelta::seconds(self.retry_longest_pause_seconds.into()),
        }
    }
}
