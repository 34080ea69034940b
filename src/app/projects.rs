//! Projects: groups of runs among which workers are shared fairly.

use super::{
    AppError, AppResult,
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{name::check_name, page::Paged, project::Project},
    state::AppState,
};

/// The project of runs that name none.
pub const DEFAULT: &str = "default";

/// Checks the name of a project.
pub(super) fn check(project: &str) -> AppResult<()> {
    check_name(project).map_err(|detail| AppError::invalid_field("project", detail))
}

/// Sets how many jobs of a project may run at a time; jobs that run already go on. Makes the project where it is new.
pub async fn set_project(state: &AppState, project: &str, max_running_jobs: Option<u32>) -> AppResult<Project> {
    check(project)?;
    if max_running_jobs.is_some_and(|most| i32::try_from(most).is_err()) {
        return Err(AppError::invalid_field("max_running_jobs", format!("must be at most {}", i32::MAX)));
    }
    let mut transaction = begin(state).await?;
    db::projects::set_max_running_jobs(&mut transaction, project, max_running_jobs, state.clock.now()).await?;
    let rows = db::projects::list_projects(&mut transaction, Some(project), None, 1).await?;
    commit(transaction).await?;
    rows.into_iter().next().ok_or_else(|| AppError::internal(format!("the project {project} vanished")))
}

/// A page of projects by name, those after `after`.
pub async fn list_projects(state: &AppState, size: u32, after: Option<&str>) -> AppResult<Paged<Project, String>> {
    let mut conn = connection(state).await?;
    let mut items = db::projects::list_projects(&mut conn, None, after, i64::from(size) + 1).await?;
    let more = items.len() > size as usize;
    items.truncate(size as usize);
    let next = items.last().filter(|_| more).map(|last| last.project.clone());
    Ok(Paged { items, next })
}
