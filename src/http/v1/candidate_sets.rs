//! Candidate sets.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use barycenter_api::{
    CandidateSet, CandidateSetDiff, CreateCandidateSet, ListCandidateSets, Member, Page, PlacedMember,
};
use utoipa_axum::routes;

use crate::{
    app::{self, candidate_sets::NewCandidateSet},
    domain::{self, candidate_set::Candidate, ids::CandidateSetId, set_diff::Places},
    http::{
        ApiRouter,
        extract::{Json, Path, Query, parse_page},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(create_candidate_set, list_candidate_sets))
        .routes(routes!(show_candidate_set))
        .routes(routes!(diff_candidate_sets))
}

impl From<domain::candidate_set::CandidateSet> for CandidateSet {
    fn from(set: domain::candidate_set::CandidateSet) -> Self {
        Self {
            candidate_set_id: set.candidate_set_id.0,
            run_id: set.run_id.0,
            other_run_ids: set.other_run_ids.into_iter().map(Into::into).collect(),
            name: set.name,
            version: set.version,
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
        run_id: candidate.run_id.0,
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
    let CreateCandidateSet { name, rule, other_runs } = body.value;
    let new = NewCandidateSet { name, rule: rule.into(), other_runs };
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
    params(("run" = String, Path, description = "Id or name."), ListCandidateSets),
    responses((status = 200, body = Page<CandidateSet>)),
)]
async fn list_candidate_sets(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Query(query): Query<ListCandidateSets>,
) -> ApiResult<axum::Json<Page<CandidateSet>>> {
    let page = parse_page(query.page_size, query.page_token.as_deref())?;
    let sets = app::candidate_sets::list_candidate_sets(&state, &run, query.name.as_deref(), page).await?;
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

/// Compare two candidate sets: what was added, removed, moved, and what they have in common.
#[utoipa::path(
    get, path = "/v1/candidate_sets/{from}/diff/{to}", tag = "candidate sets",
    params(
        ("from" = uuid::Uuid, Path, description = "The first set."),
        ("to" = uuid::Uuid, Path, description = "The second set."),
    ),
    responses((status = 200, body = CandidateSetDiff)),
)]
async fn diff_candidate_sets(
    State(state): State<AppState>,
    Path((from, to)): Path<(String, String)>,
) -> ApiResult<axum::Json<CandidateSetDiff>> {
    let (from, to, diff) = app::candidate_sets::diff_candidate_sets(&state, from.parse()?, to.parse()?).await?;
    let places = |(from, to): Places| (Some(from), Some(to));
    let of = |set: &domain::candidate_set::CandidateSet, places: Vec<(Option<usize>, Option<usize>)>| {
        places.into_iter().filter_map(|places| placed(&set.members, places)).collect()
    };
    Ok(axum::Json(CandidateSetDiff {
        from: from.candidate_set_id.0,
        to: to.candidate_set_id.0,
        added: of(&to, diff.added.into_iter().map(|place| (None, Some(place))).collect()),
        removed: of(&from, diff.removed.into_iter().map(|place| (Some(place), None)).collect()),
        moved: of(&from, diff.moved.into_iter().map(places).collect()),
        common: of(&from, diff.common.into_iter().map(places).collect()),
    }))
}

/// The member at the first of these places that there is.
fn placed(members: &[Candidate], places: (Option<usize>, Option<usize>)) -> Option<PlacedMember> {
    let (from_position, to_position) = places;
    let member = members.get(from_position.or(to_position)?)?;
    Some(PlacedMember {
        checkpoint_id: member.checkpoint_id.0,
        run_id: member.run_id.0,
        step: member.step,
        from_position,
        to_position,
    })
}
