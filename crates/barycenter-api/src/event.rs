//! Events and log lines.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum EventKind {
    /// A job was submitted.
    #[serde(rename = "job.queued")]
    JobQueued,
    /// A worker took it, for the first time or anew.
    #[serde(rename = "job.started")]
    JobStarted,
    /// Its worker began another phase.
    #[serde(rename = "job.phase")]
    JobPhase,
    /// An attempt ended and the job waits for the next.
    #[serde(rename = "job.requeued")]
    JobRequeued,
    /// Someone asked for a running job to end.
    #[serde(rename = "job.cancel_requested")]
    JobCancelRequested,
    /// It ended with an artifact.
    #[serde(rename = "job.succeeded")]
    JobSucceeded,
    /// It ended without one.
    #[serde(rename = "job.failed")]
    JobFailed,
    /// It ended because someone asked.
    #[serde(rename = "job.cancelled")]
    JobCancelled,
    /// A checkpoint is there.
    #[serde(rename = "checkpoint.pushed")]
    CheckpointPushed,
    /// A candidate set was made.
    #[serde(rename = "candidate_set.created")]
    CandidateSetCreated,
    /// A name of a run names something else.
    #[serde(rename = "alias.moved")]
    AliasMoved,
    /// A refresh of a policy has a result.
    #[serde(rename = "policy.refreshed")]
    PolicyRefreshed,
    /// It is better than the best before.
    #[serde(rename = "policy.improved")]
    PolicyImproved,
    /// It reached the target.
    #[serde(rename = "policy.target_reached")]
    PolicyTargetReached,
    /// As many refreshes as the policy has patience for did not improve.
    #[serde(rename = "policy.stalled")]
    PolicyStalled,
    /// A refresh ended without a result.
    #[serde(rename = "policy.refresh_failed")]
    PolicyRefreshFailed,
}

/// An event; the `data` of a server-sent event whose `id` is `event_id` and whose `event` is `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Greater than that of every event that became visible before; `Last-Event-ID` resumes after it.
    pub event_id: i64,
    /// What happened.
    pub kind: EventKind,
    /// The project of the run.
    pub project: String,
    /// The run.
    pub run_id: Uuid,
    /// The job, where it happened to one.
    pub job_id: Option<Uuid>,
    /// More, by kind; `docs/jobs.md` lists it.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
}

/// Where a stream of events begins.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// After this event, as `Last-Event-ID` says, which goes before it. Unless told a job's stream begins with its first event and
    /// all others with what happens from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// As expected.
    Info,
    /// Not as expected, and dealt with.
    Warn,
    /// Not dealt with.
    Error,
}

impl LogLevel {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A line that a worker sends with a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLogLine {
    /// The worker's count within the attempt, from 1. A number that is stored already is not stored again.
    pub number: i64,
    /// Milliseconds since it was logged: the worker's clock need not be right.
    #[serde(default)]
    pub age_ms: u64,
    /// How much it matters.
    pub level: LogLevel,
    /// The line; what is longer than 2000 characters is cut.
    pub message: String,
}

/// A log line of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// The attempt.
    pub attempt: u32,
    /// Its place within the attempt.
    pub number: i64,
    /// When it was logged, by the server's clock.
    pub logged_at: DateTime<Utc>,
    /// How much it matters.
    pub level: LogLevel,
    /// The line.
    pub message: String,
}

/// Log lines of a job, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobLog {
    /// The lines.
    pub lines: Vec<LogLine>,
    /// Ask for what follows with `after` set to this.
    pub next: Option<String>,
    /// Whether the job has ended and no line follows.
    pub complete: bool,
}

/// Which log lines to read.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Only lines after this `next` of an earlier answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only so many of the newest lines; not beside `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// At most so many lines, 1 to 5000; 1000 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where there is no line, wait so many seconds for one (at most 25), or for the job to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<u32>,
}
