//! What can go wrong in the database.

use std::error::Error as _;

use uuid::Uuid;

/// Result of a query.
pub type DbResult<T> = Result<T, DbError>;

/// What can go wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database cannot be reached, or gave up for reasons of its own; the same call may succeed later.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// A named constraint refused the write.
    #[error("constraint `{name}` refused the write")]
    Constraint {
        /// Name of the constraint in the migrations.
        name: String,
        /// What the driver said.
        source: sqlx::Error,
    },
    /// A row holds something that the program never writes.
    #[error("row {id} of `{table}` has an impossible `{column}`")]
    Inconsistent {
        /// Table of the row.
        table: &'static str,
        /// Column at fault.
        column: &'static str,
        /// Key of the row.
        id: String,
    },
    /// A statement failed.
    #[error("a statement failed")]
    Query(#[source] sqlx::Error),
}

impl DbError {
    /// A [`DbError::Inconsistent`] of a row with a UUID for its key.
    pub fn inconsistent(table: &'static str, column: &'static str, id: Uuid) -> Self {
        Self::Inconsistent { table, column, id: id.to_string() }
    }

    /// Whether this constraint refused the write.
    pub fn is_constraint(&self, expected: &str) -> bool {
        matches!(self, Self::Constraint { name, .. } if name == expected)
    }
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            sqlx::Error::Database(database) => match (database.constraint(), database.code()) {
                (Some(name), _) => Self::Constraint { name: name.to_owned(), source: error },
                (None, Some(code)) if is_passing(&code) => Self::Unavailable(error),
                _ => Self::Query(error),
            },
            _ if error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>) => Self::Unavailable(error),
            _ => Self::Query(error),
        }
    }
}

/// SQLSTATE classes of connection failure (08), lack of resources (53), and the server shutting down or starting (57P).
fn is_passing(sqlstate: &str) -> bool {
    sqlstate.starts_with("08") || sqlstate.starts_with("53") || sqlstate.starts_with("57P")
}
