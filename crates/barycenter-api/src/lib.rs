//! Wire types of the Barycenter HTTP API and, behind the feature `client`, its typed client.
//!
//! Every request refuses unknown fields; every response may gain fields, so clients ignore those they do not know.
//! Times are RFC 3339 in UTC, identifiers are `UUIDv7`, sizes are bytes, digests are lower-case hexadecimal BLAKE3.

mod alias;
mod artifact;
mod binary;
mod candidate_set;
mod checkpoint;
mod checkpoint_file;
#[cfg(feature = "client")]
pub mod client;
mod dataset;
mod deletion;
mod event;
mod history;
mod job;
mod lease;
mod merge;
mod page;
mod policy;
mod problem;
mod project;
mod projection;
mod report;
mod run;
mod spec;
#[cfg(feature = "client")]
pub mod tree;
mod upload;
mod webhook;
mod worker;

pub use alias::{Alias, SetAlias};
pub use artifact::{
    Artifact, DroppedArtifact, EditArtifact, KeptTensors, Lineage, ListArtifacts, Manifest, ManifestCandidate,
    ManifestDataset,
};
pub use binary::{Bytes64, Floats};
pub use candidate_set::{
    Among, CandidateSet, CandidateSetDiff, CandidateSetRule, CreateCandidateSet, Direction, ListCandidateSets, Member,
    PlacedMember,
};
pub use checkpoint::{
    Checkpoint, CompareTensors, EditCheckpoint, EqualTensors, ListCheckpoints, PushCheckpoint, SortOrder, TensorInfo,
};
pub use checkpoint_file::{
    CheckpointFile, CreateCheckpoint, FileKind, NamedFile, PutFile, RegisterFile, StagedFile, StagedKind, file_list,
};
pub use dataset::{Dataset, DatasetKind, Normalisation, PushDataset};
pub use deletion::{Deleted, DoomedCheckpoint, KeepBest, Retention, RetentionPreview};
pub use event::{Event, EventKind, EventsQuery, JobLog, LogLevel, LogLine, LogQuery, NewLogLine};
pub use history::{CandidateRef, CoefficientTable, History, HistoryQuery, HistorySnapshot, TableFormat, TableQuery};
pub use job::{
    Attempt, AttemptState, EditJob, Job, JobFailure, JobQuery, JobState, JobSummary, ListJobs, MemoryEstimate, Phase,
    Progress, SubmitQuery, ValidatedJob, WaitReason, Waiting,
};
pub use lease::{
    Claim, Directive, Fail, Finish, Heartbeat, HeartbeatReply, Lease, LeasedCandidate, LeasedDataset,
    MAX_SELECT_LOSSES, SelectLosses, Snapshot, StoredArtifact,
};
pub use merge::{MergePlan, MergeRules, MergedTensor};
pub use page::{ListQuery, Page};
pub use policy::{
    JobTemplate, Policy, PolicyMetric, PolicyRefresh, PolicyTarget, PolicyWindow, RefreshState, SetPolicy,
};
pub use problem::{FieldError, Problem};
pub use project::{Project, SetProject};
pub use projection::{
    FreshProjection, LeasedProjection, Projection, ProjectionCounts, ProjectionLink, ProjectionReport,
    ProjectionSource, PushProjection, SharedProjection,
};
pub use report::{
    BatchNormStatistics, Evaluated, Evaluation, FitReport, Geometry, LoraReport, NearDuplicate, NotAveraged, PhaseTime,
    Report,
};
pub use run::{CreateRun, EditRun, ListRuns, Run};
pub use spec::{
    Augmentation, Baselines, Basis, BatchNormPolicy, BatchNormSpec, Constraint, Curve, DataSpec, DeviceKind, Extends,
    FloatDtype, Granularity, Guard, JobSpec, LoraResult, LoraSpec, Materialise, MethodSpec, NetworkSpec, ObjectiveSpec,
    OptimiserSpec, OutputSpec, PoolingSpec, ScheduleSpec, SchedulingSpec, Sharding, Start, TensorPolicy, TensorRule,
    TwaSpec,
};
pub use upload::{
    CreateUpload, ListUploads, PartUrl, PartUrls, PutPart, RegisterCheckpoint, SignParts, Upload, UploadPart,
    UploadState, UploadTarget,
};
pub use webhook::{
    CreateWebhook, CreatedWebhook, DeliveryState, EditWebhook, ListDeliveries, TestedWebhook, Webhook, WebhookDelivery,
    WebhookSecret,
};
pub use worker::{
    EditWorker, RegisterWorker, Worker, WorkerDevice, WorkerHeartbeat, WorkerHeartbeatReply, WorkerState,
};
