//! What the system tells of a folder; it may miss things, and on network disks it misses most.

use std::{path::Path, sync::Arc};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Wakes whoever waits when something in a folder changes.
pub struct Changes {
    changed: Arc<Notify>,
    #[expect(dead_code, reason = "held so that the system goes on telling")]
    watcher: RecommendedWatcher,
}

impl Changes {
    /// Of this folder and those in it.
    pub fn of(folder: &Path) -> notify::Result<Self> {
        let changed = Arc::new(Notify::new());
        let tell = Arc::clone(&changed);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // That somebody reads, this command among them, is no change.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                tell.notify_one();
            }
        })?;
        watcher.watch(folder, RecursiveMode::Recursive)?;
        Ok(Self { changed, watcher })
    }
}

/// Until something changes; for ever where nobody tells.
pub async fn next(changes: Option<&Changes>) {
    match changes {
        Some(changes) => changes.changed.notified().await,
        None => std::future::pending().await,
    }
}
