//! The whole life of private clusters, on the machine's own binaries.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use private_postgres::{Options, PrivatePostgres};

const NO_FSYNC: Options = Options { fsync: false };

fn query(url: &str, sql: &str) -> String {
    let output = Command::new("psql").args(["-XAtq", url, "-c", sql]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A folder that every account can reach.
fn folder() -> tempfile::TempDir {
    let open = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().permissions(open).tempdir_in("/tmp").unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < give_up, "{what} did not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_cluster_keeps_its_data_over_a_restart() {
    let folder = folder();
    let first = PrivatePostgres::start(&folder.path().join("pg"), NO_FSYNC).unwrap();
    query(&first.url(), "create table kept as select 42 as answer");
    assert_eq!(query(&first.url(), "show listen_addresses"), "");
    assert_eq!(query(&first.url(), "show fsync"), "off");
    first.stop().unwrap();
    let second = PrivatePostgres::start(&folder.path().join("pg"), Options { fsync: true }).unwrap();
    assert_eq!(query(&second.url(), "select answer from kept"), "42");
    assert_eq!(query(&second.url(), "show fsync"), "on");
}

#[test]
fn a_killed_cluster_keeps_what_was_committed() {
    let folder = folder();
    let first = PrivatePostgres::start(&folder.path().join("pg"), Options { fsync: true }).unwrap();
    query(&first.url(), "create table kept as select 42 as answer");
    let postmaster = first.pid();
    first.kill().unwrap();
    assert!(!is_alive(postmaster));
    let second = PrivatePostgres::start(&folder.path().join("pg"), Options { fsync: true }).unwrap();
    assert_eq!(query(&second.url(), "select answer from kept"), "42");
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = folder();
    let first = PrivatePostgres::start(folder.path(), NO_FSYNC).unwrap();
    let error = PrivatePostgres::start(folder.path(), NO_FSYNC).unwrap_err();
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    assert_eq!(query(&first.url(), "select 1"), "1");
}

#[test]
fn a_killed_server_leaves_a_folder_that_starts_again() {
    let folder = folder();
    let killed = PrivatePostgres::start(folder.path(), NO_FSYNC).unwrap();
    kill(Pid::from_raw(killed.pid().cast_signed()), Signal::SIGKILL).unwrap();
    drop(killed);
    let mark = folder.path().join("data/postmaster.pid");
    assert!(mark.exists(), "the case under test is a mark that nobody removed");
    // Meanwhile the number may belong to anything: here, to this test.
    let text = fs::read_to_string(&mark).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    fs::write(&mark, format!("{}\n{rest}", std::process::id())).unwrap();
    let again = PrivatePostgres::start(folder.path(), NO_FSYNC).unwrap();
    assert_eq!(query(&again.url(), "select 1"), "1");
}

#[test]
fn a_long_folder_name_gets_a_short_socket() {
    let folder = folder();
    let long = folder.path().join("a".repeat(100));
    let postgres = PrivatePostgres::start(&long, NO_FSYNC).unwrap();
    assert_eq!(query(&postgres.url(), "select 1"), "1");
    assert_eq!(postgres.folder(), long);
}

#[test]
fn only_its_owner_gets_to_the_socket() {
    let postgres = PrivatePostgres::temporary().unwrap();
    for closed in [postgres.folder().to_owned(), postgres.folder().join("socket"), postgres.folder().join("data")] {
        assert_eq!(fs::metadata(&closed).unwrap().permissions().mode() & 0o077, 0, "{}", closed.display());
    }
}

#[test]
fn a_temporary_cluster_leaves_nothing() {
    let postgres = PrivatePostgres::temporary().unwrap();
    let (folder, pid) = (postgres.folder().to_owned(), postgres.pid());
    postgres.stop().unwrap();
    assert!(!folder.exists());
    assert!(!is_alive(pid));
}

/// `with-postgres` with a shell that tells its URL and waits for the end of its input.
struct Wrapped {
    process: Child,
    folder: PathBuf,
    server: u32,
}

impl Wrapped {
    fn start(script: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_with-postgres"))
            .args(["--", "/bin/sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let data = query(line.trim(), "show data_directory");
        let mark = fs::read_to_string(Path::new(&data).join("postmaster.pid")).unwrap();
        let server = mark.lines().next().unwrap().parse().unwrap();
        Self { process, folder: Path::new(&data).parent().unwrap().to_owned(), server }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }
}

#[test]
fn the_exit_code_is_the_commands() {
    let mut wrapped = Wrapped::start("echo $DATABASE_URL; read line; exit $line");
    wrapped.process.stdin.take().unwrap().write_all(b"7\n").unwrap();
    assert_eq!(wrapped.process.wait().unwrap().code(), Some(7));
    assert!(!wrapped.folder.exists() && !is_alive(wrapped.server));
}

#[test]
fn nothing_is_left_when_the_owner_is_killed() {
    let mut wrapped = Wrapped::start("echo $DATABASE_URL; read line");
    wrapped.signal(Signal::SIGKILL);
    wrapped.process.wait().unwrap();
    eventually("the end of Postgres", || !is_alive(wrapped.server));
    eventually("the end of the folder", || !wrapped.folder.exists());
}

#[test]
fn an_interrupted_command_is_cleaned_up_after() {
    let mut wrapped = Wrapped::start("echo $DATABASE_URL; exec sleep 600");
    wrapped.signal(Signal::SIGTERM);
    assert_eq!(wrapped.process.wait().unwrap().code(), Some(128 + 15));
    assert!(!wrapped.folder.exists() && !is_alive(wrapped.server));
}

#[test]
fn a_command_that_is_not_there_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_with-postgres")).arg("/no/such/program").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("cannot run /no/such/program"), "{told}");
}
