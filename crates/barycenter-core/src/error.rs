//! Errors of the core, told apart by who is at fault.

use std::path::PathBuf;

/// Result of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the core.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that makes no sense; the message names the field, tensor or candidate.
    #[error("{0}")]
    Input(String),
    /// A file is not what its format says; the message names what is wrong.
    #[error("{0}")]
    Corrupt(String),
    /// The caller asked the computation to stop.
    #[error("stopped")]
    Stopped,
    /// The device or its library failed.
    #[error("computation failed: {0}")]
    Compute(#[from] candle_core::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// An [`Error::Input`] with this message.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// An [`Error::Corrupt`] with this message.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::Corrupt(message.into())
    }

    /// An [`Error::Io`] of this file.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// The same error, saying of which file.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Corrupt(what) => Self::Corrupt(format!("{}: {what}", path.display())),
            Self::Input(what) => Self::Input(format!("{}: {what}", path.display())),
            other => other,
        }
    }
}
