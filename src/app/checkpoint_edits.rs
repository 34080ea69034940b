//! What changes about a checkpoint after it was pushed: metrics, tags, its pin.

use super::{
    AppError, AppResult,
    checkpoints::{checkpoint_not_found, find_checkpoint_with},
    transaction::{begin, commit},
};
use crate::{
    db,
    domain::{
        checkpoint::{Checkpoint, ReportEdit},
        ids::CheckpointId,
    },
    state::AppState,
};

/// Merges metrics and replaces tags.
pub async fn edit_checkpoint(state: &AppState, id: CheckpointId, edit: ReportEdit) -> AppResult<Checkpoint> {
    let mut transaction = begin(state).await?;
    // Two evaluations may report on one checkpoint at the same moment: neither may undo the other's metric.
    if !db::checkpoints::lock_checkpoint(&mut transaction, id).await? {
        return Err(checkpoint_not_found(id));
    }
    let mut checkpoint = find_checkpoint_with(&mut transaction, id).await?;
    checkpoint.reported.edit(edit).map_err(AppError::from)?;
    db::checkpoints::update_reported(&mut transaction, id, &checkpoint.reported).await?;
    commit(transaction).await?;
    Ok(checkpoint)
}

/// Pins a checkpoint, so that no retention rule and no deletion takes it, or unpins it.
pub async fn pin_checkpoint(state: &AppState, id: CheckpointId, pinned: bool) -> AppResult<Checkpoint> {
    let mut transaction = begin(state).await?;
    let at = pinned.then(|| state.clock.now());
    if !db::checkpoints::mark_pinned(&mut transaction, id, at).await? {
        return Err(checkpoint_not_found(id));
    }
    let checkpoint = find_checkpoint_with(&mut transaction, id).await?;
    commit(transaction).await?;
    Ok(checkpoint)
}
