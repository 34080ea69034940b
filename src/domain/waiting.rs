//! Why a queued job waits.

use chrono::{DateTime, Utc};

/// Why a queued job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// It failed before and is not tried again until then.
    BackOff,
    /// No worker is alive.
    NoWorker,
    /// No worker that is alive has the device that it asks for.
    NoWorkerWithDevice,
    /// None with the device has the memory that it is estimated to take.
    NoWorkerWithMemory,
    /// None with device and memory computes its network.
    NoWorkerWithNetwork,
    /// Every worker that could take it is paused or draining.
    WorkersPaused,
    /// Its project runs as many jobs as it may.
    ProjectAtCap,
    /// Every worker that could take it is at work.
    WorkersBusy,
    /// A worker is free and takes it, or one of those before it, at its next claim.
    Starting,
}

/// What a job waits for, as it stands in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Nobody takes the job before.
    pub not_before: Option<DateTime<Utc>>,
    /// Workers that are alive.
    pub alive: u64,
    /// Of those, the ones with the device.
    pub with_device: u64,
    /// Of those, the ones with the memory.
    pub with_memory: u64,
    /// Of those, the ones that compute the network.
    pub with_network: u64,
    /// Of those, the ones that are given jobs.
    pub active: u64,
    /// Of those, the ones that have no job.
    pub idle: u64,
    /// Whether the job's project runs as many jobs as it may.
    pub project_at_cap: bool,
}

impl Surroundings {
    /// The first thing that must change before the job can run.
    pub fn reason(&self, now: DateTime<Utc>) -> WaitReason {
        if self.not_before.is_some_and(|at| at > now) {
            return WaitReason::BackOff;
        }
        let obstacles = [
            (self.alive == 0, WaitReason::NoWorker),
            (self.with_device == 0, WaitReason::NoWorkerWithDevice),
            (self.with_memory == 0, WaitReason::NoWorkerWithMemory),
            (self.with_network == 0, WaitReason::NoWorkerWithNetwork),
            (self.active == 0, WaitReason::WorkersPaused),
            (self.project_at_cap, WaitReason::ProjectAtCap),
            (self.idle == 0, WaitReason::WorkersBusy),
        ];
        obstacles.into_iter().find(|(stands, _)| *stands).map_or(WaitReason::Starting, |(_, reason)| reason)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn the_first_obstacle_is_the_reason() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let free = Surroundings {
            alive: 4,
            with_device: 3,
            with_memory: 2,
            with_network: 2,
            active: 2,
            idle: 1,
            ..Surroundings::default()
        };
        for (surroundings, reason) in [
            (Surroundings::default(), WaitReason::NoWorker),
            (Surroundings { with_device: 0, ..free }, WaitReason::NoWorkerWithDevice),
            (Surroundings { with_memory: 0, ..free }, WaitReason::NoWorkerWithMemory),
            (Surroundings { with_network: 0, ..free }, WaitReason::NoWorkerWithNetwork),
            (Surroundings { active: 0, idle: 0, ..free }, WaitReason::WorkersPaused),
            (Surroundings { project_at_cap: true, ..free }, WaitReason::ProjectAtCap),
            (Surroundings { idle: 0, ..free }, WaitReason::WorkersBusy),
            (Surroundings { not_before: Some(now + TimeDelta::seconds(1)), ..free }, WaitReason::BackOff),
            (Surroundings { not_before: Some(now), ..free }, WaitReason::Starting),
            (free, WaitReason::Starting),
        ] {
            assert_eq!(surroundings.reason(now), reason, "{surroundings:?}");
        }
    }
}
