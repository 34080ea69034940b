//! Projections that workers share.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::LeasedCandidate;

/// A projection in the server's cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Projection {
    /// Identifier.
    pub projection_id: Uuid,
    /// What it is called: a digest over all that it depends on.
    pub projection_key: String,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
    /// Candidates that it is of.
    pub candidates: u32,
    /// How often candidates came or went since it was built.
    pub revisions: u32,
    /// Jobs whose worker fetched it.
    pub hits: u64,
    /// When it came.
    pub created_at: DateTime<Utc>,
    /// When a job last used it.
    pub used_at: DateTime<Utc>,
}

/// What is told of a projection beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PushProjection {
    /// How often candidates came or went since it was built; 0 unless told.
    #[serde(default)]
    pub revisions: u32,
    /// Digest of the file; refused where the bytes have another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_blake3: Option<String>,
}

/// The projection of a leased job: what it is called, where it lies, what it extends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeasedProjection {
    /// What it is called, here and among the `projections` of workers.
    pub projection_key: String,
    /// Where the server has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<SharedProjection>,
    /// The projections that it extends, oldest first: the first is built of its candidates, each further one, and that of the job
    /// behind the last, is a revision of the one before (built anew where its drift is above 1). Empty where it is simply built.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<ProjectionLink>,
    /// Whether the first link may be built. False where sets before it were deleted: what nobody has at hand cannot be made any
    /// more, and the projection of the candidates alone takes the place of this one.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub whole: bool,
    /// The projection of the candidates alone, where this one extends another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<FreshProjection>,
    /// Whether the server takes projections that it lacks.
    #[serde(default)]
    pub shared: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_yes(value: &bool) -> bool {
    *value
}

/// A projection in the server's cache, as a worker fetches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedProjection {
    /// Path of its bytes.
    pub url_path: String,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
}

/// A projection that another one extends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectionLink {
    /// What it is called.
    pub projection_key: String,
    /// Its candidates, in order.
    pub candidates: Vec<LeasedCandidate>,
    /// Where the server has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<SharedProjection>,
}

/// The projection of a job's candidates alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FreshProjection {
    /// What it is called.
    pub projection_key: String,
    /// Where the server has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<SharedProjection>,
}

/// Where a job's projection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionSource {
    /// Built of its candidates.
    Built,
    /// Revised from one that was at hand.
    Extended,
    /// The worker's own cache.
    Cached,
    /// The server's cache.
    Fetched,
}

impl ProjectionSource {
    /// The word for it in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Built => "built",
            Self::Extended => "extended",
            Self::Cached => "cached",
            Self::Fetched => "fetched",
        }
    }
}

impl std::fmt::Display for ProjectionSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a job came by its projection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProjectionReport {
    /// What it is called.
    pub projection_key: String,
    /// Where it came from.
    pub source: ProjectionSource,
    /// The projection that was extended, where one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_from: Option<String>,
    /// Whether a file came from the server's cache for it: that of the projection itself or of the one that was extended.
    #[serde(default)]
    pub fetched: bool,
    /// How often candidates came or went since it was built.
    pub revisions: u32,
    /// Projections that were built although they extend another, because their drift was above 1; the job's own, or one on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drifted: Vec<String>,
    /// True where what the spec extends could not be followed any more, and the projection was built of the candidates alone.
    #[serde(default)]
    pub unfollowed: bool,
    /// Seconds from looking for it to having it.
    pub seconds: f64,
}

/// Jobs of a worker by where their projection came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProjectionCounts {
    /// Built of its candidates: a miss.
    pub built: u64,
    /// Revised from one at hand.
    pub extended: u64,
    /// In the worker's own cache.
    pub cached: u64,
    /// From the server's cache.
    pub fetched: u64,
    /// Share of those that were not built; absent where there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hit_rate: Option<f64>,
}

impl ProjectionCounts {
    /// The counts with their rate.
    pub fn new(built: u64, extended: u64, cached: u64, fetched: u64) -> Self {
        let hits = extended + cached + fetched;
        let hit_rate = (built + hits > 0).then(|| hits as f64 / (built + hits) as f64);
        Self { built, extended, cached, fetched, hit_rate }
    }
}
