//! `barycenter dev` as a process: one command from nothing to a service, and nothing left behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use barycenter_api::client::Client;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);

struct Dev {
    process: Child,
    url: String,
}

impl Dev {
    fn start(folder: &Path) -> Self {
        let mut process = barycenter()
            .args(["dev", "--no-worker", "--port", "0", "--data-dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
        Self { process, url: url.trim().to_owned() }
    }

    fn client(&self) -> Client {
        Client::new(&self.url, None).unwrap()
    }

    /// As Ctrl-C and service managers do; true where it ended in order.
    fn stop(mut self) -> bool {
        assert!(Command::new("kill").arg(self.process.id().to_string()).status().unwrap().success());
        self.process.wait().unwrap().success()
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn barycenter() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barycenter"));
    command.env("RUST_LOG", "warn").env_remove("BARYCENTER_API_TOKEN").env_remove("BARYCENTER_TOKEN");
    command
}

/// The command's exit code and what it wrote to standard output.
fn cli(dev: &Dev, words: &[&str]) -> (i32, String) {
    let output = barycenter().args(words).env("BARYCENTER_SERVER", &dev.url).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// A folder that the account of Postgres can reach.
fn folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

fn postgres_is_gone(folder: &Path) -> bool {
    let mark = folder.join("postgres/data/postmaster.pid");
    let give_up = Instant::now() + PATIENCE;
    while mark.exists() && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(20));
    }
    !mark.exists()
}

#[tokio::test]
async fn it_keeps_its_data_and_leaves_no_process() {
    let folder = folder();
    let first = Dev::start(folder.path());
    assert!(first.url.starts_with("http://127.0.0.1:"), "{}", first.url);
    let (code, created) = cli(&first, &["run", "create", "kept", "-o", "id"]);
    assert_eq!(code, 0);
    assert!(first.stop());
    assert!(postgres_is_gone(folder.path()));
    let second = Dev::start(folder.path());
    let run = second.client().find_run("kept").await.unwrap();
    assert_eq!(run.run_id.to_string(), created.trim());
    assert!(second.stop());
}

#[test]
fn a_killed_one_leaves_no_database_behind_and_starts_again() {
    let folder = folder();
    Dev::start(folder.path()).kill();
    assert!(postgres_is_gone(folder.path()));
    assert!(Dev::start(folder.path()).stop());
}

#[test]
fn commands_exit_as_documented() {
    let folder = folder();
    let dev = Dev::start(folder.path());
    assert_eq!(cli(&dev, &["run", "show", "absent"]).0, 4);
    assert_eq!(cli(&dev, &["run", "create", "no spaces, please"]).0, 1);
    assert_eq!(cli(&dev, &["run", "create"]).0, 2);
    assert_eq!(cli(&dev, &["run", "list", "-o", "json"]), (0, "[]\n".into()));
    assert!(dev.stop());
    let absent = barycenter().args(["run", "list", "--server", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("is the server running there?"));
}

#[test]
fn a_taken_folder_is_refused() {
    let folder = folder();
    let dev = Dev::start(folder.path());
    let second = barycenter().args(["dev", "--port", "0", "--data-dir"]).arg(folder.path()).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("is in use by another process"));
    assert!(dev.stop());
}
