//! The running server and its watcher.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::{account::Account, binaries::Binaries, cluster};

/// The shell becomes Postgres, after leaving a detached watcher behind that reads the pipe from the starting process.
/// At its end Postgres is asked for a fast shutdown; when it is gone, so is the folder `$1`, where one was given.
const WATCHED: &str = r#"
remove=$1; data=$2; shift 2
exec 3<&0 </dev/null
( (
    trap '' HUP INT TERM
    cat <&3 >/dev/null
    kill -INT $$
    tries=300
    while [ -e "$data/postmaster.pid" ] && [ $tries -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done
    if [ -n "$remove" ]; then rm -rf -- "$remove"; fi
) 2>/dev/null & )
exec 3<&-
exec "$@"
"#;
const START_PATIENCE: Duration = Duration::from_mins(1);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const LOG_LINES: usize = 12;

/// A running server. The child's standard input is the pipe that the watcher waits on.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts Postgres on the cluster in `folder` and waits until it takes connections.
    pub fn start(
        binaries: &Binaries,
        account: &Account,
        folder: &Path,
        sockets: &Path,
        remove: Option<&Path>,
        fsync: bool,
    ) -> Result<Self> {
        let data = folder.join("data");
        let log = folder.join("postgres.log");
        let log_file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WATCHED, "sh"]).arg(remove.unwrap_or(Path::new(""))).arg(&data);
        shell.arg(binaries.program("postgres")).arg("-D").arg(&data).arg("-k").arg(sockets);
        shell.args(settings(fsync));
        account.run(&mut shell);
        // Its own process group: Ctrl-C on the terminal is for the starting process, which shuts down in order.
        shell.process_group(0).stdin(Stdio::piped()).stderr(log_file.try_clone()?).stdout(log_file);
        let child = shell.spawn().context("cannot run /bin/sh")?;
        let mut server = Self { child };
        server.wait_until_ready(&data, &log)?;
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self, data: &Path, log: &Path) -> Result<()> {
        let give_up = Instant::now() + START_PATIENCE;
        while !cluster::is_ready(data, self.child.id()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("Postgres ended at once ({status}); {} says:\n{}", log.display(), tail(log));
            }
            if Instant::now() > give_up {
                bail!("Postgres did not get ready in {START_PATIENCE:?}; {} says:\n{}", log.display(), tail(log));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Ends postmaster, watcher and every process of the postmaster by SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let postmaster = Pid::from_raw(self.child.id().cast_signed());
        // Stopped, it starts no process between the look at its children and their end.
        kill(postmaster, Signal::SIGSTOP)?;
        let children = children_of(self.child.id())?;
        killpg(postmaster, Signal::SIGKILL)?;
        for child in &children {
            // One that has ended by itself is what was wanted. Each leads a group of its own, so the one above left it alone.
            let _ = kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
        }
        self.child.wait()?;
        // The shared memory is theirs until the last is gone, and the next start refuses to begin before.
        let give_up = Instant::now() + STOP_PATIENCE;
        while children.iter().any(|child| parent_of(*child).is_some()) {
            if Instant::now() > give_up {
                bail!("processes of Postgres outlived SIGKILL");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Closes the pipe and waits for the end that the watcher brings about; insists where it does not come.
    pub fn stop(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let give_up = Instant::now() + STOP_PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > give_up {
                // SIGQUIT: immediate shutdown; the next start recovers from the log.
                kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGQUIT)?;
                self.child.wait()?;
                bail!("Postgres did not shut down in {STOP_PATIENCE:?} and was ended at once");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody is there to hear of a failure; the watcher has been told in any case.
        let _ = self.stop();
    }
}

fn settings(fsync: bool) -> impl Iterator<Item = String> {
    let mut settings = vec![
        "listen_addresses=".to_owned(),
        "unix_socket_permissions=0700".into(),
        // Each test has a database and a pool of its own.
        "max_connections=200".into(),
        "log_timezone=UTC".into(),
        "timezone=UTC".into(),
    ];
    if !fsync {
        settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(Into::into));
    }
    settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting])
}

fn children_of(parent: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("cannot list the processes")?;
    let processes = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(processes.filter(|process| parent_of(*process) == Some(parent)).collect())
}

/// The parent of a process that lives: `4711 (name) S 4700 ...`.
fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split_whitespace();
    if words.next()? == "Z" {
        return None;
    }
    words.next()?.parse().ok()
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
