//! Exit codes.

use std::{fmt, io, process::ExitCode};

use barycenter_api::client::ClientError;

/// What each exit code means, for `--help`.
pub const EXIT_CODES: &str = "Exit codes:\n  0  success\n  1  the job failed, or another error\n  2  wrong usage\n  \
    3  the job was cancelled\n  4  not found\n  5  the token is missing or not accepted\n  6  what was waited for has not happened in time";

/// How a command that ran to its end ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As wished.
    Success,
    /// The job failed.
    JobFailed,
    /// The job was cancelled.
    JobCancelled,
    /// What was waited for has not happened in time.
    TimedOut,
}

/// The caller asked for something that makes no sense.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error of [`Usage`].
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Tells an error on standard error and chooses the exit code.
pub fn code(outcome: anyhow::Result<Outcome>) -> ExitCode {
    match outcome {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::JobFailed) => ExitCode::from(1),
        Ok(Outcome::JobCancelled) => ExitCode::from(3),
        Ok(Outcome::TimedOut) => ExitCode::from(6),
        // `barycenter run list | head`: the reader has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::from(number(&error))
        }
    }
}

/// The error and its causes, apart from those that the text before them tells already.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = match error.downcast_ref::<ClientError>() {
        Some(ClientError::Io { source, .. }) => Some(source.kind()),
        _ => error.downcast_ref::<io::Error>().map(io::Error::kind),
    };
    kind == Some(io::ErrorKind::BrokenPipe)
}

fn number(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() {
        return 2;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Setup(_)) => 2,
        Some(error) => match error.status().map(|status| status.as_u16()) {
            Some(404) => 4,
            Some(401 | 403) => 5,
            _ => 1,
        },
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn problem(status: u16) -> anyhow::Error {
        let text = format!(
            r#"{{"type":"/problems/x","title":"t","status":{status},"detail":"d","instance":"/","code":"x","request_id":"r"}}"#
        );
        let problem = serde_json::from_str(&text).unwrap();
        ClientError::Problem { problem: Box::new(problem), retry_after: None }.into()
    }

    #[test]
    fn nothing_is_told_twice() {
        let absent = ClientError::io("a/b", io::ErrorKind::NotFound.into());
        let error = Err::<(), _>(absent).context("while pushing").unwrap_err();
        assert_eq!(told(&error), "while pushing: a/b: entity not found");
    }

    #[test]
    fn the_exit_code_tells_what_kind_of_error_it_was() {
        assert_eq!([404, 401, 403, 422, 503].map(|status| number(&problem(status))), [4, 5, 5, 1, 1]);
        assert_eq!(number(&usage("no")), 2);
        assert_eq!(number(&Err::<(), _>(problem(404)).context("while pushing").unwrap_err()), 4);
        assert_eq!(number(&anyhow::anyhow!("disk full")), 1);
    }
}
