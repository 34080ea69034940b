//! SQL of what a job reads: candidates with their layout, and datasets.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::ids::{CandidateSetId, CheckpointId, DatasetId, JobId, RunId};

/// What a spec is checked against, of its candidate set.
#[derive(Clone, Debug)]
pub struct CandidateSetRow {
    /// The run of its members.
    pub run_id: RunId,
    /// Names, dtypes and shapes of the tensors.
    pub tensors: Value,
    /// Number of members.
    pub candidate_count: usize,
}

/// A candidate set with the layout of its members.
pub async fn find_candidate_set(
    connection: &mut PgConnection,
    candidate_set_id: CandidateSetId,
) -> DbResult<Option<CandidateSetRow>> {
    let row = sqlx::query!(
        r#"
        select
            run_id, tensors,
            (select count(*) from candidate_set_members as members
             where members.candidate_set_id = candidate_sets.candidate_set_id) as "candidate_count!"
        from candidate_sets
        join layouts using (layout_blake3)
        where candidate_set_id = $1
        "#,
        candidate_set_id.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| CandidateSetRow {
        run_id: row.run_id.into(),
        tensors: row.tensors,
        candidate_count: row.candidate_count.unsigned_abs() as usize,
    }))
}

/// A candidate as its file is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateRow {
    /// The checkpoint.
    pub checkpoint_id: CheckpointId,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
}

/// The candidates of a set, in the order of the coefficients.
pub async fn list_candidates(
    connection: &mut PgConnection,
    candidate_set_id: CandidateSetId,
) -> DbResult<Vec<CandidateRow>> {
    let rows = sqlx::query!(
        r#"
        select checkpoint_id, step, size_bytes, digest_blake3
        from candidate_set_members as members
        join checkpoints using (checkpoint_id)
        join blobs using (digest_blake3)
        where members.candidate_set_id = $1
        order by position
        "#,
        candidate_set_id.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| CandidateRow {
            checkpoint_id: row.checkpoint_id.into(),
            step: row.step,
            size_bytes: row.size_bytes.unsigned_abs(),
            digest_blake3: row.digest_blake3,
        })
        .collect())
}

/// What a spec is checked against, of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetRow {
    /// The dataset.
    pub dataset_id: DatasetId,
    /// Number of samples.
    pub sample_count: u64,
    /// Shape of one input.
    pub input_shape: Vec<u64>,
    /// Size of its file.
    pub size_bytes: u64,
}

/// A dataset by its id or its name; a word that is both is the id.
pub async fn find_dataset(connection: &mut PgConnection, named: &str) -> DbResult<Option<DatasetRow>> {
    let row = sqlx::query!(
        r#"
        select dataset_id, sample_count, input_shape, size_bytes
        from datasets
        join blobs using (digest_blake3)
        where dataset_id = $1 or name = $2
        order by (dataset_id = $1) is true desc
        limit 1
        "#,
        Uuid::try_parse(named).ok(),
        named,
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let shape = row.input_shape.into_iter().map(u64::try_from).collect::<Result<_, _>>();
        Ok(DatasetRow {
            dataset_id: row.dataset_id.into(),
            sample_count: row.sample_count.unsigned_abs(),
            input_shape: shape.map_err(|_| DbError::inconsistent("datasets", "input_shape", row.dataset_id))?,
            size_bytes: row.size_bytes.unsigned_abs(),
        })
    })
    .transpose()
}

/// A dataset as its file is fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDatasetRow {
    /// The dataset.
    pub dataset_id: DatasetId,
    /// The word by which the spec names it.
    pub named: String,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
    /// How stored inputs become what the network sees.
    pub normalisation: Value,
}

/// The datasets that a job's spec names, pinned when it was submitted.
pub async fn list_job_datasets(connection: &mut PgConnection, job_id: JobId) -> DbResult<Vec<JobDatasetRow>> {
    let rows = sqlx::query!(
        r#"
        select dataset_id, named, size_bytes, digest_blake3, normalisation
        from job_datasets
        join datasets using (dataset_id)
        join blobs using (digest_blake3)
        where job_id = $1
        order by named
        "#,
        job_id.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| JobDatasetRow {
            dataset_id: row.dataset_id.into(),
            named: row.named,
            size_bytes: row.size_bytes.unsigned_abs(),
            digest_blake3: row.digest_blake3,
            normalisation: row.normalisation,
        })
        .collect())
}

/// The run with this id or name.
pub async fn find_run_id(connection: &mut PgConnection, run: &str) -> DbResult<Option<RunId>> {
    let run_id = sqlx::query_scalar!(
        "select run_id from runs where run_id = $1 or name = $2 limit 1",
        Uuid::try_parse(run).ok(),
        run
    )
    .fetch_optional(connection)
    .await?;
    Ok(run_id.map(RunId))
}

/// Number of candidates of a job.
pub async fn count_candidates(connection: &mut PgConnection, job_id: JobId) -> DbResult<usize> {
    let count = sqlx::query_scalar!(
        r#"
        select count(*) as "count!"
        from jobs
        join candidate_set_members using (candidate_set_id)
        where job_id = $1
        "#,
        job_id.0
    )
    .fetch_one(connection)
    .await?;
    Ok(count.unsigned_abs() as usize)
}
