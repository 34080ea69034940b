//! Why an attempt ends without an artifact.

use std::time::Duration;

use backon::ExponentialBuilder;
use barycenter_api::client::ClientError;
use barycenter_core::Error;

/// Why an attempt ended without an artifact.
#[derive(Debug)]
pub(crate) struct Failure {
    pub code: &'static str,
    pub message: String,
    pub retry: bool,
}

/// How long a worker goes on offering a finished job to a server that is away: about five minutes.
pub(crate) fn patience() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(10))
        .with_total_delay(Some(Duration::from_mins(5)))
        .without_max_times()
        .with_jitter()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, retry) = match &error {
            Error::Input(_) => ("invalid_input", false),
            Error::Corrupt(_) => ("corrupt_file", false),
            Error::Stopped => ("stopped", true),
            Error::Compute(_) => ("compute", true),
            Error::Io { source, .. } => (code_of_io(source), true),
        };
        Self { code, message: error.to_string(), retry }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Io { source, .. } => code_of_io(source),
            ClientError::Transport { .. } | ClientError::Stalled { .. } => "server_unreachable",
            // The server is there and what stands behind it is not.
            other if other.status().is_some_and(|status| status == 503) => "store_unreachable",
            other if other.status().is_some_and(|status| status == 507) => "disk_full",
            _ => "io",
        };
        Self { code, message: error.to_string(), retry: true }
    }
}

/// What failed on this machine: a full disk passes once the cache has been trimmed or somebody made room.
pub(crate) fn code_of_io(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "disk_full",
        _ => "io",
    }
}
