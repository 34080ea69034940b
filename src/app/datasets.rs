//! Datasets.

use barycenter_core::{
    checkpoint::Layout,
    data::{self, DatasetHeader},
};
use sqlx::PgConnection;

use super::{
    AppError, AppResult, Incoming, PutOutcome,
    blobs::{self, PendingUpload},
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        dataset::{Dataset, DatasetKind, DatasetShape, InvalidNormalisation, Normalisation},
        ids::DatasetId,
        name::{Reference, check_name, shown},
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
    },
    state::AppState,
    storage::Stored,
};

/// A dataset's name and what is told beside its file, which comes before what the file says.
#[derive(Clone, Debug)]
pub struct NewDataset {
    /// Unique name.
    pub name: String,
    /// Factor.
    pub scale: Option<String>,
    /// Means.
    pub mean: Option<String>,
    /// Standard deviations.
    pub std: Option<String>,
}

impl From<InvalidNormalisation> for AppError {
    fn from(invalid: InvalidNormalisation) -> Self {
        Self::invalid_field(invalid.field, invalid.detail)
    }
}

impl NewDataset {
    fn normalisation(&self, layout: &Layout, shape: &DatasetShape) -> AppResult<Normalisation> {
        let told = |given: &Option<String>, key: &str| given.clone().or_else(|| layout.metadata.get(key).cloned());
        let (scale, mean, std) = (told(&self.scale, "scale"), told(&self.mean, "mean"), told(&self.std, "std"));
        if shape.kind == DatasetKind::Tokens {
            let given = [("scale", scale), ("mean", mean), ("std", std)].into_iter().find(|(_, value)| value.is_some());
            return match given {
                Some((field, _)) => Err(AppError::invalid_field(field, "is for inputs; tokens are not normalised")),
                None => Ok(Normalisation::none()),
            };
        }
        let channels = shape.input_shape.first().copied().unwrap_or(1);
        Ok(Normalisation::parse(scale.as_deref(), mean.as_deref(), std.as_deref(), channels)?)
    }
}

/// Stores a dataset, refusing as early as each fault can be known; a refused file leaves nothing behind.
pub async fn accept_dataset(state: &AppState, new: NewDataset, incoming: Incoming) -> AppResult<PutOutcome<Dataset>> {
    check_name(&new.name).map_err(|detail| AppError::invalid_field("dataset", detail))?;
    incoming.check_announcement(state.config.uploads.max_upload_bytes)?;
    let announced = incoming.digest_blake3.clone();
    let existing = find_by_name(state, &new.name).await?;
    // A large file that is certain to be refused is not worth its transfer.
    let certain = existing.as_ref().zip(announced).is_some_and(|(known, digest)| known.blob.digest_blake3 != digest);
    if certain {
        return Err(differs(&new.name, "has other bytes"));
    }
    let file = incoming.read_header(state).await?;
    let checked = CheckedDataset::check(new, &file.layout)?;
    let (upload, stored) = file.store(state).await?;
    let outcome = publish(state, checked, &upload, &stored).await;
    blobs::discard(state, &upload).await;
    if matches!(outcome, Ok(PutOutcome::Created(_))) {
        metrics::histogram!("barycenter_upload_size_bytes", "kind" => "dataset").record(stored.size_bytes as f64);
    }
    outcome
}

async fn publish(
    state: &AppState,
    checked: CheckedDataset,
    upload: &PendingUpload,
    stored: &Stored,
) -> AppResult<PutOutcome<Dataset>> {
    let mut transaction = begin(state).await?;
    let outcome = publish_with(state, &mut transaction, checked, upload, stored).await?;
    commit(transaction).await?;
    Ok(outcome)
}

/// A dataset whose header is sound.
pub(super) struct CheckedDataset {
    name: String,
    shape: DatasetShape,
    normalisation: Normalisation,
}

impl CheckedDataset {
    pub(super) fn check(new: NewDataset, layout: &Layout) -> AppResult<Self> {
        let shape = dataset_shape(layout)?;
        let normalisation = new.normalisation(layout, &shape)?;
        Ok(Self { name: new.name, shape, normalisation })
    }
}

