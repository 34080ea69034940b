//! Aliases: names of a run for one of its checkpoints or artifacts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What an alias is to name: one of the two.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetAlias {
    /// A checkpoint of the run: its step, its id or another alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// An artifact of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_id: Option<Uuid>,
}

/// A name of a run for one of its checkpoints or artifacts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alias {
    /// The run.
    pub run_id: Uuid,
    /// The name. `latest` moves by itself: it is the checkpoint of the highest step.
    pub alias: String,
    /// The checkpoint it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_id: Option<Uuid>,
    /// The artifact it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_id: Option<Uuid>,
    /// Another with every move; in quotes it is the alias's `ETag`.
    pub revision_id: Uuid,
    /// When it came to name this.
    pub moved_at: DateTime<Utc>,
}
