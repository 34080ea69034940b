//! The data folder: made once, and free of a predecessor before it is used.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{account::Account, binaries::Binaries};

/// The role that owns the cluster.
pub const SUPERUSER: &str = "barycenter";
const POLL: Duration = Duration::from_millis(50);

/// The major version that made the cluster, where there is one.
pub fn version_of(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// Runs `initdb` unless the cluster is there. An interrupted one leaves nothing that looks like a cluster.
pub fn make(binaries: &Binaries, account: &Account, data: &Path, fsync: bool) -> Result<()> {
    if version_of(data).is_some() {
        return Ok(());
    }
    let unfinished = data.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    let program = binaries.program("initdb");
    let mut initdb = Command::new(&program);
    initdb.arg("-D").arg(&unfinished).args(["-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C"]);
    if !fsync {
        initdb.arg("--no-sync");
    }
    account.run(&mut initdb);
    let output = initdb.output().with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", program.display(), output.status, told.trim());
    }
    fs::rename(&unfinished, data).with_context(|| format!("cannot make {}", data.display()))
}

/// Waits for a Postgres that a killed process left behind to end, and removes the mark of one that was killed itself.
pub fn wait_for_predecessor(data: &Path, patience: Duration) -> Result<()> {
    let mark = data.join("postmaster.pid");
    let give_up = Instant::now() + patience;
    while let Some(pid) = pid_in(&mark) {
        if !is_postgres_of(pid, data) {
            return match fs::remove_file(&mark) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("cannot remove the stale {}", mark.display()))
                }
                _ => Ok(()),
            };
        }
        if Instant::now() > give_up {
            bail!("{} is in use by Postgres process {pid}; stop that one, or choose another folder", data.display());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn pid_in(mark: &Path) -> Option<u32> {
    fs::read_to_string(mark).ok()?.lines().next()?.trim().parse().ok()
}

/// Whether the process is there and works in `data`: the number may have gone to another process since.
fn is_postgres_of(pid: u32, data: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    match fs::read_link(process.join("cwd")) {
        Ok(folder) => fs::canonicalize(data).is_ok_and(|data| data == folder),
        // Another account's process hides its folder, but not its name.
        Err(_) => fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres"),
    }
}

/// Whether the server has written into `postmaster.pid` that it takes connections, as `pg_ctl -w` asks.
pub fn is_ready(data: &Path, pid: u32) -> bool {
    let mark = data.join("postmaster.pid");
    pid_in(&mark) == Some(pid)
        && fs::read_to_string(mark).is_ok_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
}
