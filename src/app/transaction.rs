//! Transactions and connections: the only place that takes them from the pool.

use sqlx::{Postgres, Transaction, pool::PoolConnection};

use super::{AppError, AppResult};
use crate::{db::DbError, state::AppState};

/// Begins a transaction; dropped without [`commit`], it is rolled back.
pub async fn begin(state: &AppState) -> AppResult<Transaction<'static, Postgres>> {
    // In a task of its own: sqlx takes no note of a BEGIN whose caller goes away before the answer, and its connection would go back
    // to the pool inside a transaction that nobody ends: what is written there later would never be committed.
    let pool = state.pool.clone();
    let begun = tokio::spawn(async move { pool.begin().await }).await.map_err(AppError::internal)?;
    Ok(begun.map_err(DbError::from)?)
}

/// Commits a transaction.
pub async fn commit(transaction: Transaction<'static, Postgres>) -> AppResult<()> {
    Ok(transaction.commit().await.map_err(DbError::from)?)
}

/// Takes a transaction back, now and not when its connection is next used.
pub async fn rollback(transaction: Transaction<'static, Postgres>) -> AppResult<()> {
    Ok(transaction.rollback().await.map_err(DbError::from)?)
}

/// A connection for a single statement; never taken while a transaction is open.
pub async fn connection(state: &AppState) -> AppResult<PoolConnection<Postgres>> {
    Ok(state.pool.acquire().await.map_err(DbError::from)?)
}
