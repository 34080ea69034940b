//! What can go wrong between a client and the server, in words that a person can act on.

use std::{path::PathBuf, time::Duration};

use reqwest::StatusCode;

use crate::Problem;

/// Result of a client call.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused the request and said why.
    #[error("{}", told(.problem))]
    Problem {
        /// The server's words.
        problem: Box<Problem>,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// Something between here and the server answered in its place.
    #[error(
        "{url} answered {status} without a problem body: {excerpt}; is this a Barycenter server, or a proxy before it?"
    )]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: StatusCode,
        /// The start of the body.
        excerpt: String,
        /// How long the answer asks to wait.
        retry_after: Option<Duration>,
    },
    /// No answer came.
    #[error("{} ({})", unreachable(.url, .cause), chain(.cause))]
    Transport {
        /// What was asked for.
        url: String,
        /// What the HTTP library said; part of the message, so no source of its own.
        cause: reqwest::Error,
    },
    /// The server sent nothing for longer than a healthy connection ever pauses.
    #[error("{url}: no byte came for {seconds} seconds")]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// The answer is not what this client knows.
    #[error("{url}: the answer could not be read ({cause}); is the server of another version?")]
    Decode {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
    /// The answer breaks the rules of HTTP.
    #[error("{url}: {detail}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A file on this machine could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes received are not the bytes that were promised; they were thrown away.
    #[error("{}: the downloaded bytes have BLAKE3 digest {found}, but {expected} was promised", .path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest promised.
        expected: String,
        /// The digest found.
        found: String,
    },
    /// The client was given something that it cannot use.
    #[error("{0}")]
    Setup(String),
}

impl ClientError {
    /// An [`ClientError::Io`] of this file.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(super) fn transport(url: &reqwest::Url, source: reqwest::Error) -> Self {
        Self::Transport { url: url.to_string(), cause: source.without_url() }
    }

    /// The status, where an answer came.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Problem { problem, .. } => StatusCode::from_u16(problem.status).ok(),
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The server's words, where it gave any.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// How long the server asked to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the request was not carried out, for certain, and may be sent again as it is.
    pub fn was_not_carried_out(&self) -> bool {
        match self {
            Self::Transport { cause, .. } => cause.is_connect(),
            _ => matches!(self.status(), Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)),
        }
    }

    /// Whether the same request may fare better later: an outage, a broken connection, an overload, a full store.
    pub fn is_transient(&self) -> bool {
        self.was_not_carried_out()
            || matches!(self, Self::Transport { .. } | Self::Stalled { .. })
            || matches!(
                self.status(),
                Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT | StatusCode::INSUFFICIENT_STORAGE)
            )
    }
}

/// The problem in one or more lines: what happened, each field at fault, the id to look for in the server's log.
fn told(problem: &Problem) -> String {
    let what = if problem.detail.is_empty() { &problem.title } else { &problem.detail };
    let fields = problem.errors.iter().map(|e| format!("{}: {}", e.field, e.detail));
    let ids = format!("(code {}, status {}, request {})", problem.code, problem.status, problem.request_id);
    let lines: Vec<_> = [what.clone()].into_iter().chain(fields).chain([ids]).collect();
    lines.join("\n  ")
}

fn unreachable(url: &str, source: &reqwest::Error) -> String {
    if source.is_connect() {
        format!("cannot connect to {url}: is the server running there?")
    } else if source.is_timeout() {
        format!("{url} did not answer in time")
    } else {
        format!("the connection to {url} broke")
    }
}

/// The causes below an error, outermost first; reqwest's own text leaves them out.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source()).map(ToString::to_string);
    let text = causes.collect::<Vec<_>>().join(": ");
    if text.is_empty() { error.to_string() } else { text }
}
