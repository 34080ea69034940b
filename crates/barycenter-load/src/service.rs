//! The server as a process of its own.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use barycenter_api::client::Client;

use crate::store::Store;

/// A running server; killed when dropped.
pub struct Service {
    process: Child,
    binary: PathBuf,
    /// Its address.
    pub url: String,
    /// Its store.
    pub store: Store,
}

impl Service {
    /// Migrates the database and starts a server on it and on the store.
    pub async fn start(binary: &Path, database_url: &str, store: Store) -> Result<Self> {
        let migrated = Command::new(binary).args(["migrate", "--database-url", database_url]).status()?;
        ensure!(migrated.success(), "migrate: {migrated}");
        // Free a moment ago, and nobody else on a machine that measures asks for one.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Command::new(binary);
        server.args(["serve", "--database-url", database_url, "--bind", &format!("127.0.0.1:{port}")]);
        server.env("RUST_LOG", "warn").stdout(Stdio::null());
        store.configure(&mut server);
        let process = server.spawn().with_context(|| binary.display().to_string())?;
        let url = format!("http://127.0.0.1:{port}");
        let service = Self { process, binary: binary.to_owned(), url, store };
        service.until_ready().await?;
        Ok(service)
    }

    async fn until_ready(&self) -> Result<()> {
        let url = format!("{}/readyz", self.url);
        for _ in 0..200 {
            if reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{url} does not answer")
    }

    /// A client of it.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.url, None)?)
    }

    /// A command of the binary against it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("BARYCENTER_SERVER", &self.url).stdout(Stdio::null());
        command
    }

    /// Forgets the peak of its resident memory.
    pub fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5")?)
    }

    /// Most resident memory since [`Self::forget_peak`], in megabytes.
    pub fn peak_megabytes(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM")).context("VmHWM")?;
        let kilobytes: f64 = line.split_whitespace().nth(1).context("VmHWM")?.parse()?;
        Ok(kilobytes * 1024.0 / 1e6)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
