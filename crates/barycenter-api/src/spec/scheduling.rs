//! When and where a job runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When and where a job runs; without effect on what it finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulingSpec {
    /// Higher goes first, -1000 to 1000; it can be changed while the job is queued.
    pub priority: i32,
    /// Seconds from the submission within which the job must end; it fails with `deadline_exceeded` otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
    /// Only workers with this kind of device; any unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceKind>,
}

impl SchedulingSpec {
    /// Whether it says nothing.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The cores of a machine.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

impl DeviceKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}
