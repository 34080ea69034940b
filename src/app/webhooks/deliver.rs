//! Delivery: events become deliveries, deliveries are tried until accepted or given up. Several servers may do so at once.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::message;
use crate::{
    app::{
        AppError, AppResult, events, rounds,
        transaction::{begin, commit},
    },
    db::{
        self,
        webhook_deliveries::{NewDelivery, TakenDelivery},
    },
    domain::{
        ids::{DeliveryId, LeaseId},
        webhook::{DeliveryState, GONE, LEASE, Outcome, PATIENCE, Secret, Webhook, pause_after},
    },
    state::AppState,
};

/// How often a server looks for new events and due deliveries.
const EVERY: Duration = Duration::from_secs(1);
/// Receivers that a server speaks to at a time.
const LANES: usize = 16;
/// Events that are looked at in one transaction.
const PAGE: i64 = 500;

/// Delivers until told to stop; tries at work end first.
pub async fn run(state: AppState, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(LANES));
    let lanes = TaskTracker::new();
    rounds::repeat(EVERY, stop.clone(), "webhooks could not be served", async || {
        note_events(&state).await?;
        while let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            let Some(taken) = take(&state).await? else { break };
            lanes.spawn(lane(state.clone(), taken, permit, stop.clone()));
        }
        Ok(())
    })
    .await;
    lanes.close();
    lanes.wait().await;
}

/// One receiver after the other, as long as anything is due: a slow one holds up this lane alone.
async fn lane(state: AppState, first: Taken, _permit: OwnedSemaphorePermit, stop: CancellationToken) {
    let mut next = Some(first);
    while let Some(taken) = next.take() {
        let webhook_id = taken.webhook.webhook_id;
        let went_on = async {
            send(&state, taken).await?;
            if stop.is_cancelled() { Ok(None) } else { take(&state).await }
        };
        match went_on.await {
            Ok(taken) => next = taken,
            // Its lease brings the delivery back.
            Err(error) => tracing::warn!(webhook.id = %webhook_id, error = ?error, "a delivery broke off"),
        }
    }
}

/// One round by itself: notes new events and sends all that is due. Answers how many tries there were.
pub async fn deliver_due(state: &AppState) -> AppResult<usize> {
    note_events(state).await?;
    let mut tries = 0;
    while let Some(taken) = take(state).await? {
        send(state, taken).await?;
        tries += 1;
    }
    Ok(tries)
}

/// Notes a delivery for every new event that a webhook is sent. Each webhook has its own place in the order of events, which moves
/// in the transaction that notes them: none is missed, none noted twice.
pub async fn note_events(state: &AppState) -> AppResult<()> {
    events::number(state).await?;
    loop {
        let now = state.clock.now();
        let mut transaction = begin(state).await?;
        let Some((webhook_id, last)) = db::webhooks::lock_behind(&mut transaction).await? else { return Ok(()) };
        let webhook = super::find_webhook_with(&mut transaction, webhook_id).await?;
        // Before the events are read: one that comes in between is not passed over.
        let newest = events::newest(&mut transaction).await?;
        let page = db::events::list_events(&mut transaction, webhook.scope.as_ref(), last, PAGE).await?;
        let last_of_page = page.last().map_or(0, |event| event.event_id);
        let seen = if (page.len() as i64) < PAGE { newest.max(last_of_page) } else { last_of_page };
        let taken = page.iter().filter(|event| webhook.takes(event.kind)).map(|event| NewDelivery {
            delivery_id: DeliveryId(state.clock.new_id()),
            event_id: event.event_id,
            kind: event.kind.as_str(),
            body: message::of_event(event),
        });
        let deliveries: Vec<NewDelivery> = taken.collect();
        db::webhook_deliveries::insert_deliveries(&mut transaction, webhook_id, &deliveries, now).await?;
        db::webhooks::mark_seen(&mut transaction, webhook_id, seen).await?;
        commit(transaction).await?;
    }
}

