//! What must hold after every disturbance: nothing lost, nothing double, nothing half-visible, and the numbers those of a run that
//! nobody disturbed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use barycenter::{
    app::{gc, reaper},
    config::{
        AuthConfig, Config, DatabaseConfig, DeletionConfig, HttpConfig, LeaseConfig, ProjectionConfig, StorageConfig,
        UploadConfig, WebhookConfig,
    },
    db::notify::JobChanges,
    domain::clock::{Clock as _, ManualClock, SystemClock},
    job_tags::JobTags,
    outbound::Outbound,
    state::{AppState, event_channel},
    storage::{ObjectKey, Store},
    telemetry,
};
use barycenter_api::{
    AttemptState, CoefficientTable, HistoryQuery, HistorySnapshot, Job, JobState,
    client::{ByteCounter, Client},
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::World;

/// What a job came to.
#[derive(Debug, PartialEq)]
pub struct Result {
    pub coefficients: CoefficientTable,
    pub snapshots: Vec<HistorySnapshot>,
    pub digest_blake3: String,
}

/// What a job that succeeded came to, its artifact read back to the last byte.
pub async fn result_of(client: &Client, job: &Job) -> Result {
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    let all = HistoryQuery { limit: Some(10_000), ..HistoryQuery::default() };
    let artifact = client.artifact(job.artifact_id.unwrap()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Fails where the bytes have another digest than the artifact.
    client.download_artifact(&artifact, &folder.path().join("artifact"), &ByteCounter::none()).await.unwrap();
    Result {
        coefficients: client.coefficients(job.job_id).await.unwrap(),
        snapshots: client.history(job.job_id, &all).await.unwrap().snapshots,
        digest_blake3: artifact.digest_blake3,
    }
}

/// Looks at database and store past everything that a test disturbs.
pub struct Audit {
    pool: PgPool,
    store: Store,
}

impl Audit {
    pub fn of(world: &World) -> Self {
        Self::with(world, crate::store::open(world.store_address))
    }

    pub fn with(world: &World, store: Store) -> Self {
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy(&world.direct_database_url()).unwrap();
        Self { pool, store }
    }

    /// Fails where a job's records are not those of exactly one success.
    pub async fn one_success(&self, job: &Job) {
        let last = job.attempts.last().unwrap();
        assert_eq!(last.state, AttemptState::Succeeded, "{job:?}");
        let before = &job.attempts[..job.attempts.len() - 1];
        let is_lost = |state| matches!(state, AttemptState::Expired | AttemptState::Failed);
        assert!(before.iter().all(|attempt| is_lost(attempt.state)), "{job:?}");
        let id = job.job_id;
        assert_eq!(self.count("artifacts where job_id = $1", id).await, 1);
        assert_eq!(self.count("events where kind = 'job.succeeded' and job_id = $1", id).await, 1);
        assert_eq!(self.count("events where kind in ('job.failed', 'job.cancelled') and job_id = $1", id).await, 0);
    }

    async fn count(&self, what: &str, id: Uuid) -> i64 {
        let statement = sqlx::AssertSqlSafe(format!("select count(*) from {what}"));
        sqlx::query_scalar(statement).bind(id).fetch_one(&self.pool).await.unwrap()
    }

    /// Fails where, once everything abandoned is reaped and everything unneeded collected, an upload is left, the store holds an object
    /// that nothing refers to, or a blob lacks its object or has other bytes.
    pub async fn nothing_half_visible(&self) {
        let state = self.state_later();
        reaper::reap(&state).await.unwrap();
        gc::collect(&state).await.unwrap();
        assert_eq!(self.pending().await, 0, "uploads left behind");
        let blobs: Vec<(String, String)> =
            sqlx::query_as("select object_key, digest_blake3 from blobs").fetch_all(&self.pool).await.unwrap();
        let mut stored = BTreeMap::new();
        for key in self.store.list_keys().await.unwrap() {
            stored.insert(key.clone(), self.digest(&key).await);
        }
        let blobs: BTreeMap<_, _> = blobs.into_iter().collect();
        let without_blob: Vec<_> = stored.iter().filter(|(key, digest)| blobs.get(*key) != Some(digest)).collect();
        let without_object: Vec<_> = blobs.iter().filter(|(key, digest)| stored.get(*key) != Some(digest)).collect();
        assert!(
            without_blob.is_empty() && without_object.is_empty(),
            "objects that are not what a blob says: {without_blob:?}; blobs without that object: {without_object:?}"
        );
    }

    /// Uploads that are neither stored nor given up.
    pub async fn pending(&self) -> i64 {
        sqlx::query_scalar("select count(*) from uploads").fetch_one(&self.pool).await.unwrap()
    }

    async fn digest(&self, key: &str) -> String {
        match self.store.get_bytes(&ObjectKey::from_stored(key)).await {
            Ok(bytes) => blake3::hash(&bytes).to_hex().to_string(),
            // Shown beside the digest that it should have.
            Err(error) => error.to_string(),
        }
    }

    /// A server's view at a time when whatever is pending now has been silent for too long and whatever is deleted has no grace left.
    fn state_later(&self) -> AppState {
        let clock = ManualClock::new(SystemClock.now());
        clock.advance(Duration::from_hours(100));
        let jobs_changed = JobChanges::default();
        let config = config();
        AppState {
            pool: self.pool.clone(),
            store: self.store.clone(),
            clock: Arc::new(clock),
            outbound: Outbound::new(&config.webhooks).unwrap(),
            config: Arc::new(config),
            job_tags: Arc::new(JobTags::new(&jobs_changed)),
            jobs_changed,
            events: event_channel(),
            stopping: CancellationToken::new(),
            metrics: telemetry::metrics_recorder().unwrap().handle(),
        }
    }
}

fn config() -> Config {
    Config {
        http: HttpConfig { bind: "127.0.0.1:0".parse().unwrap() },
        database: DatabaseConfig { url: String::new(), pool_size: 2 },
        storage: StorageConfig { url: "memory:///".parse().unwrap(), register_prefixes: Vec::new() },
        auth: AuthConfig::default(),
        leases: LeaseConfig {
            lease_seconds: 2,
            max_attempts: 100,
            retry_pause_seconds: 0,
            retry_longest_pause_seconds: 300,
        },
        uploads: UploadConfig {
            max_upload_bytes: 64 << 30,
            max_header_bytes: 16 << 20,
            upload_grace_seconds: 300,
            upload_patience_hours: 72,
            min_part_bytes: 8 << 20,
        },
        deletion: DeletionConfig { delete_grace_seconds: 0 },
        projections: ProjectionConfig { projections_bytes: 1 << 30, projections_keep_hours: 24 },
        webhooks: WebhookConfig { webhook_allow: Vec::new(), webhook_timeout_seconds: 5 },
    }
}
