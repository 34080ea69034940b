//! Projects.

use axum::extract::State;
use barycenter_api::{ListQuery, Page, Project, SetProject};
use utoipa_axum::routes;

use crate::{
    app,
    domain::{self, name::check_name, page::Paged},
    http::{
        ApiRouter,
        extract::{Json, Path, Query, page_size, wrong_page_token},
        problem::ApiResult,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new().routes(routes!(list_projects)).routes(routes!(set_project))
}

impl From<domain::project::Project> for Project {
    fn from(project: domain::project::Project) -> Self {
        Self {
            project: project.project,
            max_running_jobs: project.max_running_jobs,
            running_jobs: project.running_jobs,
            queued_jobs: project.queued_jobs,
            created_at: project.created_at,
        }
    }
}

/// List projects by name.
#[utoipa::path(
    get, path = "/v1/projects", tag = "projects", params(ListQuery),
    responses((status = 200, body = Page<Project>)),
)]
async fn list_projects(
    State(state): State<AppState>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Page<Project>>> {
    let after = query.page_token.as_deref();
    if after.is_some_and(|after| check_name(after).is_err()) {
        return Err(wrong_page_token().into());
    }
    let Paged { items, next } = app::projects::list_projects(&state, page_size(query.page_size)?, after).await?;
    Ok(axum::Json(Page { items: items.into_iter().map(Project::from).collect(), next_page_token: next }))
}

/// Set how many jobs of a project may run at a time; makes the project where it is new.
#[utoipa::path(
    put, path = "/v1/projects/{project}", tag = "projects", request_body = SetProject,
    params(("project" = String, Path, description = "Name.")),
    responses((status = 200, body = Project)),
)]
async fn set_project(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Json { value: bounds, .. }: Json<SetProject>,
) -> ApiResult<axum::Json<Project>> {
    let project = app::projects::set_project(&state, &project, bounds.max_running_jobs).await?;
    Ok(axum::Json(project.into()))
}
