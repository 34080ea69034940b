//! Artifacts whose bytes are dropped and made again: a merge of the candidates, with the coefficients of the manifest, gives the same
//! file to the bit, but for the tensors that no merge makes, which are kept.
//!
//! What a dropped artifact is made from cannot go while it is there, in the way that holds for every artifact: its job needs
//! its set, the set its checkpoints. The control plane merges nothing: whoever rebuilds sends the bytes, and they are taken where
//! they have the digest.

use std::{collections::BTreeMap, slice::from_ref};

use barycenter_api::{Artifact, DroppedArtifact, JobSpec, Materialise, MergePlan, Report};
use barycenter_core::checkpoint::{Layout, TensorLayout, TensorSpec, Writer};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::PgConnection;

use super::{
    AppError, AppResult, artifacts,
    blobs::{self, PendingUpload},
    candidate_sets::find_candidate_set_with,
    gc, jobs,
    tensor_file::{Incoming, digest_differs, invalid_file},
    transaction::{begin, commit, connection},
};
use crate::{
    db::{self, DbError},
    domain::{artifact, blob::Blob, ids::ArtifactId, name::shown, problem_code::ProblemCode},
    state::AppState,
    storage::{ObjectKey, ObjectStream, Stored},
};

fn not_rebuildable(id: ArtifactId, why: &str) -> AppError {
    let detail = format!("the artifact {id} keeps its bytes, they could not be made again: {why}");
    AppError::refused(ProblemCode::NotRebuildable, detail)
}

/// How a merge makes an artifact again, as its worker told it.
pub(super) fn plan_of(artifact: &artifact::Artifact) -> AppResult<Option<MergePlan>> {
    let plan = artifact.merge_plan.clone().map(serde_json::from_value).transpose();
    Ok(plan.map_err(|_| DbError::inconsistent("artifacts", "merge_plan", artifact.artifact_id.0))?)
}

/// Drops an artifact's bytes; one that has none is left as it is.
pub async fn drop_artifact(state: &AppState, id: ArtifactId) -> AppResult<DroppedArtifact> {
    let mut conn = connection(state).await?;
    let artifact = artifacts::find(&mut conn, id).await?;
    drop(conn);
    if let Some(dropped_at) = artifact.dropped_at {
        let kept_bytes = artifact.kept.map_or(0, |kept| kept.size_bytes);
        return Ok(DroppedArtifact { dropped_at, freed_bytes: 0, kept_bytes });
    }
    let plan = check_rebuildable(state, id).await?;
    let kept = keep(state, &artifact, &plan).await?;
    let dropped = drop_bytes(state, &artifact, kept.as_ref()).await;
    if let Some((upload, _)) = &kept {
        blobs::discard(state, upload).await;
    }
    let dropped = dropped?;
    delete_freed(state, id).await;
    tracing::info!(artifact.id = %id, artifact.freed_bytes = dropped.freed_bytes, "dropped the bytes of an artifact");
    Ok(dropped)
}

/// Deletes what was freed; what the store does not delete now goes with the next collection.
async fn delete_freed(state: &AppState, id: ArtifactId) {
    if let Err(error) = gc::delete_objects(state).await {
        tracing::warn!(artifact.id = %id, error = ?error, "freed bytes of an artifact are left to the next collection");
    }
}

/// Refuses an artifact that no merge makes again, or whose candidates are not all in our own hands.
pub(super) async fn check_rebuildable(state: &AppState, id: ArtifactId) -> AppResult<MergePlan> {
    let mut conn = connection(state).await?;
    let artifact = artifacts::find(&mut conn, id).await?;
    let job = db::jobs::find(&mut conn, artifact.job_id).await?.ok_or_else(|| jobs::not_found(artifact.job_id))?;
    let Some(plan) = plan_of(&artifact)? else {
        let spec: JobSpec = jobs::document("spec", job.job_id.0, job.spec)?;
        let report = job.report.map(|report| jobs::document("report", job.job_id.0, report)).transpose()?;
        return Err(not_rebuildable(id, &why_no_plan(&artifact, &spec, report.as_ref())));
    };
    let set = find_candidate_set_with(&mut conn, job.candidate_set_id).await?;
    let mut needed = Vec::with_capacity(set.members.len());
    for member in set.members {
        let called = format!("the candidate {} at step {}", member.checkpoint_id, member.step);
        let files = db::files::list_checkpoint_files(&mut conn, member.checkpoint_id).await?;
        // Files of a checkpoint of several were looked at when it was created.
        let is_model = files.is_empty();
        if is_model {
            let blob = db::blobs::find_blob(&mut conn, &member.digest_blake3).await?;
            needed.push((called.clone(), blob, true));
        }
        for file in files {
            let called = format!("the file `{}` of {called}", shown(&file.name));
            needed.push((called, db::blobs::find_blob(&mut conn, &file.digest_blake3).await?, false));
        }
    }
    drop(conn);
    for (called, blob, is_model) in needed {
        let blob = in_our_hands(state, blob, &called).await?.map_err(|why| not_rebuildable(id, &why))?;
        if !is_model {
            continue;
        }
        match read_layout(state, &blob).await {
            Ok(layout) if layout.total_bytes == blob.size_bytes => {}
            Err(error @ AppError::Unavailable { .. }) => return Err(error),
            _ => return Err(not_rebuildable(id, &format!("{called} is not one safetensors file"))),
        }
    }
    Ok(plan)
}

