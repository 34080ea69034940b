//! Deletion and retention.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Direction;

/// What was deleted; `undelete` brings it back while it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// When it was deleted.
    pub deleted_at: DateTime<Utc>,
    /// Until when it can be undeleted, at least; then it and its bytes are removed for good.
    pub kept_until: DateTime<Utc>,
}

/// Which checkpoints of a run are kept. What no rule keeps is deleted, unless it is pinned, or needed by an alias, a candidate
/// set or a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Keep the checkpoints of so many highest steps.
    pub last: u32,
    /// Keep the best by these metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub best: Vec<KeepBest>,
    /// Keep those whose step is a multiple of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<i64>,
}

/// Keeps the best by a metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepBest {
    /// How many, at least 1.
    pub count: u32,
    /// Name of the metric.
    pub metric: String,
    /// Which end is best.
    pub direction: Direction,
}

/// What retention rules would delete now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RetentionPreview {
    /// The rules.
    pub rules: Retention,
    /// The checkpoints that would go, by step.
    pub checkpoints: Vec<DoomedCheckpoint>,
    /// Bytes that would be free once they are collected: a file that several of them share counts once, one that anything else
    /// needs does not count.
    pub freed_bytes: u64,
}

/// A checkpoint that would go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DoomedCheckpoint {
    /// The checkpoint.
    pub checkpoint_id: Uuid,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
}
