//! The one table of problem codes: source of HTTP bodies, of `docs/problems.md` and of what clients may rely on.

/// Whether the same request may fare better later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No: the request itself must change, or the world has moved on.
    Never,
    /// Yes, after the time in `Retry-After` or a moment.
    Later,
}

macro_rules! problem_codes {
    ($($variant:ident = $code:literal, $status:literal, $retry:ident, $title:literal;)*) => {
        /// Stable machine-readable code of a problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemCode {
            $(#[doc = $title] $variant,)*
        }

        impl ProblemCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as clients see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status it is answered with.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// What it means, the same text for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// Whether the same request may fare better later.
            pub fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)* }
            }
        }
    };
}

problem_codes! {
    BadRequest = "bad_request", 400, Never, "The request could not be read";
    InvalidJson = "invalid_json", 400, Never, "The body is not JSON";
    InvalidQuery = "invalid_query", 400, Never, "A query parameter is unknown or malformed";
    InvalidId = "invalid_id", 400, Never, "An identifier in the path is malformed";
    BodyInterrupted = "body_interrupted", 400, Later, "The connection broke before the body had arrived";
    Unauthorized = "unauthorized", 401, Never, "The API token is missing or wrong";
    RouteNotFound = "route_not_found", 404, Never, "There is no such path";
    RunNotFound = "run_not_found", 404, Never, "There is no such run";
    CheckpointNotFound = "checkpoint_not_found", 404, Never, "There is no such checkpoint";
    CandidateSetNotFound = "candidate_set_not_found", 404, Never, "There is no such candidate set";
    DatasetNotFound = "dataset_not_found", 404, Never, "There is no such dataset";
    JobNotFound = "job_not_found", 404, Never, "There is no such job";
    LeaseNotFound = "lease_not_found", 404, Never, "There never was such a lease";
    ArtifactNotFound = "artifact_not_found", 404, Never, "There is no such artifact";
    ProjectNotFound = "project_not_found", 404, Never, "No run has named such a project";
    WorkerNotFound = "worker_not_found", 404, Never, "There is no such worker";
    UploadNotFound = "upload_not_found", 404, Never, "There is no such upload, or it was aborted or removed";
    ObjectNotFound = "object_not_found", 404, Never, "There is no object at the URL";
    AliasNotFound = "alias_not_found", 404, Never, "The run has no such alias";
    PolicyNotFound = "policy_not_found", 404, Never, "The run has no policy";
    FileNotFound = "file_not_found", 404, Never, "There is no such file";
    ProjectionNotFound = "projection_not_found", 404, Never, "The server's cache has no such projection: it was evicted, or never came";
    WebhookNotFound = "webhook_not_found", 404, Never, "There is no such webhook";
    DeliveryNotFound = "delivery_not_found", 404, Never, "The webhook has no such delivery, or it is no longer kept";
    MethodNotAllowed = "method_not_allowed", 405, Never, "The path does not support this method";
    PrefixNotAllowed = "prefix_not_allowed", 403, Never, "The URL does not lie below a prefix that the server allows";
    WebhookDisabled = "webhook_disabled", 409, Never, "The webhook is disabled";
    NameTaken = "name_taken", 409, Never, "Something else already has this name";
    StepTaken = "step_taken", 409, Never, "The run already has another checkpoint at this step";
    DatasetDiffers = "dataset_differs", 409, Never, "Another dataset already has this name";
    LeaseLost = "lease_lost", 409, Never, "The lease no longer holds its job: another attempt has it, or it has ended";
    JobNotQueued = "job_not_queued", 409, Never, "The job no longer waits in the queue";
    WorkerDraining = "worker_draining", 409, Never, "The worker is draining: it is given no more jobs";
    ArtifactMissing = "artifact_missing", 409, Never, "No artifact was uploaded under this lease";
    NoCoefficients = "no_coefficients", 409, Never, "The job has no coefficients: it has not succeeded";
    UploadLapsed = "upload_lapsed", 409, Later, "The upload was silent for too long and has been removed";
    UploadSealed = "upload_sealed", 409, Never, "The parts of the upload are being put together: it takes no more";
    DirectUploadUnsupported = "direct_upload_unsupported", 409, Never, "The object store signs no URLs: parts go through the server";
    PartBusy = "part_busy", 409, Later, "Another request is sending the same part";
    PartsMissing = "parts_missing", 409, Never, "Parts of the upload are missing";
    FilesMissing = "files_missing", 409, Never, "Files of the checkpoint have not been uploaded";
    SeveralFiles = "several_files", 409, Never, "The checkpoint has several files: each is read by its name";
    OffsetDiffers = "offset_differs", 409, Never, "The upload stands at another offset";
    TusVersion = "tus_version", 412, Never, "The request speaks another version of tus than the server";
    PreconditionFailed = "precondition_failed", 412, Never, "The thing is no longer in the version that `If-Match` names";
    InUse = "in_use", 409, Never, "Something else that is not deleted needs it";
    ArtifactDropped = "artifact_dropped", 410, Never, "The artifact's bytes were dropped: a rebuild brings them back";
    NotRebuildable = "not_rebuildable", 409, Never, "No merge of the candidates makes the artifact again bit for bit";
    NothingKept = "nothing_kept", 404, Never, "Nothing is kept beside the artifact: it has its bytes, or needs nothing but its candidates";
    Pinned = "pinned", 409, Never, "The checkpoint is pinned";
    NeedsDeleted = "needs_deleted", 409, Never, "Something that it needs is deleted: undelete that first";
    TooLarge = "too_large", 413, Never, "The body is larger than the server accepts";
    UnsupportedMediaType = "unsupported_media_type", 415, Never, "The body has another content type than the path takes";
    RangeNotSatisfiable = "range_not_satisfiable", 416, Never, "The range lies outside the file";
    InvalidField = "invalid_field", 422, Never, "A field is unknown, missing or has a value that makes no sense";
    AppendTooSmall = "append_too_small", 422, Never, "What was appended is less than a part of the upload";
    PartLength = "part_length", 422, Never, "A part is longer or shorter than its place in the file";
    ReceiverNotAllowed = "receiver_not_allowed", 422, Never, "The URL leads to an address that webhooks may not reach";
    InvalidFile = "invalid_file", 422, Never, "The file is not what its format says";
    InvalidFiles = "invalid_files", 422, Never, "The files do not make a checkpoint";
    LayoutDiffers = "layout_differs", 422, Never, "Tensors of two checkpoints differ in name, dtype or shape";
    NotFinite = "not_finite", 422, Never, "A tensor holds NaN or infinity";
    DigestDiffers = "digest_differs", 422, Never, "The bytes received have another digest than was announced";
    InvalidCandidates = "invalid_candidates", 422, Never, "The rule does not choose a usable set of candidates";
    IdempotencyKeyReused = "idempotency_key_reused", 422, Never, "The idempotency key was used for another request";
    Internal = "internal", 500, Later, "The server failed";
    StoreFull = "store_full", 507, Later, "The object store has no room";
    Unavailable = "unavailable", 503, Later, "The database or the object store cannot be reached";
}

/// The text of `docs/problems.md`.
pub fn documentation() -> String {
    use std::fmt::Write;
    let mut text = String::from(
        "# Problems\n\n\
         Every error is answered as `application/problem+json` (RFC 9457). `code` is stable; `type` is `/problems/<code>`.\n\
         `detail` says what happened this time and `errors` names the fields, tensors or candidates at fault.\n\
         Written from the table in `src/domain/problem_code.rs`; a test keeps the two equal.\n\n\
         | code | status | same request again? | meaning |\n|---|---|---|---|\n",
    );
    for code in ProblemCode::ALL {
        let retry = if code.retry() == Retry::Later { "may fare better" } else { "no" };
        writeln!(text, "| `{}` | {} | {retry} | {} |", code.as_str(), code.status(), code.title())
            .expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/problems.md");
        if std::env::var_os("BARYCENTER_REGENERATE").is_some() {
            std::fs::write(path, documentation()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), documentation(), "run `make regenerate`");
    }

    #[test]
    fn codes_are_unique() {
        let codes: std::collections::BTreeSet<&str> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), ProblemCode::ALL.len());
    }
}
