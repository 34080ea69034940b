//! `with-postgres [--] COMMAND [ARGUMENT]...`: runs a command with `DATABASE_URL` of a private, temporary Postgres.
//!
//! The exit code is the command's; 2 for a wrong call, 1 where Postgres or the command could not be started.

use std::{
    env,
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitCode, ExitStatus},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use private_postgres::PrivatePostgres;
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

fn main() -> ExitCode {
    let mut words: Vec<OsString> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    let Some((program, arguments)) = words.split_first() else {
        eprintln!("usage: with-postgres [--] COMMAND [ARGUMENT]...");
        return ExitCode::from(2);
    };
    match run(program, arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("with-postgres: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(program: &OsString, arguments: &[OsString]) -> Result<ExitCode> {
    // Heard from here on, so that an interrupted start cleans up as well.
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGTERM])?;
    let postgres = PrivatePostgres::temporary()?;
    let spawned = Command::new(program).args(arguments).env("DATABASE_URL", postgres.url()).spawn();
    let mut child = spawned.with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
    let status = wait(&mut child, &mut signals)?;
    postgres.stop()?;
    Ok(exit_code(status))
}

/// Waits for the child and passes on what would have ended this process.
fn wait(child: &mut Child, signals: &mut Signals) -> Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        for signal in signals.wait().filter(|&signal| signal != SIGCHLD) {
            kill(pid, Signal::try_from(signal)?)?;
        }
    }
}

/// As shells do: 128 and the signal's number for a child that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