/// The blob where its bytes are there and nobody else may delete them, or why not.
async fn in_our_hands(state: &AppState, blob: Option<Blob>, called: &str) -> AppResult<Result<Blob, String>> {
    let Some(blob) = blob else { return Ok(Err(format!("the bytes of {called} are gone"))) };
    let key = ObjectKey::from_stored(&blob.object_key);
    if key.is_registered() {
        return Ok(Err(format!("{called} was registered in place, where others may delete it")));
    }
    let is_there = state.store.holds(&key).await?;
    Ok(if is_there { Ok(blob) } else { Err(format!("the bytes of {called} are gone")) })
}

fn why_no_plan(artifact: &artifact::Artifact, spec: &JobSpec, report: Option<&Report>) -> String {
    if spec.lora.is_some() {
        return "its candidates are adapters, and the models that they make are not stored".to_owned();
    }
    if spec.materialise == Materialise::AsFitted && report.is_none_or(|report| report.chosen == "twa") {
        return "it holds the weights as they were fitted (`materialise: as_fitted`), which no merge makes".to_owned();
    }
    format!("its worker (version {}) did not tell how a merge makes it again", artifact.worker_version)
}

/// Stores the tensors that no merge makes as a file of their own; none where there are none.
async fn keep(
    state: &AppState,
    artifact: &artifact::Artifact,
    plan: &MergePlan,
) -> AppResult<Option<(PendingUpload, Stored)>> {
    let blob = artifacts::find_artifact_blob(state, artifact.artifact_id).await?;
    let layout = read_layout(state, &blob).await?;
    let tensor = |name: &str| layout.tensors.iter().find(|tensor| tensor.name == name);
    let unknown =
        plan.averaged.iter().map(|averaged| &averaged.tensor).chain(&plan.kept).find(|name| tensor(name).is_none());
    if let Some(name) = unknown {
        let why = format!("its worker told what becomes of the tensor `{}`, which it does not have", shown(name));
        return Err(not_rebuildable(artifact.artifact_id, &why));
    }
    let kept: Vec<TensorLayout> = layout.tensors.iter().filter(|t| plan.kept.contains(&t.name)).cloned().collect();
    if kept.is_empty() {
        return Ok(None);
    }
    let body = part_of_file(state, &blob, layout.header_bytes, kept)?;
    let upload = blobs::begin_upload(state).await?;
    match blobs::receive(state, &upload, body, blob.size_bytes.saturating_mul(2)).await {
        Ok(stored) => Ok(Some((upload, stored))),
        Err(error) => {
            blobs::discard(state, &upload).await;
            Err(error)
        }
    }
}

/// These tensors of a file as a safetensors file.
fn part_of_file(
    state: &AppState,
    blob: &Blob,
    header_bytes: u64,
    tensors: Vec<TensorLayout>,
) -> AppResult<blobs::ByteStream> {
    let mut head = Vec::new();
    Writer::new(&mut head, tensors.iter().map(TensorSpec::from).collect(), &BTreeMap::new())
        .map_err(AppError::internal)?;
    let (state, blob) = (state.clone(), blob.clone());
    let data = stream::iter(tensors).then(move |tensor| {
        let (state, blob) = (state.clone(), blob.clone());
        let range = header_bytes + tensor.range.start..header_bytes + tensor.range.end;
        async move { blobs::open_range(&state, &blob, range).await.map(|bytes| bytes.map_err(AppError::from)) }
    });
    let head = stream::once(std::future::ready(Ok(Bytes::from(head))));
    Ok(head.chain(data.try_flatten()).boxed())
}

/// The header of a stored file, which was checked when it came.
async fn read_layout(state: &AppState, blob: &Blob) -> AppResult<Layout> {
    let first = read(blobs::open_range(state, blob, 0..8.min(blob.size_bytes)).await?).await?;
    let length = first.first_chunk::<8>().map(|first| u64::from_le_bytes(*first));
    let end = length.and_then(|length| length.checked_add(8)).filter(|end| *end <= blob.size_bytes);
    let end = end.ok_or_else(|| AppError::internal("a stored safetensors file has no header"))?;
    let header = read(blobs::open_range(state, blob, 8..end).await?).await?;
    Layout::parse(&header).map_err(AppError::internal)
}

