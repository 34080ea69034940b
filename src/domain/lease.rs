//! Leases: who may speak for a job, and for how long.

use chrono::{DateTime, TimeDelta, Utc};

/// How long leases last and how often a job is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// A lease lapses so long after its last renewal.
    pub duration: TimeDelta,
    /// How often a worker is asked to renew.
    pub heartbeat: TimeDelta,
    /// Attempts of a job that may fail.
    pub max_attempts: u32,
    /// Pause after the first failure of a job; it doubles with each further one.
    pub pause: TimeDelta,
    /// The longest pause.
    pub longest_pause: TimeDelta,
}

impl Default for LeaseTerms {
    /// Leases of 30 s, renewed every 5 s, five attempts, pauses of 5 s to 5 min.
    fn default() -> Self {
        Self {
            duration: TimeDelta::seconds(30),
            heartbeat: TimeDelta::seconds(5),
            max_attempts: 5,
            pause: TimeDelta::seconds(5),
            longest_pause: TimeDelta::minutes(5),
        }
    }
}

impl LeaseTerms {
    /// When a lease that is given or renewed now lapses.
    pub fn expiry(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + self.duration
    }

    /// The back-off after so many failures: none before the first, then doubling up to the longest.
    pub fn pause_after(&self, failures: u32) -> TimeDelta {
        match failures {
            0 => TimeDelta::zero(),
            // Beyond 2^20 every pause is the longest.
            n => (self.pause * (1 << (n - 1).min(20))).min(self.longest_pause),
        }
    }

    /// What is left of the back-off when the lease of a lost worker lapses, in seconds, after 0, 1, 2, ... failures before: the
    /// back-off counts from the last heartbeat, so the lapse itself is part of it.
    pub fn pauses_after_lapse(&self) -> Vec<f64> {
        let left = |failures| (self.pause_after(failures) - self.duration).max(TimeDelta::zero());
        (1..=self.max_attempts).map(|failures| left(failures).as_seconds_f64()).collect()
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
    fn pauses_double_up_to_the_longest() {
        let terms = LeaseTerms::default();
        let seconds: Vec<i64> = (0..9).map(|failures| terms.pause_after(failures).num_seconds()).collect();
        assert_eq!(seconds, [0, 5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(terms.pause_after(u32::MAX), terms.longest_pause);
    }

    #[test]
    fn the_silence_of_a_lost_worker_is_part_of_the_pause() {
        assert_eq!(LeaseTerms::default().pauses_after_lapse(), [0.0, 0.0, 0.0, 10.0, 50.0]);
    }

    #[test]
    fn a_renewal_that_finds_nothing_is_lost() {
        assert_eq!(directive(None), Directive::Lost);
        assert_eq!(directive(Some(true)), Directive::Stop);
        assert_eq!(directive(Some(false)), Directive::Continue);
    }
}
