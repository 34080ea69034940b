//! Where the measured server keeps its bytes: in a folder, or on an S3 server that is not ours.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use object_store::{ObjectStore, aws::AmazonS3Builder, local::LocalFileSystem};

const BUCKET: &str = "bucket";
const REGION: &str = "us-east-1";
const KEY: &str = "key";
const SECRET: &str = "secret-secret";

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A folder of the disk.
    File,
    /// `versitygw`, on a folder of the disk.
    S3,
}

/// An empty store.
pub enum Store {
    /// A folder.
    Folder(PathBuf),
    /// A gateway that speaks S3.
    S3(Gateway),
}

/// A running gateway; killed when dropped.
pub struct Gateway {
    process: Child,
    endpoint: String,
}

impl Store {
    /// Empties the folder and opens a store on it; `gateway` is the program that speaks S3.
    pub async fn open(kind: Kind, folder: &Path, gateway: &Path) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        match kind {
            Kind::File => {
                fs::create_dir_all(folder)?;
                Ok(Self::Folder(folder.to_owned()))
            }
            Kind::S3 => {
                fs::create_dir_all(folder.join(BUCKET))?;
                Ok(Self::S3(Gateway::start(gateway, folder).await?))
            }
        }
    }

    /// How figures call it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Folder(_) => "",
            Self::S3(_) => "S3: ",
        }
    }

    /// Tells a server to use it.
    pub fn configure(&self, server: &mut Command) {
        match self {
            Self::Folder(folder) => {
                server.args(["--storage-url", &format!("file://{}", folder.display())]);
            }
            Self::S3(gateway) => {
                server.args(["--storage-url", &format!("s3://{BUCKET}")]);
                server.env("AWS_ENDPOINT", &gateway.endpoint).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", REGION);
                server.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
            }
        }
    }

    /// The store without a server: what a plain copy goes to. It ends with as much on the disk as the server's.
    pub fn objects(&self) -> Result<Arc<dyn ObjectStore>> {
        Ok(match self {
            Self::Folder(folder) => Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true)),
            Self::S3(gateway) => Arc::new(
                AmazonS3Builder::new()
                    .with_bucket_name(BUCKET)
                    .with_endpoint(&gateway.endpoint)
                    .with_allow_http(true)
                    .with_region(REGION)
                    .with_access_key_id(KEY)
                    .with_secret_access_key(SECRET)
                    .build()?,
            ),
        })
    }
}

impl Gateway {
    async fn start(program: &Path, folder: &Path) -> Result<Self> {
        // Free a moment ago, and nobody else on a machine that measures asks for one.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = Command::new(program)
            .args(["--port", &address.to_string(), "--region", REGION, "posix"])
            .arg(folder)
            .env("ROOT_ACCESS_KEY", KEY)
            .env("ROOT_SECRET_KEY", SECRET)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| {
                format!("{}: go install github.com/versity/versitygw/cmd/versitygw@latest", program.display())
            })?;
        let gateway = Self { process, endpoint: format!("http://{address}") };
        for _ in 0..200 {
            // Any answer will do, also a refusal.
            if reqwest::get(&gateway.endpoint).await.is_ok() {
                return Ok(gateway);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{} does not answer", gateway.endpoint)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
