//! Datasets.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    blob::Blob,
    dataset::{Dataset, DatasetKind, DatasetShape, Normalisation},
    name::Reference,
    page::PageRequest,
};

struct DatasetRow {
    dataset_id: Uuid,
    name: String,
    kind: String,
    target_count: Option<i64>,
    sample_count: i64,
    input_shape: Vec<i64>,
    input_dtype: String,
    normalisation: Json<Normalisation>,
    digest_blake3: String,
    size_bytes: i64,
    object_key: String,
    created_at: DateTime<Utc>,
}

impl TryFrom<DatasetRow> for Dataset {
    type Error = DbError;

    fn try_from(row: DatasetRow) -> DbResult<Self> {
        let count = |column, value: i64| {
            u64::try_from(value).map_err(|_| DbError::inconsistent("datasets", column, row.dataset_id))
        };
        let target_count = row.target_count.map(|targets| count("target_count", targets)).transpose()?;
        let kind = DatasetKind::from_parts(&row.kind, target_count);
        let input_shape = row.input_shape.iter().map(|extent| count("input_shape", *extent));
        Ok(Self {
            dataset_id: row.dataset_id.into(),
            shape: DatasetShape {
                kind: kind.ok_or_else(|| DbError::inconsistent("datasets", "kind", row.dataset_id))?,
                sample_count: count("sample_count", row.sample_count)?,
                input_shape: input_shape.collect::<DbResult<_>>()?,
                input_dtype: row.input_dtype,
            },
            name: row.name,
            normalisation: row.normalisation.0,
            blob: Blob {
                digest_blake3: row.digest_blake3,
                size_bytes: count("size_bytes", row.size_bytes)?,
                object_key: row.object_key,
            },
            created_at: row.created_at,
        })
    }
}

/// Makes whoever else would take this name wait until the transaction ends.
pub async fn lock_name(conn: &mut PgConnection, name: &str) -> DbResult<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('dataset ' || $1, 0))", name).execute(conn).await?;
    Ok(())
}

/// Inserts a dataset; false where its name is taken.
pub async fn insert_dataset(conn: &mut PgConnection, dataset: &Dataset) -> DbResult<bool> {
    let input_shape: Vec<i64> = dataset.shape.input_shape.iter().map(|extent| extent.cast_signed()).collect();
    let result = sqlx::query!(
        "insert into datasets
             (dataset_id, name, kind, target_count, sample_count, input_shape, input_dtype, normalisation, digest_blake3,
              created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict on constraint datasets_name_key do nothing",
        dataset.dataset_id.0,
        dataset.name,
        dataset.shape.kind.name(),
        dataset.shape.kind.target_count().map(u64::cast_signed),
        dataset.shape.sample_count.cast_signed(),
        &input_shape,
        dataset.shape.input_dtype,
        Json(&dataset.normalisation) as _,
        dataset.blob.digest_blake3,
        dataset.created_at,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The dataset of this id or name.
pub async fn find_dataset(conn: &mut PgConnection, reference: Reference<'_>) -> DbResult<Option<Dataset>> {
    let row = sqlx::query_as!(
        DatasetRow,
        r#"select dataset_id, name, kind, target_count, sample_count, input_shape, input_dtype,
               normalisation as "normalisation: _", digest_blake3, size_bytes, object_key, datasets.created_at
           from datasets join blobs using (digest_blake3) where dataset_id = $1 or name = $2"#,
        reference.id(),
        reference.name(),
    )
    .fetch_optional(conn)
    .await?;
    row.map(Dataset::try_from).transpose()
}

/// Rows of a page of datasets, newest first.
pub async fn list_datasets(conn: &mut PgConnection, page: PageRequest) -> DbResult<Vec<Dataset>> {
    let rows = sqlx::query_as!(
        DatasetRow,
        r#"select dataset_id, name, kind, target_count, sample_count, input_shape, input_dtype,
               normalisation as "normalisation: _", digest_blake3, size_bytes, object_key, datasets.created_at
           from datasets join blobs using (digest_blake3)
           where $1::uuid is null or dataset_id < $1 order by dataset_id desc limit $2"#,
        page.before,
        page.limit(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Dataset::try_from).collect()
}
