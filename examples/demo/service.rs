//! The service under demonstration: `barycenter dev` as a child process.

use std::{path::Path, process::Stdio};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// A running `barycenter dev`.
pub struct Service {
    child: Child,
    pub url: String,
}

impl Service {
    /// Starts the binary that was built beside this example and waits for the URL it prints.
    pub async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("where this example lies")?;
        let folder = this.parent().and_then(Path::parent).context("this example lies in target/<profile>/examples")?;
        let binary = folder.join("barycenter");
        let mut child = Command::new(&binary)
            .args(["dev", "--port", "0", "--data-dir"])
            .arg(data_dir)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some(start) = line.find("http://") {
                let url = line[start..].split_whitespace().next().unwrap_or_default();
                return Ok(Self { child, url: url.trim_end_matches('/').to_owned() });
            }
        }
        bail!("`barycenter dev` ended before it printed its URL: {}", child.wait().await?)
    }

    /// Asks the service to end, and waits until it has cleaned up.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        }
        self.child.wait().await?;
        Ok(())
    }

    /// Waits until someone ends the service.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        self.child.wait().await?;
        Ok(())
    }
}
