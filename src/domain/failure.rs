//! Why attempts and jobs end without an artifact, and what that does to a job.

use super::job::JobEvent;

/// Why a job or an attempt ended without an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable code.
    pub code: String,
    /// What happened.
    pub message: String,
}

impl Failure {
    /// Code of a failure that a worker reports after it was told to stop.
    pub const CANCELLED: &'static str = "cancelled";
    /// Code of a worker that was shut down and hands its job back.
    pub const WORKER_STOPPED: &'static str = "worker_stopped";
    /// Code of an attempt whose worker stopped sending heartbeats.
    pub const WORKER_LOST: &'static str = "worker_lost";
    /// Code of a job that no attempt brought to an end.
    pub const TOO_MANY_ATTEMPTS: &'static str = "too_many_attempts";
    /// Code of a job that had not ended when its deadline was over.
    pub const DEADLINE_EXCEEDED: &'static str = "deadline_exceeded";

    /// What an attempt says whose worker stopped sending heartbeats.
    pub const LOST_MESSAGE: &'static str = "the worker stopped sending heartbeats and its lease lapsed";
}

/// Codes that no other attempt can mend, whatever the worker believes: the same inputs give the same failure.
const LASTING: [&str; 6] =
    ["invalid_input", "corrupt_file", "missing_tensor", "not_finite", "unsupported", Failure::DEADLINE_EXCEEDED];

/// An attempt that ended without an artifact, as it bears on its job.
#[derive(Clone, Copy, Debug)]
pub struct FailedAttempt<'a> {
    /// The worker's code.
    pub code: &'a str,
    /// Whether the worker believes that another attempt may fare better.
    pub retry: bool,
    /// Someone asked for the job to end, so it is never queued again.
    pub cancel_requested: bool,
    /// How many attempts failed before.
    pub failures_before: u32,
    /// How many may fail in all.
    pub max_attempts: u32,
}

impl FailedAttempt<'_> {
    /// Whether it counts against the job. A worker that is shut down is not the job's fault.
    pub fn counts(&self) -> bool {
        !(self.code == Failure::WORKER_STOPPED && self.retry)
    }

    /// Failures of the job with this one.
    pub fn failures(&self) -> u32 {
        self.failures_before + u32::from(self.counts())
    }

    /// Whether what failed may pass.
    pub fn can_pass(&self) -> bool {
        self.retry && !LASTING.contains(&self.code)
    }

    /// What it does to the job.
    pub fn event(&self) -> JobEvent {
        if self.cancel_requested && (self.retry || self.code == Failure::CANCELLED) {
            JobEvent::Stopped
        } else if self.can_pass() && self.failures() < self.max_attempts {
            JobEvent::Requeued
        } else {
            JobEvent::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobEvent::{Failed, Requeued, Stopped};

    fn attempt(code: &str, retry: bool, cancel_requested: bool, failures_before: u32) -> FailedAttempt<'_> {
        FailedAttempt { code, retry, cancel_requested, failures_before, max_attempts: 4 }
    }

    #[test]
    fn a_failure_is_retried_while_attempts_are_left_and_nobody_cancelled() {
        for (code, retry, cancel_requested, failures_before, expected) in [
            ("io", true, false, 2, Requeued),
            ("io", true, false, 3, Failed),
            ("io", false, false, 0, Failed),
            ("io", true, true, 0, Stopped),
            ("io", false, true, 0, Failed),
            ("cancelled", false, true, 0, Stopped),
            // A worker that stops of its own accord gives the job back.
            ("cancelled", true, false, 0, Requeued),
            ("cancelled", false, false, 0, Failed),
            ("disk_full", true, false, 0, Requeued),
            ("device_busy", true, false, 0, Requeued),
        ] {
            let attempt = attempt(code, retry, cancel_requested, failures_before);
            assert_eq!(attempt.event(), expected, "{attempt:?}");
            assert!(super::super::job::JobState::Running.after(attempt.event()).is_ok());
        }
    }

    #[test]
    fn what_lasts_is_not_tried_again_whatever_the_worker_believes() {
        for code in LASTING {
            assert_eq!(attempt(code, true, false, 0).event(), Failed, "{code}");
        }
    }

    #[test]
    fn a_job_that_is_handed_back_loses_no_attempt() {
        let handed_back = attempt(Failure::WORKER_STOPPED, true, false, 3);
        assert_eq!((handed_back.event(), handed_back.failures()), (Requeued, 3));
    }
}
