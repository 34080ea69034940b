//! A server and workers as processes of their own, on a real Postgres and a `file:` store, to be killed at will.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use barycenter_api::{CoefficientTable, Job, ListQuery, client::Client};
use sqlx::{ConnectOptions as _, PgPool};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{armed::Armed, world};

/// How long a test waits for what must come; far above what it takes.
const PATIENCE: Duration = Duration::from_mins(4);

/// A process that is killed with the test that started it.
pub struct Process(Child);

impl Process {
    pub fn start(arguments: &[&str], environment: &[(&str, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_barycenter"));
        command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        Self::spawn(&mut command)
    }

    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits for its end, while whatever it speaks to in this process goes on.
    pub async fn succeeds(mut self) -> bool {
        tokio::task::spawn_blocking(move || self.0.wait().unwrap().success()).await.unwrap()
    }

    /// As service managers do.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Stops it where it is: it does nothing, and hears nothing, until it is told to go on.
    pub fn stall(&self) {
        self.signal("STOP");
    }

    pub fn wake(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// `kill -9`: no handler runs, no destructor, no goodbye.
    pub fn kill(mut self) {
        self.kill_now();
    }

    /// The same, where another process is to take its place.
    pub fn kill_now(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead where the test killed it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a server runs, or will.
pub struct Cluster {
    pub folder: TempDir,
    pub address: SocketAddr,
    pub client: Client,
    database_url: String,
}

impl Cluster {
    pub fn new(pool: &PgPool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::new(&format!("http://{address}"), None).unwrap();
        let database_url = pool.connect_options().to_url_lossy().to_string();
        Self { folder, address, client, database_url }
    }

    /// Starts the server and waits until it is ready.
    pub async fn serve(&self) -> Process {
        let store = self.folder.path().join("store");
        std::fs::create_dir_all(&store).unwrap();
        let environment = [
            ("BARYCENTER_BIND", self.address.to_string()),
            ("DATABASE_URL", self.database_url.clone()),
            ("BARYCENTER_STORAGE_URL", format!("file://{}", store.display())),
            ("BARYCENTER_LEASE_SECONDS", "3".to_owned()),
            ("BARYCENTER_DATABASE_POOL_SIZE", "5".to_owned()),
        ];
        let server = Process::start(&["serve"], &environment);
        self.until("the server is ready", async || self.client.list_runs(&ListQuery::default()).await.ok().map(drop))
            .await;
        server
    }

    /// Starts a worker with a cache of its own.
    pub fn worker(&self, name: &str) -> Process {
        self.worker_on(name, std::thread::available_parallelism().unwrap().get())
    }

    /// Starts a worker that computes on so many threads.
    pub fn worker_on(&self, name: &str, threads: usize) -> Process {
        self.worker_with(name, [("BARYCENTER_THREADS", threads.to_string())])
    }

    /// Starts a worker that is told this too.
    pub fn worker_with(&self, name: &str, told: impl IntoIterator<Item = (&'static str, String)>) -> Process {
        let cache = self.folder.path().join(format!("cache-{name}"));
        let mut environment = vec![
            ("BARYCENTER_SERVER", format!("http://{}", self.address)),
            ("BARYCENTER_CACHE_DIR", cache.display().to_string()),
            ("BARYCENTER_WORKER_NAME", name.to_owned()),
        ];
        environment.extend(told);
        Process::start(&["worker"], &environment)
    }

    /// Starts a worker that is held in the middle of its first fit.
    pub fn worker_held_mid_fit(&self, name: &str) -> (Process, Armed) {
        let armed = Armed::mid_fit(self.folder.path().join(format!("marks-{name}")));
        let threads = std::thread::available_parallelism().unwrap().get();
        let told = [("BARYCENTER_THREADS", threads.to_string())].into_iter().chain(armed.environment());
        (self.worker_with(name, told), armed)
    }

    /// Waits until a job is held in the middle of its fit and the server knows how far it is.
    pub async fn until_mid_fit(&self, job_id: Uuid) {
        world::until_mid_fit(&self.client, job_id).await;
    }

    pub async fn until_terminal(&self, job_id: Uuid) -> Job {
        self.until("the job ends", async || {
            self.client.find_job(job_id, Some(2)).await.ok().filter(|job| job.state.is_terminal())
        })
        .await
    }

    pub async fn coefficients(&self, job_id: Uuid) -> CoefficientTable {
        self.client.coefficients(job_id).await.unwrap()
    }

    /// Asks again and again until there is an answer.
    pub async fn until<T>(&self, what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