/// A delivery that this server sends now.
#[derive(Debug)]
pub struct Taken {
    lease_id: LeaseId,
    webhook: Webhook,
    secret: Secret,
    delivery: TakenDelivery,
}

/// Takes what is due, of a webhook that nobody sends to. Whoever takes has it until the lease lapses; a server that dies meanwhile
/// leaves it to the others.
pub async fn take(state: &AppState) -> AppResult<Option<Taken>> {
    let now = state.clock.now();
    let lease_id = LeaseId(state.clock.new_id());
    let mut transaction = begin(state).await?;
    let leased = db::webhook_deliveries::lease_webhook(&mut transaction, lease_id, now, now + LEASE).await?;
    let Some(webhook_id) = leased else { return Ok(None) };
    let Some(delivery) = db::webhook_deliveries::take_due(&mut transaction, webhook_id, now).await? else {
        // Another server was faster, and is done: the transaction takes the lease back.
        return Ok(None);
    };
    let webhook = super::find_webhook_with(&mut transaction, webhook_id).await?;
    let secret = db::webhooks::find_secret(&mut transaction, webhook_id).await?;
    let secret = secret.ok_or_else(|| AppError::internal("a webhook without a secret"))?;
    commit(transaction).await?;
    Ok(Some(Taken { lease_id, webhook, secret, delivery }))
}

/// Sends a delivery, with no transaction open, and notes what came of it.
pub async fn send(state: &AppState, taken: Taken) -> AppResult<()> {
    let Taken { webhook, secret, delivery, .. } = &taken;
    let headers = message::headers(secret, delivery.delivery_id.0, state.clock.now(), &delivery.body)?;
    let outcome = state.outbound.post(&webhook.url, headers, delivery.body.clone()).await;
    note_outcome(state, &taken, &outcome).await
}

async fn note_outcome(state: &AppState, taken: &Taken, outcome: &Outcome) -> AppResult<()> {
    let now = state.clock.now();
    let Taken { lease_id, webhook, delivery, .. } = taken;
    let accepted = outcome.error.is_none();
    let word = if accepted { "accepted" } else { "failed" };
    metrics::counter!("barycenter_webhook_tries_total", "outcome" => word).increment(1);
    let mut transaction = begin(state).await?;
    let held = db::webhook_deliveries::release_webhook(&mut transaction, webhook.webhook_id, *lease_id).await?;
    let Some(released) = held else {
        tracing::warn!(webhook.id = %webhook.webhook_id, delivery.id = %delivery.delivery_id, "another server has the delivery");
        return Ok(());
    };
    let (delivery_state, next_try_at) = next(outcome, delivery.tries, now);
    let since = (!accepted).then(|| released.failing_since.unwrap_or(now));
    let reason = since.and_then(|since| reason_to_disable(outcome, since, now));
    let id = delivery.delivery_id;
    db::webhook_deliveries::mark_tried(&mut transaction, id, outcome, delivery_state, next_try_at, now).await?;
    db::webhooks::mark_health(&mut transaction, webhook.webhook_id, since, reason.as_deref()).await?;
    commit(transaction).await?;
    if let Some(reason) = reason {
        tracing::warn!(webhook.id = %webhook.webhook_id, reason, "disabled a webhook");
    }
    Ok(())
}

fn next(outcome: &Outcome, tries: u32, now: DateTime<Utc>) -> (DeliveryState, Option<DateTime<Utc>>) {
    if outcome.error.is_none() {
        return (DeliveryState::Delivered, None);
    }
    match pause_after(tries, outcome.retry_after) {
        Some(pause) if outcome.status_code != Some(GONE) => (DeliveryState::Pending, Some(now + pause)),
        _ => (DeliveryState::Failed, None),
    }
}

fn reason_to_disable(outcome: &Outcome, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<String> {
    if outcome.status_code == Some(GONE) {
        return Some("the receiver answered 410: it wants no more".into());
    }
    let error = outcome.error.as_deref().unwrap_or_default();
    let days = PATIENCE.num_days();
    (now - since >= PATIENCE).then(|| format!("nothing was accepted for {days} days; at last: {error}"))
}
