//! What a use case can end with, other than success.

use std::time::Duration;

use crate::{
    db::DbError,
    domain::{ids::InvalidId, problem_code::ProblemCode},
    storage::StorageError,
};

/// Result of a use case.
pub type AppResult<T> = Result<T, AppError>;

/// How long clients wait before they ask an unavailable server again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// One field, tensor or candidate at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path of the field, or the tensor's name.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

/// What a use case can end with, other than success.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The caller is at fault; the code says how, the detail names what.
    #[error("{detail}")]
    Refused {
        /// The kind of refusal; its status is a 4xx.
        code: ProblemCode,
        /// What happened, for people.
        detail: String,
        /// The fields at fault, where there are any.
        faults: Vec<Fault>,
    },
    /// The database or the store cannot be reached, or has no room.
    #[error("unavailable")]
    Unavailable {
        /// Which of it; its status is a 5xx.
        code: ProblemCode,
        /// When the same request may fare better.
        retry_after: Duration,
        /// What failed; logged, never shown.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server failed.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AppError {
    /// A refusal that names no field.
    pub fn refused(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self::Refused { code, detail: detail.into(), faults: Vec::new() }
    }

    /// A refusal on account of one field, tensor or candidate.
    pub fn fault(code: ProblemCode, field: impl Into<String>, detail: impl Into<String>) -> Self {
        let (field, detail) = (field.into(), detail.into());
        let summary = format!("{field}: {detail}");
        Self::Refused { code, detail: summary, faults: vec![Fault { field, detail }] }
    }

    /// A field whose value makes no sense.
    pub fn invalid_field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fault(ProblemCode::InvalidField, field, detail)
    }

    /// Something of the server itself that went wrong.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// Something that the server stands on and that may be there again soon.
    fn unavailable(code: ProblemCode, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { code, retry_after: RETRY_AFTER, source: source.into() }
    }

    /// The code that clients see.
    pub fn code(&self) -> ProblemCode {
        match self {
            Self::Refused { code, .. } | Self::Unavailable { code, .. } => *code,
            Self::Internal(_) => ProblemCode::Internal,
        }
    }
}

impl From<DbError> for AppError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(_) => Self::unavailable(ProblemCode::Unavailable, error),
            other => Self::internal(other),
        }
    }
}

impl From<StorageError> for AppError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Full(_) => Self::unavailable(ProblemCode::StoreFull, error),
            StorageError::Backend(_) | StorageError::Folder { .. } => {
                Self::unavailable(ProblemCode::Unavailable, error)
            }
            other => Self::internal(other),
        }
    }
}

impl From<InvalidId> for AppError {
    fn from(error: InvalidId) -> Self {
        Self::refused(ProblemCode::InvalidId, error.to_string())
    }
}
