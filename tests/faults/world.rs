//! Everything that a service consists of, each part a process of its own that can be killed and started again: Postgres, an S3 store,
//! servers, workers.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use barycenter::config::DatabaseConfig;
use barycenter_api::{Job, ListQuery, client::Client};
use private_postgres::{Options, PrivatePostgres};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    armed::Armed,
    cluster::Process,
    link::{End, Link, free_address},
    store,
};

/// How long a test waits for what must come; far above what it takes.
const PATIENCE: Duration = Duration::from_mins(4);

/// A service whose parts find each other by addresses that never change.
pub struct World {
    pub folder: TempDir,
    /// Where a server listens, or will.
    pub address: SocketAddr,
    pub client: Client,
    /// Between servers and Postgres.
    pub database_link: Link,
    /// Between servers and store.
    pub store_link: Link,
    pub store_address: SocketAddr,
    database_folder: PathBuf,
    database: Option<PrivatePostgres>,
    store: Option<Process>,
}

impl World {
    /// Starts Postgres and store, and makes the tables.
    pub async fn new() -> Self {
        // Postgres may run under an account that has to enter it.
        let open = fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().permissions(open).tempdir_in("/tmp").unwrap();
        let database_folder = folder.path().join("postgres");
        let database = start_postgres(database_folder.clone()).await;
        let (address, store_address) = (free_address(), free_address());
        let world = Self {
            address,
            client: Client::new(&format!("http://{address}"), None).unwrap(),
            database_link: Link::open(vec![End::Unix(database.sockets().join(".s.PGSQL.5432"))]),
            store_link: Link::open(vec![End::Tcp(store_address)]),
            store_address,
            store: Some(store::start(&folder.path().join("store"), store_address).await),
            database: Some(database),
            database_folder,
            folder,
        };
        let config = DatabaseConfig { url: world.database_url(), pool_size: 2 };
        barycenter::server::migrate(&config).await.unwrap();
        world
    }

    /// The database as servers reach it.
    fn database_url(&self) -> String {
        format!("postgres://barycenter@{}/postgres", self.database_link.address)
    }

    /// The database as it is reached past the link.
    pub fn direct_database_url(&self) -> String {
        self.database.as_ref().unwrap().url()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the server, armed where that is asked for, and waits until it is ready.
    pub async fn serve(&self, armed: Option<&Armed>) -> Process {
        self.serve_at(self.address, armed).await
    }

    /// Starts a server at this address and waits until it is ready.
    pub async fn serve_at(&self, address: SocketAddr, armed: Option<&Armed>) -> Process {
        let server = self.start_server(address, store::URL, armed, &[]);
        self.until_ready(address).await;
        server
    }

    /// Starts a server with these settings in place of the usual ones.
    pub fn start_server(
        &self,
        address: SocketAddr,
        store_url: &str,
        armed: Option<&Armed>,
        settings: &[(&'static str, String)],
    ) -> Process {
        let mut environment = self.server_environment(address, store_url, armed);
        environment.extend_from_slice(settings);
        Process::start(&["serve"], &environment)
    }

    /// What a server is told.
    pub fn server_environment(
        &self,
        address: SocketAddr,
        store_url: &str,
        armed: Option<&Armed>,
    ) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("BARYCENTER_BIND", address.to_string()),
            ("DATABASE_URL", self.database_url()),
            ("BARYCENTER_STORAGE_URL", store_url.to_owned()),
            ("BARYCENTER_DATABASE_POOL_SIZE", "5".to_owned()),
            ("BARYCENTER_LEASE_SECONDS", "2".to_owned()),
            ("BARYCENTER_RETRY_PAUSE_SECONDS", "0".to_owned()),
            // As short as it may be, so that servers reap while they are disturbed.
            ("BARYCENTER_UPLOAD_GRACE_SECONDS", "90".to_owned()),
            // How often a job is disturbed is up to the test.
            ("BARYCENTER_MAX_ATTEMPTS", "100".to_owned()),
        ];
        environment.extend(store::settings(self.store_link.address));
        environment.extend(armed.into_iter().flat_map(Armed::environment));
        environment
    }

    pub async fn until_ready(&self, address: SocketAddr) {
        let client = Client::new(&format!("http://{address}"), None).unwrap().with_repeats(0);
        until("the server is ready", async || client.list_runs(&ListQuery::default()).await.ok().map(drop)).await;
    }

    /// Starts a worker with a cache of its own.
    pub fn worker(&self, name: &str, armed: Option<&Armed>) -> Process {
        Process::start(&["worker"], &self.worker_environment(name, self.address, armed))
    }

    /// What a worker of this name is told.
    pub fn worker_environment(
        &self,
        name: &str,
        server: SocketAddr,
        armed: Option<&Armed>,
    ) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("BARYCENTER_SERVER", format!("http://{server}")),
            ("BARYCENTER_CACHE_DIR", self.path(&format!("cache-{name}")).display().to_string()),
            ("BARYCENTER_WORKER_NAME", name.to_owned()),
            ("BARYCENTER_THREADS", "1".to_owned()),
        ];
        environment.extend(armed.into_iter().flat_map(Armed::environment));
        environment
    }

    pub async fn kill_postgres(&mut self) {
        let database = self.database.take().unwrap();
        tokio::task::spawn_blocking(move || database.kill().unwrap()).await.unwrap();
    }

    pub async fn start_postgres(&mut self) {
        self.database = Some(start_postgres(self.database_folder.clone()).await);
    }

    pub fn kill_store(&mut self) {
        self.store.take().unwrap().kill();
    }

    pub async fn start_store(&mut self) {
        self.store = Some(store::start(&self.path("store"), self.store_address).await);
    }

    /// Starts a worker that is held in the middle of its first fit.
    pub fn worker_held_mid_fit(&self, name: &str) -> (Process, Armed) {
        let armed = Armed::mid_fit(self.path(&format!("marks-{name}")));
        (self.worker(name, Some(&armed)), armed)
    }

    /// Waits until a job is held in the middle of its fit and the server knows how far it is.
    pub async fn until_mid_fit(&self, job_id: Uuid) {
        until_mid_fit(&self.client, job_id).await;
    }

    pub async fn until_terminal(&self, job_id: Uuid) -> Job {
        self.until_terminal_at(&self.client, job_id).await
    }

    /// The same, asking another server.
    pub async fn until_terminal_at(&self, client: &Client, job_id: Uuid) -> Job {
        until("the job ends", async || {
            client.find_job(job_id, Some(2)).await.ok().filter(|job| job.state.is_terminal())
        })
        .await
    }
}

async fn start_postgres(folder: PathBuf) -> PrivatePostgres {
    // Flushed: what was committed has to be there after a kill.
    let start = move || PrivatePostgres::start(Path::new(&folder), Options { fsync: true }).unwrap();
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// Waits until the server knows that a job is in its fit; a worker that is held there is what keeps it from ending first.
pub async fn until_mid_fit(client: &Client, job_id: Uuid) {
    until("the job is in the middle of its fit", async || {
        let job = client.find_job(job_id, None).await.ok()?;
        assert!(!job.state.is_terminal(), "the job ended before it could be disturbed: {job:?}");
        let progress = job.progress?;
        (progress.phase == barycenter_api::Phase::Fit && progress.done > 10).then_some(())
    })
    .await;
}

/// Asks again and again until there is an answer.
pub async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
