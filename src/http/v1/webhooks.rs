//! Webhooks and their deliveries.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use barycenter_api::{
    CreateWebhook, CreatedWebhook, DeliveryState, EditWebhook, EventKind, ListDeliveries, ListQuery, Page,
    TestedWebhook, Webhook, WebhookDelivery, WebhookSecret,
};
use utoipa_axum::routes;

use super::events::kind_to_wire;
use crate::{
    app::{
        self,
        webhooks::{NewWebhook, WebhookEdit},
    },
    domain::{
        event::{self, Scope},
        ids::{DeliveryId, WebhookId},
        webhook::{self, Secret},
    },
    http::{
        ApiRouter,
        extract::{Json, Path, Query, page_request, parse_page},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(create_webhook, list_webhooks))
        .routes(routes!(show_webhook, edit_webhook, delete_webhook))
        .routes(routes!(test_webhook))
        .routes(routes!(list_deliveries))
        .routes(routes!(redeliver))
}

impl From<webhook::Webhook> for Webhook {
    fn from(webhook: webhook::Webhook) -> Self {
        let (run_id, project) = match webhook.scope {
            Some(Scope::Run(run_id)) => (Some(run_id.0), None),
            Some(Scope::Project(project)) => (None, Some(project)),
            Some(Scope::Job(_)) | None => (None, None),
        };
        Self {
            webhook_id: webhook.webhook_id.0,
            url: webhook.url.into(),
            kinds: webhook.kinds.into_iter().map(kind_to_wire).collect(),
            run_id,
            project,
            enabled: webhook.enabled,
            disabled_reason: webhook.disabled_reason,
            failing_since: webhook.failing_since,
            created_at: webhook.created_at,
        }
    }
}

impl From<webhook::Delivery> for WebhookDelivery {
    fn from(delivery: webhook::Delivery) -> Self {
        Self {
            delivery_id: delivery.delivery_id.0,
            event_id: delivery.event_id,
            kind: kind_to_wire(delivery.kind),
            state: match delivery.state {
                webhook::DeliveryState::Pending => DeliveryState::Pending,
                webhook::DeliveryState::Delivered => DeliveryState::Delivered,
                webhook::DeliveryState::Failed => DeliveryState::Failed,
            },
            tries: delivery.tries,
            next_try_at: delivery.next_try_at,
            tried_at: delivery.tried_at,
            status_code: delivery.status_code,
            duration_ms: delivery.duration_ms,
            error: delivery.error,
            created_at: delivery.created_at,
        }
    }
}

fn kinds_from_wire(kinds: &[EventKind]) -> Vec<event::EventKind> {
    event::EventKind::ALL.into_iter().filter(|kind| kinds.contains(&kind_to_wire(*kind))).collect()
}

/// Make a webhook: what happens from now on is sent to its URL, signed.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", request_body = CreateWebhook,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same request with the same key gets the same reply.")),
    responses((status = 201, body = CreatedWebhook, headers(("Location" = String, description = "Path of the webhook.")))),
)]
async fn create_webhook(State(state): State<AppState>, body: Json<CreateWebhook>) -> ApiResult<Response> {
    let CreateWebhook { url, kinds, run, project, secret } = body.value;
    let secret = secret.map(|secret| Secret(secret.0));
    let new = NewWebhook { url, kinds: kinds_from_wire(&kinds), run, project, secret };
    let reply = app::webhooks::create_webhook(&state, new, body.idempotency.as_ref(), |webhook, secret| {
        let location = format!("/v1/webhooks/{}", webhook.webhook_id);
        let secret = secret.map(|secret| WebhookSecret(secret.0));
        reply::created(StatusCode::CREATED, location, &CreatedWebhook { webhook: webhook.into(), secret })
    })
    .await?;
    Ok(reply.into_response())
}

