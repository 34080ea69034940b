//! Beginning an upload in parts, or finding it again.

use barycenter_api::tree::{MAX_PARTS, PartPlan, usual_part_bytes};
use sqlx::PgConnection;

use super::find_with;
use crate::{
    app::{
        AppError, AppResult,
        blobs::{self, PendingUpload},
        checkpoints, datasets, files,
        idempotency::{self, IdempotentRequest, Reply},
        runs::find_run_with,
        tensor_file::{is_digest, no_digest},
        transaction::{begin, commit, connection},
    },
    config::{MAX_PART_BYTES, UploadConfig},
    db,
    domain::{
        checkpoint::Reported,
        ids::UploadId,
        name::check_name,
        problem_code::ProblemCode,
        upload::{MultipartUpload, ToldNormalisation, UploadTarget},
    },
    state::AppState,
};

/// An upload to begin.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// What the file is to become.
    pub target: NewTarget,
    /// Size of the file.
    pub size_bytes: u64,
    /// Size of every part but the last; chosen unless told.
    pub part_size_bytes: Option<u64>,
    /// Digest of the file; without it the upload cannot be found again but by its id.
    pub digest_blake3: Option<String>,
}

/// What a file is to become, with its run as the caller names it.
#[derive(Clone, Debug)]
pub enum NewTarget {
    /// A checkpoint.
    Checkpoint {
        /// The run, by id or name.
        run: String,
        /// The step.
        step: i64,
        /// What training reports.
        reported: Reported,
    },
    /// A file for a checkpoint that is made once all its files are there.
    File {
        /// The run, by id or name.
        run: String,
    },
    /// A dataset.
    Dataset {
        /// Unique name.
        name: String,
        /// What is told of its inputs.
        told: ToldNormalisation,
    },
}

/// What asking for an upload came to.
#[derive(Clone, Debug)]
pub enum Begun {
    /// It is new.
    Created(MultipartUpload),
    /// It was open, or the file is there already.
    Found(MultipartUpload),
}

impl NewUpload {
    fn check(&self, limits: &UploadConfig) -> AppResult<PartPlan> {
        if self.digest_blake3.as_deref().is_some_and(|digest| !is_digest(digest)) {
            return Err(no_digest("digest_blake3"));
        }
        match &self.target {
            NewTarget::Checkpoint { step, .. } if *step < 0 => {
                return Err(AppError::invalid_field("target.step", "must not be below 0"));
            }
            NewTarget::Checkpoint { .. } | NewTarget::File { .. } => {}
            NewTarget::Dataset { name, .. } => {
                check_name(name).map_err(|detail| AppError::invalid_field("target.name", detail))?;
            }
        }
        if self.size_bytes > limits.max_upload_bytes {
            return Err(blobs::too_large(limits.max_upload_bytes));
        }
        let smallest = limits.min_part_bytes;
        let part = self.part_size_bytes.unwrap_or_else(|| usual_part_bytes(self.size_bytes).max(smallest));
        if !(smallest..=MAX_PART_BYTES).contains(&part) || !part.is_power_of_two() {
            let detail = format!("must be a power of two from {smallest} to {MAX_PART_BYTES}, not {part}");
            return Err(AppError::invalid_field("part_size_bytes", detail));
        }
        let plan = PartPlan::new(self.size_bytes, part)
            .ok_or_else(|| AppError::invalid_field("size_bytes", "must be above 0"))?;
        if plan.part_count() > MAX_PARTS {
            let detail = format!("cuts the file into {} parts; at most {MAX_PARTS} are taken", plan.part_count());
            return Err(AppError::invalid_field("part_size_bytes", detail));
        }
        Ok(plan)
    }
}

/// Begins an upload, or finds the one that is open for the same bytes at the same place; `render` writes the reply that an
/// idempotency key repeats.
pub async fn create_upload(
    state: &AppState,
    new: NewUpload,
    request: Option<&IdempotentRequest>,
    render: impl Fn(Begun) -> AppResult<Reply>,
) -> AppResult<Reply> {
    let plan = new.check(&state.config.uploads)?;
    let mut conn = connection(state).await?;
    let target = resolve(&mut conn, new.target).await?;
    drop(conn);
    let mut upload = MultipartUpload {
        upload_id: UploadId(state.clock.new_id()),
        target,
        size_bytes: plan.size_bytes(),
        part_size_bytes: plan.part_size_bytes(),
        digest_blake3: new.digest_blake3,
        header_blake3: None,
        direct: false,
        place: None,
        received_parts: 0,
        received_bytes: 0,
        created_at: state.clock.now(),
        sealed_at: None,
        outcome_id: None,
    };
    if let Some(reply) = answer_known(state, &mut upload, request, &render).await? {
        return Ok(reply);
    }
    match open(state, &mut upload, request, &render).await? {
        Some(reply) => Ok(reply),
        // Another request has begun the same upload meanwhile.
        None => answer_known(state, &mut upload, request, &render).await?.ok_or_else(|| {
            let detail = "an earlier upload of the same file is being removed; ask again";
            AppError::refused(ProblemCode::UploadLapsed, detail)
        }),
    }
}

