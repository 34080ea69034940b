//! Starts a private Postgres from the machine's own binaries, for tests and try-outs.
//!
//! The cluster listens on a unix socket in a folder that only its owner may enter, never on TCP, and trusts whoever
//! gets there. Postgres refuses to run as root, so root's cluster runs under another account. A watcher process waits
//! for the end of a pipe that the starting process holds: however that process dies, `kill -9` included, Postgres is
//! shut down and a temporary folder removed. (`PR_SET_PDEATHSIG` would do for Linux alone, and there it fires when the
//! starting *thread* ends, which in an async program is any time.)

mod account;
mod binaries;
mod cluster;
mod server;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{account::Account, binaries::Binaries, server::Server};

/// A Unix socket's path may hold 107 bytes (`sun_path`), of which Postgres adds `/.s.PGSQL.5432.lock`.
const LONGEST_SOCKET_FOLDER: usize = 107 - 19;
/// A predecessor whose owner was killed needs a moment to shut down.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(30);

/// How a cluster is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Flush every commit to disk. Off, a crash of the machine may destroy the cluster; a crash of a process never does.
    pub fsync: bool,
}

/// A running Postgres; dropping it shuts it down.
#[derive(Debug)]
pub struct PrivatePostgres {
    // In order of dropping: the server ends before its folders go and its lock opens.
    server: Server,
    folder: PathBuf,
    sockets: PathBuf,
    _socket_folder: Option<TempDir>,
    _temporary: Option<TempDir>,
    _lock: File,
}

impl PrivatePostgres {
    /// Starts the cluster kept in `folder`, made first where there is none yet; returns when it takes connections.
    ///
    /// Where root starts it and the account that has to run it cannot reach `folder`, the cluster lives under
    /// `/var/lib/private-postgres` instead; [`PrivatePostgres::folder`] tells.
    ///
    /// # Errors
    /// Where Postgres is not installed, the folder is in use, or Postgres ends at once; the message says what to do.
    pub fn start(folder: &Path, options: Options) -> Result<Self> {
        let account = Account::choose()?;
        let absolute = std::path::absolute(folder).with_context(|| format!("{}", folder.display()))?;
        let reachable = account.reachable(&absolute)?;
        Self::start_in(reachable, None, &account, options)
    }

    /// Starts a new cluster in a temporary folder, removed when it ends. It does not flush to disk.
    pub fn temporary() -> Result<Self> {
        let account = Account::choose()?;
        let temporary = account.temporary_folder("barycenter-postgres-")?;
        let folder = temporary.path().to_owned();
        Self::start_in(folder, Some(temporary), &account, Options { fsync: false })
    }

    fn start_in(folder: PathBuf, temporary: Option<TempDir>, account: &Account, options: Options) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        account.own(&folder)?;
        let lock = lock(&folder)?;
        let data = folder.join("data");
        let binaries = Binaries::find(cluster::version_of(&data))?;
        cluster::wait_for_predecessor(&data, PREDECESSOR_PATIENCE)?;
        cluster::make(&binaries, account, &data, options.fsync)?;
        let (sockets, socket_folder) = socket_folder(&folder, account)?;
        let remove = temporary.as_ref().map(TempDir::path).or(socket_folder.as_ref().map(TempDir::path));
        let server = Server::start(&binaries, account, &folder, &sockets, remove, options.fsync)?;
        Ok(Self { server, folder, sockets, _socket_folder: socket_folder, _temporary: temporary, _lock: lock })
    }

    /// `postgres://` URL of its database `postgres`, for a superuser.
    pub fn url(&self) -> String {
        let host = percent_encoded(&self.sockets);
        format!("postgres://{}@localhost/postgres?host={host}", cluster::SUPERUSER)
    }

    /// The folder that holds the cluster and its log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The folder of its socket, `.s.PGSQL.5432`.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Ends every process of it by SIGKILL, as a crash does; [`PrivatePostgres::start`] on the same folder recovers what was committed.
    ///
    /// # Errors
    /// Where the system does not tell which processes there are.
    pub fn kill(mut self) -> Result<()> {
        self.server.kill()
    }

    /// Shuts it down: open transactions are rolled back, the cluster is left clean.
    pub fn stop(mut self) -> Result<()> {
        self.server.stop()
    }
}

/// Takes the folder for this process; the lock opens by itself when the process ends.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is in use by another process; stop that one, or choose another folder", folder.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// A folder for the socket: beside the data where its path is short enough, else a temporary one.
fn socket_folder(folder: &Path, account: &Account) -> Result<(PathBuf, Option<TempDir>)> {
    let beside = folder.join("socket");
    if beside.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
        fs::create_dir_all(&beside).with_context(|| format!("cannot make {}", beside.display()))?;
        account.own(&beside)?;
        return Ok((beside, None));
    }
    let temporary = account.temporary_folder_in(Path::new("/tmp"), "pg-")?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

/// The path as a value in a URL's query.
fn percent_encoded(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes
        .iter()
        .map(|&b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect::<Vec<_>>()
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_survives_the_url() {
        assert_eq!(percent_encoded(Path::new("/a b/ü%")), "%2Fa%20b%2F%C3%BC%25");
    }
}
