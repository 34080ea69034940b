//! An artifact with what makes its folder loadable: the configuration and tokeniser of the checkpoint that it resembles.
//!
//! Nothing is copied. An artifact needs its job, the job its set and its base model, and these their checkpoints, so the files
//! stay as long as the artifact does.

use barycenter_api::JobSpec;
use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    artifacts::{self, find_artifact_blob},
    candidate_sets::find_candidate_set_with,
    checkpoint_files::ListedFile,
    jobs,
    transaction::connection,
};
use crate::{
    db::{self, DbError},
    domain::{
        artifact::Artifact,
        blob::Blob,
        checkpoint_files::{FileKind, NamedFile, SINGLE},
        ids::{ArtifactId, CheckpointId},
        name::shown,
        problem_code::ProblemCode,
    },
    state::AppState,
};

/// The averaged model, and the files beside the weights of its reference: the last candidate, or the base model of adapters.
pub async fn list_files(state: &AppState, id: ArtifactId) -> AppResult<Vec<ListedFile>> {
    let mut conn = connection(state).await?;
    let artifact = artifacts::find(&mut conn, id).await?;
    let reference = find_reference(&mut conn, &artifact).await?;
    let beside = db::files::list_checkpoint_files(&mut conn, reference).await?;
    let model =
        NamedFile { name: SINGLE.to_owned(), digest_blake3: artifact.digest_blake3, size_bytes: artifact.size_bytes };
    let listed = |file: NamedFile| ListedFile { kind: FileKind::of(&file.name), file };
    let mut files: Vec<ListedFile> =
        beside.into_iter().map(listed).filter(|file| file.kind == FileKind::Other).chain([listed(model)]).collect();
    files.sort_by(|a, b| a.file.name.cmp(&b.file.name));
    Ok(files)
}

/// The bytes of one of these files.
pub async fn find_file(state: &AppState, id: ArtifactId, name: &str) -> AppResult<Blob> {
    if name == SINGLE {
        return find_artifact_blob(state, id).await;
    }
    let mut conn = connection(state).await?;
    let artifact = artifacts::find(&mut conn, id).await?;
    let found = match FileKind::of(name) {
        FileKind::Other => {
            let reference = find_reference(&mut conn, &artifact).await?;
            db::files::find_checkpoint_file(&mut conn, reference, name).await?
        }
        FileKind::Weights | FileKind::Index => None,
    };
    found.ok_or_else(|| {
        AppError::refused(ProblemCode::FileNotFound, format!("the artifact has no file `{}`", shown(name)))
    })
}

/// The checkpoint whose files go with the artifact: `barycenter average` takes them from the last one too.
async fn find_reference(conn: &mut PgConnection, artifact: &Artifact) -> AppResult<CheckpointId> {
    let job = db::jobs::find(conn, artifact.job_id).await?.ok_or_else(|| jobs::not_found(artifact.job_id))?;
    let spec: JobSpec = jobs::document("spec", job.job_id.0, job.spec)?;
    if let Some(lora) = spec.lora {
        // Adapters were put into their base model, and that is what the artifact is.
        return Ok(lora.base_checkpoint_id.into());
    }
    let set = find_candidate_set_with(conn, job.candidate_set_id).await?;
    let last = set.members.last().map(|member| member.checkpoint_id);
    Ok(last.ok_or_else(|| DbError::inconsistent("candidate_sets", "members", job.candidate_set_id.0))?)
}
