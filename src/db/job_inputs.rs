//! SQL of what a job reads.

use serde_json::Value;
use sqlx::PgConnection;

use super::DbResult;
use crate::domain::ids::{DatasetId, JobId};

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
