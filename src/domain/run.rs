//! Training runs.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::ids::RunId;

/// A training run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Identifier.
    pub run_id: RunId,
    /// Unique name.
    pub name: String,
    /// The project that it belongs to.
    pub project: String,
    /// Free text.
    pub description: Option<String>,
    /// What the user keeps beside the run.
    pub metadata: Map<String, Value>,
    /// Checkpoints stored so far.
    pub checkpoint_count: u64,
    /// Moves on with every edit; what `If-Match` compares.
    pub revision: i64,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
}
