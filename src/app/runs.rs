//! Training runs.

use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    idempotency::{self, IdempotentRequest, Reply},
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        ids::RunId,
        name::{Reference, check_name, check_text, shown},
        page::{PageRequest, Paged},
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
    /// Free text.
    pub description: Option<String>,
    /// What the user keeps beside it.
    pub metadata: Map<String, Value>,
}

impl NewRun {
    fn check(&self) -> AppResult<()> {
        check_name(&self.name).map_err(|detail| AppError::invalid_field("name", detail))?;
        let description = self.description.as_deref().unwrap_or_default();
        check_text(description).map_err(|detail| AppError::invalid_field("description", detail))?;
        let text = serde_json::to_string(&self.metadata).map_err(AppError::internal)?;
        if text.len() > MAX_METADATA_BYTES {
            let detail = format!("is {} bytes of JSON; at most {MAX_METADATA_BYTES} are kept", text.len());
            return Err(AppError::invalid_field("metadata", detail));
        }
        let holds_nul = self.metadata.iter().any(|(key, value)| key.contains('\0') || has_nul(value));
        if holds_nul {
            return Err(AppError::invalid_field("metadata", "holds a NUL character"));
        }
        Ok(())
    }
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
        description: new.description,
        metadata: new.metadata,
        checkpoint_count: 0,
        created_at: now,
    };
    let mut transaction = begin(state).await?;
    if let Some(reply) = idempotency::replay(&mut transaction, request, now).await? {
        return Ok(reply);
    }
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
pub async fn list_runs(state: &AppState, page: PageRequest) -> AppResult<Paged<Run>> {
    let mut conn = connection(state).await?;
    let rows = db::runs::list_runs(&mut conn, page).await?;
    Ok(page.cut(rows, |run| run.run_id.0))
}
