//! What became of a webhook's deliveries, and sending by hand.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{find_webhook_with, message};
use crate::{
    app::{
        AppError, AppResult,
        transaction::{begin, commit, connection},
    },
    db,
    domain::{
        ids::{DeliveryId, WebhookId},
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
        webhook::{Delivery, DeliveryState, KEEP_FOR, Outcome},
    },
    state::AppState,
};

/// A page of a webhook's deliveries, newest first, all or those of one state.
pub async fn list_deliveries(
    state: &AppState,
    webhook_id: WebhookId,
    only: Option<DeliveryState>,
    page: PageRequest,
) -> AppResult<Paged<Delivery>> {
    let mut conn = connection(state).await?;
    find_webhook_with(&mut conn, webhook_id).await?;
    let rows = db::webhook_deliveries::list_deliveries(&mut conn, webhook_id, only, page).await?;
    Ok(page.cut(rows, |delivery| delivery.delivery_id.0))
}

/// Sends a message that tells of nothing, at once, also where the webhook is disabled; answers what the receiver said. It leaves no
/// trace and is not tried again.
pub async fn test_webhook(state: &AppState, webhook_id: WebhookId) -> AppResult<Outcome> {
    let mut conn = connection(state).await?;
    let webhook = find_webhook_with(&mut conn, webhook_id).await?;
    let secret = db::webhooks::find_secret(&mut conn, webhook_id).await?;
    // The receiver may take its time.
    drop(conn);
    let secret = secret.ok_or_else(|| super::not_found(webhook_id))?;
    let now = state.clock.now();
    let body = message::of_test(&webhook, now);
    let headers = message::headers(&secret, state.clock.new_id(), now, &body)?;
    Ok(state.outbound.post(&webhook.url, headers, body).await)
}

/// Makes a delivery due at once, whatever became of it, with all its tries before it.
pub async fn redeliver(state: &AppState, webhook_id: WebhookId, delivery_id: DeliveryId) -> AppResult<Delivery> {
    let mut transaction = begin(state).await?;
    let webhook = find_webhook_with(&mut transaction, webhook_id).await?;
    if !webhook.enabled {
        let detail = format!("the webhook {webhook_id} is disabled; enable it first");
        return Err(AppError::refused(ProblemCode::WebhookDisabled, detail));
    }
    let not_found = || {
        let detail = format!("the webhook {webhook_id} has no delivery {delivery_id}; they are kept for seven days");
        AppError::refused(ProblemCode::DeliveryNotFound, detail)
    };
    if !db::webhook_deliveries::mark_due(&mut transaction, webhook_id, delivery_id, state.clock.now()).await? {
        return Err(not_found());
    }
    let delivery = db::webhook_deliveries::find_delivery(&mut transaction, webhook_id, delivery_id).await?;
    commit(transaction).await?;
    delivery.ok_or_else(not_found)
}

/// Forgets deliveries that are too old.
pub(in crate::app) async fn prune(conn: &mut PgConnection, now: DateTime<Utc>) -> AppResult<()> {
    db::webhook_deliveries::delete_old(conn, now - KEEP_FOR).await?;
    Ok(())
}
