//! Candidate sets.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use barycenter_api::{CandidateSet, CandidateSetRule, CreateCandidateSet, Direction, ListQuery, Member, Page};
use utoipa_axum::routes;

use crate::{
    app::{self, candidate_sets::NewCandidateSet},
    domain::{
        self,
        candidate_set::{Candidate, Rule},
        ids::CandidateSetId,
    },
    http::{
        ApiRouter,
        extract::{Json, Path, Query, page_request},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new().routes(routes!(create_candidate_set, list_candidate_sets)).routes(routes!(show_candidate_set))
}

impl From<CandidateSetRule> for Rule {
    fn from(rule: CandidateSetRule) -> Self {
        match rule {
            CandidateSetRule::Explicit { checkpoint_ids } => {
                Self::Explicit { checkpoint_ids: checkpoint_ids.into_iter().map(Into::into).collect() }
            }
            CandidateSetRule::Last { count } => Self::Last { count },
            CandidateSetRule::Best { count, metric, direction } => {
                let direction = match direction {
                    Direction::Min => domain::candidate_set::Direction::Min,
                    Direction::Max => domain::candidate_set::Direction::Max,
                };
                Self::Best { count, metric, direction }
            }
            CandidateSetRule::Steps { from, to, every } => Self::Steps { from, to, every },
        }
    }
}

impl From<Rule> for CandidateSetRule {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Explicit { checkpoint_ids } => {
                Self::Explicit { checkpoint_ids: checkpoint_ids.into_iter().map(Into::into).collect() }
            }
            Rule::Last { count } => Self::Last { count },
            Rule::Best { count, metric, direction } => {
                let direction = match direction {
                    domain::candidate_set::Direction::Min => Direction::Min,
                    domain::candidate_set::Direction::Max => Direction::Max,
                };
                Self::Best { count, metric, direction }
            }
            Rule::Steps { from, to, every } => Self::Steps { from, to, every },
        }
    }
}

impl From<domain::candidate_set::CandidateSet> for CandidateSet {
    fn from(set: domain::candidate_set::CandidateSet) -> Self {
        Self {
            candidate_set_id: set.candidate_set_id.0,
            run_id: set.run_id.0,
            name: set.name,
            rule: set.rule.into(),
            layout_blake3: set.layout_blake3,
            members: set.members.into_iter().map(member).collect(),
            created_at: set.created_at,
        }
    }
}

fn member(candidate: Candidate) -> Member {
    Member {
        checkpoint_id: candidate.checkpoint_id.0,
        step: candidate.step,
        size_bytes: candidate.size_bytes,
        digest_blake3: candidate.digest_blake3,
    }
}

/// Freeze a candidate set: the rule is evaluated once, now.
#[utoipa::path(
    post, path = "/v1/runs/{run}/candidate_sets", tag = "candidate sets", request_body = CreateCandidateSet,
    params(
        ("run" = String, Path, description = "Id or name."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same request with the same key gets the same reply."),
    ),
    responses((status = 201, body = CandidateSet, headers(("Location" = String, description = "Path of the set.")))),
)]
async fn create_candidate_set(
    State(state): State<AppState>,
    Path(run): Path<String>,
    body: Json<CreateCandidateSet>,
) -> ApiResult<Response> {
    let new = NewCandidateSet { name: body.value.name, rule: body.value.rule.into() };
    let reply = app::candidate_sets::create_candidate_set(&state, &run, new, body.idempotency.as_ref(), |set| {
        let location = format!("/v1/candidate_sets/{}", set.candidate_set_id);
        reply::created(StatusCode::CREATED, location, &CandidateSet::from(set))
    })
    .await?;
    Ok(reply.into_response())
}

/// List a run's candidate sets, newest first.
#[utoipa::path(
    get, path = "/v1/runs/{run}/candidate_sets", tag = "candidate sets",
    params(("run" = String, Path, description = "Id or name."), ListQuery),
    responses((status = 200, body = Page<CandidateSet>)),
)]
async fn list_candidate_sets(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Page<CandidateSet>>> {
    let sets = app::candidate_sets::list_candidate_sets(&state, &run, page_request(&query)?).await?;
    Ok(axum::Json(reply::page(sets)))
}

/// Show a candidate set.
#[utoipa::path(
    get, path = "/v1/candidate_sets/{candidate_set_id}", tag = "candidate sets",
    params(("candidate_set_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = CandidateSet)),
)]
async fn show_candidate_set(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<CandidateSet>> {
    let id: CandidateSetId = id.parse()?;
    Ok(axum::Json(app::candidate_sets::find_candidate_set(&state, id).await?.into()))
}
