//! When and where a job runs, and what its projection is called.

use barycenter_api::{JobSpec, MethodSpec, SchedulingSpec};

use super::Faults;
use crate::{
    app::{AppError, AppResult},
    domain::candidate_set::Candidate,
};

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

/// A digest over all that a projection depends on: the candidates' bytes, in order, and the parts of the spec that say what is
/// projected and how. Jobs of equal keys share it; some that could share it may differ, which costs a preference and no more.
pub(super) fn projection_key(spec: &JobSpec, members: &[Candidate]) -> AppResult<Option<String>> {
    let MethodSpec::Twa(twa) = &spec.method else { return Ok(None) };
    let digests: Vec<&str> = members.iter().map(|member| member.digest_blake3.as_str()).collect();
    let parts = (digests, &spec.network, &spec.lora, &spec.tensors, twa.bits, twa.granularity);
    let text = serde_json::to_vec(&parts).map_err(AppError::internal)?;
    Ok(Some(blake3::hash(&text).to_hex().to_string()))
}
