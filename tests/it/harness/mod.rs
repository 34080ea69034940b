//! A server in process: router, own database, store in memory, a clock that stands still.

pub mod faulty;
pub mod files;
mod response;
pub mod uploads;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, header},
};
use barycenter::{
    app::reaper,
    config::{
        AuthConfig, Config, DatabaseConfig, DeletionConfig, HttpConfig, LeaseConfig, ProjectionConfig, StorageConfig,
        UploadConfig, WebhookConfig,
    },
    domain::clock::ManualClock,
    http,
    outbound::Outbound,
    state::AppState,
    storage::Store,
    telemetry,
};
use barycenter_api::{Checkpoint, Run};
use sqlx::PgPool;
use tower::ServiceExt;

pub use response::TestResponse;

/// A server in process.
pub struct TestApp {
    /// What its requests share.
    pub state: AppState,
    /// Its clock.
    pub clock: Arc<ManualClock>,
    router: Router,
}

impl TestApp {
    /// On this database, with a store in memory.
    pub fn new(pool: PgPool) -> Self {
        Self::with(pool, Store::open(&"memory:///".parse().unwrap(), []).unwrap(), |_| {})
    }

    /// On this database and store, with changed settings.
    pub fn with(pool: PgPool, store: Store, change: impl FnOnce(&mut Config)) -> Self {
        let start = "2026-01-02T03:04:05Z".parse().unwrap();
        let clock = Arc::new(ManualClock::new(start));
        let mut config = config();
        change(&mut config);
        let outbound = Outbound::new(&config.webhooks).unwrap();
        let jobs_changed = barycenter::db::notify::JobChanges::default();
        let state = AppState {
            pool,
            store,
            clock: clock.clone(),
            config: Arc::new(config),
            job_tags: Arc::new(barycenter::job_tags::JobTags::new(&jobs_changed)),
            jobs_changed,
            events: barycenter::state::event_channel(),
            stopping: tokio_util::sync::CancellationToken::new(),
            outbound,
            metrics: telemetry::metrics_recorder().unwrap().handle(),
        };
        Self { router: http::router(state.clone()), state, clock }
    }

    /// Lets the server speak to receivers in another way.
    pub fn replace_outbound(&mut self, outbound: Outbound) {
        self.state.outbound = outbound;
        self.router = http::router(self.state.clone());
    }

    /// Sends a request; the body of the response may have no end.
    pub async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a request and reads the whole response.
    pub async fn send(&self, request: Request<Body>) -> TestResponse {
        let response = self.router.clone().oneshot(request).await.unwrap();
        TestResponse::read(response).await
    }

    pub async fn get(&self, path: &str) -> TestResponse {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: serde_json::Value) -> TestResponse {
        self.send(json_request(Method::POST, path, &body)).await
    }

    pub async fn patch(&self, path: &str, body: serde_json::Value) -> TestResponse {
        self.send(json_request(Method::PATCH, path, &body)).await
    }

    pub async fn put_json(&self, path: &str, body: serde_json::Value) -> TestResponse {
        self.send(json_request(Method::PUT, path, &body)).await
    }

    pub async fn delete(&self, path: &str) -> TestResponse {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    pub async fn put(&self, path: &str, bytes: impl Into<Body>) -> TestResponse {
        self.send(Request::put(path).body(bytes.into()).unwrap()).await
    }

    /// Opens a run of this name.
    pub async fn create_run(&self, name: &str) -> Run {
        self.post("/v1/runs", serde_json::json!({ "name": name })).await.json(201)
    }

    /// Pushes a sound checkpoint; `query` may be empty or begin with `?`.
    pub async fn push(&self, run: &str, step: i64, query: &str, bytes: Vec<u8>) -> Checkpoint {
        self.put(&format!("/v1/runs/{run}/checkpoints/{step}{query}"), bytes).await.json(201)
    }

    /// Moves the clock on and removes what unfinished uploads left behind; returns how many there were.
    pub async fn reap_after(&self, time: Duration) -> usize {
        self.clock.advance(time);
        reaper::reap(&self.state).await.unwrap()
    }

    /// Rows of a table.
    pub async fn count(&self, table: &str) -> i64 {
        let statement = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(statement).fetch_one(&self.state.pool).await.unwrap()
    }

    /// Fails where the store holds an object that no blob owns, or a blob lacks its object.
    pub async fn assert_no_orphans(&self) {
        let mut objects = self.state.store.list_keys().await.unwrap();
        let mut owned: Vec<String> =
            sqlx::query_scalar("select object_key from blobs").fetch_all(&self.state.pool).await.unwrap();
        objects.sort();
        owned.sort();
        assert_eq!(objects, owned, "objects in the store and blobs in the database");
        assert_eq!(self.count("uploads").await, 0, "uploads left behind");
    }

    /// Fails where a refused upload left anything: a row or an object.
    pub async fn assert_nothing_stored(&self) {
        for table in ["checkpoints", "datasets", "blobs", "layouts"] {
            assert_eq!(self.count(table).await, 0, "rows of {table}");
        }
        self.assert_no_orphans().await;
    }
}

/// A request with a JSON body.
pub fn json_request(method: Method, path: &str, body: &serde_json::Value) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

fn config() -> Config {
    Config {
        http: HttpConfig { bind: "127.0.0.1:0".parse().unwrap() },
        database: DatabaseConfig { url: String::new(), pool_size: 5 },
        storage: StorageConfig { url: "memory:///".parse().unwrap(), register_prefixes: Vec::new() },
        auth: AuthConfig::default(),
        leases: LeaseConfig {
            lease_seconds: 30,
            max_attempts: 5,
            retry_pause_seconds: 5,
            retry_longest_pause_seconds: 300,
        },
        uploads: UploadConfig {
            max_upload_bytes: 64 << 20,
            max_header_bytes: 16 << 20,
            upload_grace_seconds: 300,
            upload_patience_hours: 72,
            min_part_bytes: 1024,
        },
        deletion: DeletionConfig { delete_grace_seconds: 3600 },
        projections: ProjectionConfig { projections_bytes: 1 << 20, projections_keep_hours: 24 },
        webhooks: WebhookConfig { webhook_allow: Vec::new(), webhook_timeout_seconds: 5 },
    }
}
