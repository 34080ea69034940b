//! Leases: who may speak for a job, and for how long.

use chrono::{DateTime, TimeDelta, Utc};

/// How long leases last and how often a job is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// A lease lapses so long after its last renewal.
    pub duration: TimeDelta,
    /// How often a worker is asked to renew.
    pub heartbeat: TimeDelta,
    /// Attempts a job may have in all.
    pub max_attempts: u32,
}

impl Default for LeaseTerms {
    /// Leases of 30 s, renewed every 5 s, five attempts.
    fn default() -> Self {
        Self { duration: TimeDelta::seconds(30), heartbeat: TimeDelta::seconds(5), max_attempts: 5 }
    }
}

impl LeaseTerms {
    /// When a lease that is given or renewed now lapses.
    pub fn expiry(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + self.duration
    }
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Go on.
    Continue,
    /// The job is to end.
    Stop,
    /// Another attempt holds the job, or it has ended.
    Lost,
}

/// What a renewal found: `None` where the lease no longer holds a running job, else whether a cancel was requested.
pub fn directive(cancel_requested: Option<bool>) -> Directive {
    match cancel_requested {
        None => Directive::Lost,
        Some(true) => Directive::Stop,
        Some(false) => Directive::Continue,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlives_several_missed_heartbeats() {
        let terms = LeaseTerms::default();
        assert!(terms.duration >= terms.heartbeat * 3);
    }

    #[test]
    fn a_renewal_that_finds_nothing_is_lost() {
        assert_eq!(directive(None), Directive::Lost);
        assert_eq!(directive(Some(true)), Directive::Stop);
        assert_eq!(directive(Some(false)), Directive::Continue);
    }
}