/// Makes stored bytes the dataset of a name, in the caller's transaction.
pub(super) async fn publish_with(
    state: &AppState,
    conn: &mut PgConnection,
    checked: CheckedDataset,
    upload: &PendingUpload,
    stored: &Stored,
) -> AppResult<PutOutcome<Dataset>> {
    let CheckedDataset { name, shape, normalisation } = checked;
    let now = state.clock.now();
    // Two of one name may arrive together: the second must see the first.
    db::datasets::lock_name(conn, &name).await?;
    if let Some(existing) = db::datasets::find_dataset(conn, Reference::Name(&name)).await? {
        return same_or_differs(existing, &stored.digest_blake3, &normalisation);
    }
    let dataset = Dataset {
        dataset_id: DatasetId(state.clock.new_id()),
        name,
        shape,
        normalisation,
        blob: blobs::commit_blob(conn, upload, stored, now).await?,
        created_at: now,
    };
    if db::datasets::insert_dataset(conn, &dataset).await? {
        return Ok(PutOutcome::Created(dataset));
    }
    Err(AppError::internal("a dataset's name was taken while it was locked"))
}

fn same_or_differs(existing: Dataset, digest: &str, normalisation: &Normalisation) -> AppResult<PutOutcome<Dataset>> {
    if existing.blob.digest_blake3 != digest {
        return Err(differs(&existing.name, "has other bytes"));
    }
    if existing.normalisation != *normalisation {
        return Err(differs(&existing.name, "has the same bytes and another normalisation"));
    }
    Ok(PutOutcome::Existing(existing))
}

fn differs(name: &str, how: &str) -> AppError {
    AppError::fault(ProblemCode::DatasetDiffers, "dataset", format!("the dataset `{name}` exists and {how}"))
}

/// What the header says the file is, where it is a dataset.
fn dataset_shape(layout: &Layout) -> AppResult<DatasetShape> {
    let header = DatasetHeader::read(layout)
        .map_err(|fault| AppError::fault(ProblemCode::InvalidFile, shown(&fault.named), fault.detail))?;
    Ok(DatasetShape {
        kind: match header.kind {
            data::DatasetKind::Labels => DatasetKind::Labels,
            data::DatasetKind::Targets { count } => DatasetKind::Targets { count: count as u64 },
            data::DatasetKind::Tokens => DatasetKind::Tokens,
        },
        sample_count: header.sample_count as u64,
        input_shape: header.sample_shape.iter().map(|extent| *extent as u64).collect(),
        input_dtype: header.input_dtype.to_string(),
    })
}

/// A dataset that exists under this name, where it holds these bytes; refuses where it holds others.
pub(super) async fn find_same(conn: &mut PgConnection, name: &str, digest_blake3: &str) -> AppResult<Option<Dataset>> {
    match db::datasets::find_dataset(conn, Reference::Name(name)).await? {
        Some(existing) if existing.blob.digest_blake3 != digest_blake3 => Err(differs(name, "has other bytes")),
        existing => Ok(existing),
    }
}

async fn find_by_name(state: &AppState, name: &str) -> AppResult<Option<Dataset>> {
    let mut conn = connection(state).await?;
    Ok(db::datasets::find_dataset(&mut conn, Reference::Name(name)).await?)
}

/// The dataset that a path or a job spec names.
pub async fn find_dataset(state: &AppState, dataset: &str) -> AppResult<Dataset> {
    let mut conn = connection(state).await?;
    find_dataset_with(&mut conn, dataset).await
}

/// The dataset that a path or a job spec names, on a connection at hand.
pub async fn find_dataset_with(conn: &mut PgConnection, dataset: &str) -> AppResult<Dataset> {
    let found = match Reference::parse(dataset) {
        Some(reference) => db::datasets::find_dataset(conn, reference).await?,
        None => None,
    };
    let missing = || format!("there is no dataset `{}`", shown(dataset));
    found.ok_or_else(|| AppError::refused(ProblemCode::DatasetNotFound, missing()))
}

/// A page of datasets, newest first.
pub async fn list_datasets(state: &AppState, page: PageRequest) -> AppResult<Paged<Dataset>> {
    let mut conn = connection(state).await?;
    let rows = db::datasets::list_datasets(&mut conn, page).await?;
    Ok(page.cut(rows, |dataset| dataset.dataset_id.0))
}
