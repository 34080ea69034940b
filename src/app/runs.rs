//! Training runs.

use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    idempotency::{self, IdempotentRequest, Reply},
    projects,
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        ids::RunId,
        metadata::merge_patch,
        name::{Reference, check_name, check_text, shown},
        page::{PageRequest, Paged},
        precondition::Precondition,
        problem_code::ProblemCode,
        run::Run,
    },
    state::AppState,
};

const MAX_METADATA_BYTES: usize = 64 << 10;

/// A run to open.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Unique name.
    pub name: String,
    /// The project that it belongs to; made where it is new.
    pub project: String,
    /// Free text.
    pub description: Option<String>,
    /// What the user keeps beside it.
    pub metadata: Map<String, Value>,
}

impl NewRun {
    fn check(&self) -> AppResult<()> {
        check_name(&self.name).map_err(|detail| AppError::invalid_field("name", detail))?;
        projects::check(&self.project)?;
        check_told(self.description.as_deref(), &self.metadata)
    }
}

/// Checks what a user tells about a run.
fn check_told(description: Option<&str>, metadata: &Map<String, Value>) -> AppResult<()> {
    let description = description.unwrap_or_default();
    check_text(description).map_err(|detail| AppError::invalid_field("description", detail))?;
    let text = serde_json::to_string(metadata).map_err(AppError::internal)?;
    if text.len() > MAX_METADATA_BYTES {
        let detail = format!("is {} bytes of JSON; at most {MAX_METADATA_BYTES} are kept", text.len());
        return Err(AppError::invalid_field("metadata", detail));
    }
    let holds_nul = metadata.iter().any(|(key, value)| key.contains('\0') || has_nul(value));
    if holds_nul {
        return Err(AppError::invalid_field("metadata", "holds a NUL character"));
    }
    Ok(())
}

/// Postgres keeps every JSON text but one with a NUL character. Depth is bounded by the JSON reader.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Opens a run; `render` writes the reply that an idempotency key repeats.
pub async fn create_run(
    state: &AppState,
    new: NewRun,
    request: Option<&IdempotentRequest>,
    render: impl FnOnce(Run) -> AppResult<Reply>,
) -> AppResult<Reply> {
    new.check()?;
    let now = state.clock.now();
    let run = Run {
        run_id: RunId(state.clock.new_id()),
        name: new.name,
        project: new.project,
        description: new.description,
        metadata: new.metadata,
        checkpoint_count: 0,
        revision: 1,
        created_at: now,
        deleted_at: None,
    };
    let mut transaction = begin(state).await?;
    if let Some(reply) = idempotency::replay(&mut transaction, request, now).await? {
        return Ok(reply);
    }
    db::projects::ensure_project(&mut transaction, &run.project, now).await?;
    db::runs::insert_run(&mut transaction, &run).await.map_err(|error| {
        if error.is_constraint(db::runs::NAME_KEY) {
            AppError::fault(ProblemCode::NameTaken, "name", format!("there is already a run `{}`", run.name))
        } else {
            error.into()
        }
    })?;
    let reply = render(run)?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    Ok(reply)
}

/// Changes to a run; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct RunEdit {
    /// The new description, or none.
    pub description: Option<Option<String>>,
    /// A merge patch (RFC 7396) of the metadata.
    pub metadata: Option<Map<String, Value>>,
}

/// Edits a run that is still in the version the caller has seen.
pub async fn edit_run(state: &AppState, run: &str, edit: RunEdit, precondition: &Precondition) -> AppResult<Run> {
    let mut transaction = begin(state).await?;
    let run_id = find_run_with(&mut transaction, run).await?.run_id;
    // A merge patch is read, changed and written: another edit in between would be lost.
    db::runs::lock_run(&mut transaction, run_id).await?;
    let mut edited = find_run_with(&mut transaction, run).await?;
    if !precondition.holds(Some(&edited.revision.to_string())) {
        let detail = format!("the run `{}` was changed by someone else; read it again", edited.name);
        return Err(AppError::refused(ProblemCode::PreconditionFailed, detail));
    }
    if let Some(description) = edit.description {
        edited.description = description;
    }
    if let Some(patch) = edit.metadata {
        merge_patch(&mut edited.metadata, patch);
    }
    check_told(edited.description.as_deref(), &edited.metadata)?;
    edited.revision += 1;
    db::runs::update_run(&mut transaction, &edited).await?;
    commit(transaction).await?;
    Ok(edited)
}

/// The run that a path names.
pub async fn find_run(state: &AppState, run: &str) -> AppResult<Run> {
    let mut conn = connection(state).await?;
    find_run_with(&mut conn, run).await
}

/// The run that a path names, on a connection at hand.
pub async fn find_run_with(conn: &mut PgConnection, run: &str) -> AppResult<Run> {
    let found = match Reference::parse(run) {
        Some(reference) => db::runs::find_run(conn, reference).await?,
        None => None,
    };
    found.ok_or_else(|| AppError::refused(ProblemCode::RunNotFound, format!("there is no run `{}`", shown(run))))
}

/// A page of runs, newest first.
pub async fn list_runs(state: &AppState, deleted: bool, page: PageRequest) -> AppResult<Paged<Run>> {
    let mut conn = connection(state).await?;
    let rows = if deleted {
        db::runs::list_deleted_runs(&mut conn, page).await?
    } else {
        db::runs::list_runs(&mut conn, page).await?
    };
    Ok(page.cut(rows, |run| run.run_id.0))
}
