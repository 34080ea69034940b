//! Transactions and connections: the only place that takes them from the pool.

use sqlx::{Postgres, Transaction, pool::PoolConnection};

use super::AppResult;
use crate::{db::DbError, state::AppState};

/// Begins a transaction; dropped without [`commit`], it is rolled back.
pub async fn begin(state: &AppState) -> AppResult<Transaction<'static, Postgres>> {
    Ok(state.pool.begin().await.map_err(DbError::from)?)
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
