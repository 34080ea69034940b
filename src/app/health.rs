//! Whether the server can do its work.

use super::AppResult;
use crate::{db, state::AppState};

/// Fails where the database or the object store does not answer.
pub async fn check_ready(state: &AppState) -> AppResult<()> {
    db::ping(&state.pool).await?;
    state.store.ping().await?;
    Ok(())
}