async fn read(mut stream: ObjectStream) -> AppResult<BytesMut> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// Takes the bytes from an artifact that no alias names, in one transaction with what is kept of them.
async fn drop_bytes(
    state: &AppState,
    artifact: &artifact::Artifact,
    kept: Option<&(PendingUpload, Stored)>,
) -> AppResult<DroppedArtifact> {
    let (id, now) = (artifact.artifact_id, state.clock.now());
    let mut transaction = begin(state).await?;
    db::runs::lock_run(&mut transaction, artifact.run_id).await?;
    if let Some(user) = db::deletion::find_user_of_artifact(&mut transaction, id).await? {
        return Err(AppError::refused(ProblemCode::InUse, format!("the artifact {id} is needed by {user}")));
    }
    let kept = match kept {
        Some((upload, stored)) => Some(blobs::commit_blob(&mut transaction, upload, stored, now).await?),
        None => None,
    };
    let kept_blake3 = kept.as_ref().map(|kept| kept.digest_blake3.as_str());
    if !db::artifacts::mark_dropped(&mut transaction, id, kept_blake3, now).await? {
        // Deleted meanwhile, or dropped by another request.
        let dropped_at = artifacts::find(&mut transaction, id).await?.dropped_at.unwrap_or(now);
        return Ok(DroppedArtifact { dropped_at, freed_bytes: 0, kept_bytes: 0 });
    }
    let (_, freed_bytes) = db::gc::free_blobs(&mut transaction, from_ref(&artifact.digest_blake3), now).await?;
    commit(transaction).await?;
    Ok(DroppedArtifact { dropped_at: now, freed_bytes, kept_bytes: kept.map_or(0, |kept| kept.size_bytes) })
}

/// What was kept of a dropped artifact.
pub async fn find_kept_blob(state: &AppState, id: ArtifactId) -> AppResult<Blob> {
    let mut conn = connection(state).await?;
    let artifact = artifacts::find(&mut conn, id).await?;
    let kept = artifact.kept.ok_or_else(|| {
        AppError::refused(ProblemCode::NothingKept, format!("nothing is kept beside the artifact {id}"))
    })?;
    let blob = db::blobs::find_blob(&mut conn, &kept.digest_blake3).await?;
    Ok(blob.ok_or_else(|| DbError::inconsistent("artifacts", "kept_blake3", id.0))?)
}

/// Takes the bytes of an artifact back: those of its digest and no others. One that has them stays as it is.
pub async fn restore_artifact(state: &AppState, id: ArtifactId, file: Incoming) -> AppResult<Artifact> {
    file.check_announcement(state.config.uploads.max_upload_bytes)?;
    let mut conn = connection(state).await?;
    let artifact = artifacts::find(&mut conn, id).await?;
    drop(conn);
    if let Some(length) = file.content_length.filter(|length| *length != artifact.size_bytes) {
        return Err(invalid_file(format!(
            "the artifact {id} has {} bytes, {length} are announced",
            artifact.size_bytes
        )));
    }
    let expected = Incoming { digest_blake3: Some(artifact.digest_blake3.clone()), ..file };
    let (upload, stored) = expected.read_header(state).await?.store(state).await?;
    let restored = give_back(state, &artifact, &upload, &stored).await;
    blobs::discard(state, &upload).await;
    let restored = restored?;
    // What was kept while its bytes were gone.
    delete_freed(state, id).await;
    Ok(restored)
}

async fn give_back(
    state: &AppState,
    artifact: &artifact::Artifact,
    upload: &PendingUpload,
    stored: &Stored,
) -> AppResult<Artifact> {
    let (id, now) = (artifact.artifact_id, state.clock.now());
    if stored.digest_blake3 != artifact.digest_blake3 {
        return Err(digest_differs(&artifact.digest_blake3, &stored.digest_blake3));
    }
    let mut transaction = begin(state).await?;
    db::runs::lock_run(&mut transaction, artifact.run_id).await?;
    blobs::commit_blob(&mut transaction, upload, stored, now).await?;
    let kept = artifacts::find(&mut transaction, id).await?.kept;
    if !db::artifacts::mark_rebuilt(&mut transaction, id).await? {
        return Err(artifacts::not_found(id));
    }
    if let Some(kept) = kept {
        db::gc::free_blobs(&mut transaction, &[kept.digest_blake3], now).await?;
    }
    let restored = find_wire(&mut transaction, id).await?;
    commit(transaction).await?;
    Ok(restored)
}

async fn find_wire(conn: &mut PgConnection, id: ArtifactId) -> AppResult<Artifact> {
    Ok(artifacts::to_wire(&artifacts::find(conn, id).await?))
}

/// Drops the bytes of every artifact whose time to do so has come; one that cannot be rebuilt keeps them, and the log says why.
pub(super) async fn drop_due(state: &AppState) -> AppResult<()> {
    let mut conn = connection(state).await?;
    let due = db::artifacts::list_due_to_drop(&mut conn, state.clock.now()).await?;
    drop(conn);
    for id in due {
        if let Err(error) = drop_artifact(state, id).await {
            tracing::warn!(artifact.id = %id, error = ?error, "an artifact whose time had come keeps its bytes");
        }
    }
    Ok(())
}