/// List webhooks, newest first.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks", params(ListQuery),
    responses((status = 200, body = Page<Webhook>)),
)]
async fn list_webhooks(
    State(state): State<AppState>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Page<Webhook>>> {
    Ok(axum::Json(reply::page(app::webhooks::list_webhooks(&state, page_request(&query)?).await?)))
}

/// Show a webhook.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook_id}", tag = "webhooks",
    params(("webhook_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Webhook)),
)]
async fn show_webhook(
    State(state): State<AppState>,
    Path(webhook_id): Path<WebhookId>,
) -> ApiResult<axum::Json<Webhook>> {
    Ok(axum::Json(app::webhooks::find_webhook(&state, webhook_id).await?.into()))
}

/// Edit a webhook: its URL, its kinds, its secret, whether it is enabled.
#[utoipa::path(
    patch, path = "/v1/webhooks/{webhook_id}", tag = "webhooks", request_body = EditWebhook,
    params(("webhook_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Webhook)),
)]
async fn edit_webhook(
    State(state): State<AppState>,
    Path(webhook_id): Path<WebhookId>,
    Json { value: body, .. }: Json<EditWebhook>,
) -> ApiResult<axum::Json<Webhook>> {
    let edit = WebhookEdit {
        url: body.url,
        kinds: body.kinds.as_deref().map(kinds_from_wire),
        secret: body.secret.map(|secret| Secret(secret.0)),
        enabled: body.enabled,
    };
    Ok(axum::Json(app::webhooks::edit_webhook(&state, webhook_id, edit).await?.into()))
}

/// Remove a webhook with its deliveries.
#[utoipa::path(
    delete, path = "/v1/webhooks/{webhook_id}", tag = "webhooks",
    params(("webhook_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 204, description = "It is gone.")),
)]
async fn delete_webhook(State(state): State<AppState>, Path(webhook_id): Path<WebhookId>) -> ApiResult<StatusCode> {
    app::webhooks::delete_webhook(&state, webhook_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send a `webhook.test` at once, also where the webhook is disabled, and tell what the receiver answered.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook_id}/test", tag = "webhooks",
    params(("webhook_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = TestedWebhook)),
)]
async fn test_webhook(
    State(state): State<AppState>,
    Path(webhook_id): Path<WebhookId>,
) -> ApiResult<axum::Json<TestedWebhook>> {
    let outcome = app::webhooks::test_webhook(&state, webhook_id).await?;
    Ok(axum::Json(TestedWebhook {
        accepted: outcome.error.is_none(),
        status_code: outcome.status_code,
        duration_ms: outcome.duration_ms,
        error: outcome.error,
        answer: outcome.answer,
    }))
}

/// List the deliveries of a webhook, newest first; they are kept for seven days.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook_id}/deliveries", tag = "webhooks",
    params(("webhook_id" = uuid::Uuid, Path, description = "Id."), ListDeliveries),
    responses((status = 200, body = Page<WebhookDelivery>)),
)]
async fn list_deliveries(
    State(state): State<AppState>,
    Path(webhook_id): Path<WebhookId>,
    Query(query): Query<ListDeliveries>,
) -> ApiResult<axum::Json<Page<WebhookDelivery>>> {
    let page = parse_page(query.page_size, query.page_token.as_deref())?;
    let only = query.state.map(|state| match state {
        DeliveryState::Pending => webhook::DeliveryState::Pending,
        DeliveryState::Delivered => webhook::DeliveryState::Delivered,
        DeliveryState::Failed => webhook::DeliveryState::Failed,
    });
    Ok(axum::Json(reply::page(app::webhooks::list_deliveries(&state, webhook_id, only, page).await?)))
}

/// Make a delivery due at once, whatever became of it; it keeps its `webhook-id`.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", tag = "webhooks",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "Id of the webhook."),
        ("delivery_id" = uuid::Uuid, Path, description = "Id of the delivery."),
    ),
    responses((status = 200, body = WebhookDelivery)),
)]
async fn redeliver(
    State(state): State<AppState>,
    Path((webhook_id, delivery_id)): Path<(WebhookId, DeliveryId)>,
) -> ApiResult<axum::Json<WebhookDelivery>> {
    Ok(axum::Json(app::webhooks::redeliver(&state, webhook_id, delivery_id).await?.into()))
}
