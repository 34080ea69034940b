//! The signals that end a command in order.

use tokio::signal::unix::{SignalKind, signal};

/// Until SIGTERM or Ctrl-C.
pub async fn told() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            // Then only SIGKILL ends it, which is as well.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        // Where Ctrl-C cannot be heard, the command ends at once: nothing is lost.
        _ = tokio::signal::ctrl_c() => {}
    }
}
