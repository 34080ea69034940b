//! When and where a job runs.

use barycenter_api::SchedulingSpec;

use super::Faults;
use crate::app::{AppError, AppResult};

const PRIORITIES: std::ops::RangeInclusive<i32> = -1000..=1000;
/// A year: whoever means "some day" sets no deadline.
const MAX_DEADLINE_SECONDS: u64 = 365 * 24 * 3600;

pub(super) fn check(scheduling: &SchedulingSpec, faults: &mut Faults) {
    if let Err(detail) = priority(scheduling.priority) {
        faults.add("scheduling.priority", detail);
    }
    let sound = scheduling.deadline_seconds.is_none_or(|seconds| (1..=MAX_DEADLINE_SECONDS).contains(&seconds));
    let detail = || format!("must be 1 to {MAX_DEADLINE_SECONDS}");
    faults.check(sound, "scheduling.deadline_seconds", detail);
}

/// Refuses a priority that no job may have.
pub(in crate::app) fn check_priority(field: &str, given: i32) -> AppResult<()> {
    priority(given).map_err(|detail| AppError::invalid_field(field, detail))
}

fn priority(given: i32) -> Result<(), String> {
    let range = format!("must be {} to {}, not {given}", PRIORITIES.start(), PRIORITIES.end());
    PRIORITIES.contains(&given).then_some(()).ok_or(range)
}
