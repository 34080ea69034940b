//! Work that is done again and again in the background.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::AppResult;

/// Runs `round` now and after every `period` until told to stop. A failed round is logged with what it left undone, and the next
/// one tries again.
pub(super) async fn repeat<T, R: Future<Output = AppResult<T>>>(
    period: Duration,
    stop: CancellationToken,
    undone: &'static str,
    round: impl Fn() -> R,
) {
    let mut rounds = tokio::time::interval(period);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        if let Err(error) = round().await {
            tracing::warn!(error = ?error, "{undone}");
        }
    }
}
