//! Where an artifact comes from, and what it takes to make it again.

use barycenter_api::{JobSpec, Manifest, ManifestCandidate, ManifestDataset, MethodSpec, Start};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AppError, AppResult, artifacts, candidate_sets::find_candidate_set_with, drops, history, jobs,
    transaction::connection,
};
use crate::{
    db::{self, DbError},
    domain::{
        artifact::Artifact,
        candidate_set::{Candidate, CandidateSet},
        ids::ArtifactId,
    },
    state::AppState,
};

/// An artifact with everything that it rests on.
pub struct Lineage {
    /// The artifact.
    pub artifact: Artifact,
    /// The set, with the members in the order of the coefficients.
    pub candidate_set: CandidateSet,
    /// The job whose coefficients its job started from.
    pub start_job_id: Option<Uuid>,
    /// The base model of adapters.
    pub base: Option<ManifestCandidate>,
    /// The datasets.
    pub datasets: Vec<ManifestDataset>,
    spec: JobSpec,
    report: serde_json::Value,
}

/// Where an artifact comes from.
pub async fn find_lineage(state: &AppState, artifact_id: ArtifactId) -> AppResult<Lineage> {
    let mut conn = connection(state).await?;
    read(&mut conn, artifact_id).await
}

async fn read(conn: &mut PgConnection, artifact_id: ArtifactId) -> AppResult<Lineage> {
    let artifact = artifacts::find(conn, artifact_id).await?;
    let job = db::jobs::find(conn, artifact.job_id).await?.ok_or_else(|| jobs::not_found(artifact.job_id))?;
    let spec: JobSpec = jobs::document("spec", job.job_id.0, job.spec)?;
    let report = job.report.ok_or_else(|| DbError::inconsistent("jobs", "report", job.job_id.0))?;
    let datasets = db::job_inputs::list_job_datasets(conn, job.job_id).await?;
    Ok(Lineage {
        candidate_set: find_candidate_set_with(conn, job.candidate_set_id).await?,
        start_job_id: start_of(&spec),
        base: find_base(conn, &spec).await?,
        datasets: datasets
            .into_iter()
            .map(|row| ManifestDataset {
                named: row.named,
                dataset_id: row.dataset_id.0,
                digest_blake3: row.digest_blake3,
            })
            .collect(),
        artifact,
        spec,
        report,
    })
}

fn start_of(spec: &JobSpec) -> Option<Uuid> {
    match &spec.method {
        MethodSpec::Twa(twa) => match twa.start {
            Start::Job(earlier) => Some(earlier),
            Start::Uniform | Start::Best => None,
        },
        _ => None,
    }
}

async fn find_base(conn: &mut PgConnection, spec: &JobSpec) -> AppResult<Option<ManifestCandidate>> {
    let Some(id) = spec.lora.as_ref().map(|lora| lora.base_checkpoint_id) else { return Ok(None) };
    let base = db::checkpoints::find_checkpoint(conn, id.into()).await?;
    let base = base.ok_or_else(|| AppError::internal(format!("the base checkpoint {id} is gone")))?;
    Ok(Some(ManifestCandidate { checkpoint_id: id, step: base.step, digest_blake3: base.blob.digest_blake3 }))
}

/// Everything needed to make an artifact again.
pub async fn find_manifest(state: &AppState, artifact_id: ArtifactId) -> AppResult<Manifest> {
    let mut conn = connection(state).await?;
    let Lineage { artifact, candidate_set, base, datasets, spec, report, .. } = read(&mut conn, artifact_id).await?;
    let coefficients = history::read_coefficients(&mut conn, artifact.job_id, &candidate_set.members).await?;
    Ok(Manifest {
        artifact: artifacts::to_wire(&artifact),
        candidate_set_id: candidate_set.candidate_set_id.0,
        candidates: candidate_set.members.into_iter().map(candidate).collect(),
        base,
        datasets,
        coefficients,
        merge: drops::plan_of(&artifact)?,
        spec,
        report: jobs::document("report", artifact.job_id.0, report)?,
        worker_version: artifact.worker_version,
    })
}

fn candidate(member: Candidate) -> ManifestCandidate {
    ManifestCandidate { checkpoint_id: member.checkpoint_id.0, step: member.step, digest_blake3: member.digest_blake3 }
}