async fn resolve(conn: &mut PgConnection, target: NewTarget) -> AppResult<UploadTarget> {
    Ok(match target {
        NewTarget::Checkpoint { run, step, reported } => {
            UploadTarget::Checkpoint { run_id: find_run_with(conn, &run).await?.run_id, step, reported }
        }
        NewTarget::File { run } => UploadTarget::File { run_id: find_run_with(conn, &run).await?.run_id },
        NewTarget::Dataset { name, told } => UploadTarget::Dataset { name, told },
    })
}

/// The reply where no new upload is needed: the request was answered before, the upload is open, or the file is there.
async fn answer_known(
    state: &AppState,
    upload: &mut MultipartUpload,
    request: Option<&IdempotentRequest>,
    render: &impl Fn(Begun) -> AppResult<Reply>,
) -> AppResult<Option<Reply>> {
    let mut transaction = begin(state).await?;
    if let Some(reply) = idempotency::replay(&mut transaction, request, upload.created_at).await? {
        return Ok(Some(reply));
    }
    let Some(digest) = upload.digest_blake3.clone() else {
        return Ok(None);
    };
    upload.outcome_id = find_outcome(&mut transaction, &upload.target, &digest).await?;
    let known = if upload.outcome_id.is_some() {
        db::multipart_uploads::insert(&mut transaction, upload).await?;
        Some(upload.upload_id)
    } else {
        db::multipart_uploads::find_open(&mut transaction, &upload.target, &digest).await?
    };
    let Some(upload_id) = known else {
        return Ok(None);
    };
    let found = find_with(&mut transaction, upload_id).await?;
    if found.size_bytes != upload.size_bytes {
        let detail = format!("an upload of the same digest is open with {} bytes", found.size_bytes);
        return Err(AppError::invalid_field("size_bytes", detail));
    }
    let reply = render(Begun::Found(found))?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    Ok(Some(reply))
}

/// What stands at the place already, where it has the same bytes; refuses where it has others.
async fn find_outcome(conn: &mut PgConnection, target: &UploadTarget, digest: &str) -> AppResult<Option<uuid::Uuid>> {
    match target {
        UploadTarget::Checkpoint { run_id, step, .. } => {
            let existing = checkpoints::find_same(conn, *run_id, *step, digest).await?;
            Ok(existing.map(|checkpoint| checkpoint.checkpoint_id.0))
        }
        UploadTarget::File { run_id } => Ok(files::find_same(conn, *run_id, digest, true).await?.map(|_| run_id.0)),
        // What is told beside the file may differ, which the file's own header decides: that is for the end.
        UploadTarget::Dataset { told, .. } if *told != ToldNormalisation::default() => Ok(None),
        UploadTarget::Dataset { name, .. } => {
            Ok(datasets::find_same(conn, name, digest).await?.map(|dataset| dataset.dataset_id.0))
        }
    }
}

/// Opens an upload; `None`, with nothing left behind, where one for the same bytes at the same place is open.
async fn open(
    state: &AppState,
    upload: &mut MultipartUpload,
    request: Option<&IdempotentRequest>,
    render: &impl Fn(Begun) -> AppResult<Reply>,
) -> AppResult<Option<Reply>> {
    let pending = blobs::begin_upload(state).await?;
    upload.upload_id = pending.upload_id;
    let opened = state.store.create_parts(&pending.key, upload.size_bytes).await;
    let noted = match &opened {
        Ok(store_upload_id) => note(state, upload, store_upload_id, request, render).await,
        Err(_) => Ok(None),
    };
    if !matches!(noted, Ok(Some(_))) {
        give_back(state, &pending, opened.as_deref().ok()).await;
    }
    opened?;
    noted
}

async fn note(
    state: &AppState,
    upload: &MultipartUpload,
    store_upload_id: &str,
    request: Option<&IdempotentRequest>,
    render: &impl Fn(Begun) -> AppResult<Reply>,
) -> AppResult<Option<Reply>> {
    let mut transaction = begin(state).await?;
    if idempotency::replay(&mut transaction, request, upload.created_at).await?.is_some() {
        return Ok(None);
    }
    let inserted = db::multipart_uploads::insert(&mut transaction, upload).await?;
    let alive = db::multipart_uploads::mark_opened(&mut transaction, upload.upload_id, store_upload_id).await?;
    if !inserted || !alive {
        return Ok(None);
    }
    let reply = render(Begun::Created(find_with(&mut transaction, upload.upload_id).await?))?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    Ok(Some(reply))
}

/// Gives back what was opened in the store and not noted; what cannot be given back now is left to the reaper.
async fn give_back(state: &AppState, pending: &PendingUpload, store_upload_id: Option<&str>) {
    if let Some(store_upload_id) = store_upload_id
        && let Err(error) = state.store.abort_parts(&pending.key, store_upload_id).await
    {
        tracing::warn!(upload.id = %pending.upload_id, error = ?error, "parts could not be given back");
    }
    blobs::discard(state, pending).await;
}
