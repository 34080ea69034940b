//! Workers: registering, telling that they are there, pausing, draining.

use super::{
    AppError, AppResult,
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        ids::WorkerId,
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
        projection::Counts,
        worker::{Capabilities, Worker, WorkerState},
    },
    state::AppState,
};

const MAX_NAME_CHARACTERS: usize = 200;
/// Networks, or projections, that a worker may name.
const MAX_ITEMS: usize = 10_000;

/// A worker, in its own words.
#[derive(Clone, Debug)]
pub struct NewWorker {
    /// Unique name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Name of the device.
    pub device_name: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Keys of the projections in its cache.
    pub projections: Vec<String>,
}

impl NewWorker {
    fn check(&self) -> AppResult<()> {
        let texts = [("name", &self.name), ("version", &self.version), ("device.name", &self.device_name)];
        for (field, text) in texts {
            if text.is_empty() || text.chars().count() > MAX_NAME_CHARACTERS || text.contains('\0') {
                let detail = format!("must have 1 to {MAX_NAME_CHARACTERS} characters, none of them NUL");
                return Err(AppError::invalid_field(field, detail));
            }
        }
        if self.capabilities.memory_bytes.is_some_and(|bytes| !(1..=i64::MAX as u64).contains(&bytes)) {
            return Err(AppError::invalid_field("memory_bytes", "must be at least 1, or absent"));
        }
        check_words("networks", &self.capabilities.networks)?;
        check_words("projections", &self.projections)
    }
}

fn check_words(field: &str, words: &[String]) -> AppResult<()> {
    let sound = |word: &String| (1..=MAX_NAME_CHARACTERS).contains(&word.len()) && !word.contains('\0');
    if words.len() <= MAX_ITEMS && words.iter().all(sound) {
        return Ok(());
    }
    let detail = format!("may hold {MAX_ITEMS} words of 1 to {MAX_NAME_CHARACTERS} bytes");
    Err(AppError::invalid_field(field, detail))
}

/// Registers a worker. One of its name is taken for the same worker started anew: it keeps its id and stays paused where it
/// was; a drain is over.
pub async fn register_worker(state: &AppState, new: NewWorker) -> AppResult<Worker> {
    new.check()?;
    let now = state.clock.now();
    let worker = Worker {
        worker_id: WorkerId(state.clock.new_id()),
        name: new.name,
        version: new.version,
        device_name: new.device_name,
        capabilities: new.capabilities,
        projections: new.projections,
        projection_counts: Counts::default(),
        state: WorkerState::Active,
        job_id: None,
        registered_at: now,
        seen_at: now,
    };
    let mut transaction = begin(state).await?;
    let worker_id = db::workers::upsert_worker(&mut transaction, &worker).await?;
    let worker = read_worker(&mut transaction, worker_id).await?;
    commit(transaction).await?;
    tracing::info!(worker.id = %worker_id, worker.name = worker.name, "registered a worker");
    Ok(worker)
}

/// Notes that a worker is there, and what its cache holds where it says so.
pub async fn renew_worker(state: &AppState, worker_id: WorkerId, projections: Option<&[String]>) -> AppResult<Worker> {
    if let Some(projections) = projections {
        check_words("projections", projections)?;
    }
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    if !db::workers::mark_seen(&mut transaction, worker_id, projections, now).await? {
        return Err(not_found(worker_id));
    }
    let worker = read_worker(&mut transaction, worker_id).await?;
    commit(transaction).await?;
    Ok(worker)
}

/// Pauses, resumes or drains a worker. The job that it has goes on in any case.
pub async fn change_worker(state: &AppState, worker_id: WorkerId, to: WorkerState) -> AppResult<Worker> {
    let mut transaction = begin(state).await?;
    if !db::workers::mark_state(&mut transaction, worker_id, to).await? {
        return Err(not_found(worker_id));
    }
    let worker = read_worker(&mut transaction, worker_id).await?;
    commit(transaction).await?;
    tracing::info!(worker.id = %worker_id, worker.name = worker.name, worker.state = to.as_str(), "changed a worker");
    Ok(worker)
}

/// A worker.
pub async fn find_worker(state: &AppState, worker_id: WorkerId) -> AppResult<Worker> {
    read_worker(&mut *connection(state).await?, worker_id).await
}

/// A page of workers, last registered first.
pub async fn list_workers(state: &AppState, page: PageRequest) -> AppResult<Paged<Worker>> {
    let mut conn = connection(state).await?;
    let rows = db::workers::list_workers(&mut conn, page).await?;
    Ok(page.cut(rows, |worker| worker.worker_id.0))
}

async fn read_worker(conn: &mut sqlx::PgConnection, worker_id: WorkerId) -> AppResult<Worker> {
    db::workers::find_worker(conn, worker_id).await?.ok_or_else(|| not_found(worker_id))
}

/// The refusal of an id that no worker has.
pub(super) fn not_found(worker_id: WorkerId) -> AppError {
    let detail = format!("there is no worker {worker_id}; one that was silent for a week registers again");
    AppError::refused(ProblemCode::WorkerNotFound, detail)
}
