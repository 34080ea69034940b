//! Wakes whoever waits for a job: one connection listens, a broadcast channel passes it on.
//!
//! A notification is a hint, never the truth: waiters look at the table when they are woken, and once a second anyway.

use std::{sync::Arc, time::Duration};

use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use crate::domain::{ids::JobId, job::JobState};

/// Channel on which the trigger of migration 2 reports changes of state.
const CHANNEL: &str = "barycenter_jobs";
/// Channel on which the trigger of migration 11 tells that a run with a policy has a new checkpoint.
const POLICIES: &str = "barycenter_policies";
/// Changes kept for a slow waiter; one that falls further behind simply looks at the table.
const BACKLOG: usize = 1024;
/// Pause before a lost connection is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// A job changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobChange {
    /// The job.
    pub job_id: JobId,
    /// Its new state.
    pub state: JobState,
}

/// Where changes of jobs can be waited for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobChanges {
    sender: broadcast::Sender<JobChange>,
    policies: Arc<Notify>,
}

impl Default for JobChanges {
    /// Changes that nobody reports: waiters live on looking once a second.
    fn default() -> Self {
        Self { sender: broadcast::channel(BACKLOG).0, policies: Arc::default() }
    }
}

/// One waiter's view of the changes since it subscribed.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<JobChange>,
}

impl JobChanges {
    /// Sees every change from now on. Subscribe first, then look at the table: no change falls between.
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe() }
    }

    /// Returns once a run with a policy has a new checkpoint; at once where it had one since the last call. For one waiter.
    pub async fn policy_counted(&self) {
        self.policies.notified().await;
    }

    /// Listens until told to stop, on one connection of the pool, and connects again when it is lost.
    pub async fn listen(self, pool: PgPool, stop: CancellationToken) {
        let listening = async {
            loop {
                if let Err(error) = self.pass_on(&pool).await {
                    tracing::warn!(error = %error, "lost the connection that listens for jobs");
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = listening => {}
        }
    }

    async fn pass_on(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen_all([CHANNEL, POLICIES]).await?;
        loop {
            let notification = listener.recv().await?;
            match notification.channel() {
                POLICIES => self.policies.notify_one(),
                _ => self.report(notification.payload()),
            }
        }
    }

    /// Passes on what a notification says.
    pub(crate) fn report(&self, payload: &str) {
        if let Some(change) = parse(payload) {
            // No receiver means that nobody waits.
            let _ = self.sender.send(change);
        }
    }
}

/// Changes were missed: any job may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed;

impl Subscription {
    /// The next change that has been reported already; `None` where there is none.
    pub fn next_reported(&mut self) -> Result<Option<JobChange>, Missed> {
        match self.receiver.try_recv() {
            Ok(change) => Ok(Some(change)),
            Err(broadcast::error::TryRecvError::Lagged(_)) => Err(Missed),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => Ok(None),
        }
    }

    /// Returns at the first change that `concerns` the waiter, when changes were missed, or after `patience`.
    pub async fn changed(&mut self, patience: Duration, concerns: impl Fn(JobChange) -> bool) {
        let wanted = async {
            loop {
                match self.receiver.recv().await {
                    Ok(change) if !concerns(change) => {}
                    // A closed channel never wakes anybody; then only the patience ends the wait.
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                }
            }
        };
        let _ = tokio::time::timeout(patience, wanted).await;
    }
}

fn parse(payload: &str) -> Option<JobChange> {
    let (state, job_id) = payload.split_once(' ')?;
    Some(JobChange { job_id: job_id.parse().ok()?, state: state.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_a_state_and_an_id() {
        let job_id: JobId = "0190f3a8-0000-7000-8000-000000000001".parse().unwrap();
        let change = parse(&format!("queued {job_id}")).unwrap();
        assert_eq!(change, JobChange { job_id, state: JobState::Queued });
        assert_eq!(parse("queued"), None);
        assert_eq!(parse("queued x"), None);
    }
}
