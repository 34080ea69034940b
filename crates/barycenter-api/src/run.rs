//! Training runs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Opens a training run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRun {
    /// Unique name: letters, digits, `.`, `_`, `-`, at most 100, not shaped like an id.
    pub name: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Anything the user wants to keep beside the run; a JSON object of at most 64 KiB.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// A training run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Identifier.
    pub run_id: Uuid,
    /// Unique name; every path takes it in place of the id.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// What the user keeps beside the run.
    #[schema(value_type = Object)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Checkpoints stored so far.
    pub checkpoint_count: u64,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
}
