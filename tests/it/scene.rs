//! A run with three checkpoints of an MLP, their candidate set and a dataset: what jobs need.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Method, Request},
};
use barycenter::db::notify::JobChanges;
use barycenter_api::{CandidateSet, Floats, Heartbeat, HeartbeatReply, Job, Lease, Snapshot, StoredArtifact, Worker};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, TestResponse};

/// Steps of the candidates.
pub const STEPS: [i64; 3] = [10, 20, 30];

/// A server with everything a job needs.
pub struct Scene {
    pub app: TestApp,
    pub set: CandidateSet,
    /// The worker that claims unless another is named.
    pub worker: Worker,
}

/// A safetensors file of these tensors: name, dtype, shape, bytes.
pub fn safetensors(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &data].concat()
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A checkpoint of `nn.Sequential(Linear(2, 3))`.
pub fn checkpoint(seed: f32) -> Vec<u8> {
    let weight: Vec<f32> = (0..6).map(|i| seed + i as f32).collect();
    safetensors(&[("0.weight", "F32", &[3, 2], floats(&weight)), ("0.bias", "F32", &[3], floats(&[seed; 3]))])
}

/// Ten samples of two features, three classes.
pub fn dataset() -> Vec<u8> {
    let inputs: Vec<f32> = (0..20).map(|i| i as f32 / 10.0).collect();
    let labels: Vec<u8> = (0..10_i64).flat_map(|i| (i % 3).to_le_bytes()).collect();
    safetensors(&[("inputs", "F32", &[10, 2], floats(&inputs)), ("labels", "I64", &[10], labels)])
}

impl Scene {
    pub async fn new(pool: PgPool) -> Self {
        Self::on(TestApp::new(pool)).await
    }

    pub async fn on(app: TestApp) -> Self {
        app.post("/v1/runs", json!({"name": "demo"})).await.json::<Value>(201);
        for step in STEPS {
            let path = format!("/v1/runs/demo/checkpoints/{step}");
            app.put(&path, checkpoint(step as f32)).await.json::<Value>(201);
        }
        app.put("/v1/datasets/validation", dataset()).await.json::<Value>(201);
        let rule = json!({"rule": {"kind": "last", "count": 3}});
        let set = app.post("/v1/runs/demo/candidate_sets", rule).await.json(201);
        let worker = app.post("/v1/workers", worker("node-1")).await.json(200);
        Self { app, set, worker }
    }

    /// The smallest spec that is sound.
    pub fn spec(&self) -> Value {
        json!({
            "candidate_set_id": self.set.candidate_set_id,
            "network": {"kind": "mlp", "features": [2, 3]},
            "data": {"fit": "validation"},
        })
    }

    pub async fn submit(&self) -> Job {
        self.app.post("/v1/jobs", self.spec()).await.json(202)
    }

    pub async fn job(&self, job: &Job) -> Job {
        self.app.get(&format!("/v1/jobs/{}", job.job_id)).await.json(200)
    }

    pub async fn cancel(&self, job: &Job) -> Job {
        let request = Request::post(format!("/v1/jobs/{}/cancel", job.job_id)).body(Body::empty()).unwrap();
        self.app.send(request).await.json(200)
    }

    /// A claim that does not wait.
    pub async fn try_claim(&self) -> TestResponse {
        self.try_claim_for(&self.worker).await
    }

    /// A claim of another worker that does not wait.
    pub async fn try_claim_for(&self, worker: &Worker) -> TestResponse {
        self.app.post("/v1/leases", claim(worker, 0)).await
    }

    /// Registers a worker that is like the first but for what `change` says.
    pub async fn register(&self, name: &str, change: Value) -> Worker {
        let mut body = worker(name);
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        self.app.post("/v1/workers", body).await.json(200)
    }

    /// Submits the smallest spec with this scheduling.
    pub async fn submit_with(&self, scheduling: Value) -> Job {
        let mut spec = self.spec();
        spec["scheduling"] = scheduling;
        self.app.post("/v1/jobs", spec).await.json(202)
    }

    pub async fn claim(&self) -> Lease {
        self.try_claim().await.json(201)
    }

    pub async fn heartbeat(&self, lease: &Lease, heartbeat: Heartbeat) -> TestResponse {
        let path = format!("/v1/leases/{}/heartbeat", lease.lease_id);
        self.app.post(&path, serde_json::to_value(heartbeat).unwrap()).await
    }

    pub async fn beat(&self, lease: &Lease) -> HeartbeatReply {
        self.heartbeat(lease, Heartbeat::default()).await.json(200)
    }

    pub async fn upload(&self, lease: &Lease, bytes: Vec<u8>) -> StoredArtifact {
        self.app.put(&format!("/v1/leases/{}/artifact", lease.lease_id), bytes).await.json(200)
    }

    pub async fn finish(&self, lease: &Lease, finish: Value) -> TestResponse {
        self.app.post(&format!("/v1/leases/{}/finish", lease.lease_id), finish).await
    }

    pub async fn fail(&self, lease: &Lease, code: &str, retry: bool) -> TestResponse {
        let body = json!({"code": code, "message": "the disk is full", "retry": retry});
        self.app.post(&format!("/v1/leases/{}/fail", lease.lease_id), body).await
    }

    /// Uploads an artifact under the lease and finishes.
    pub async fn succeed(&self, lease: &Lease) -> Job {
        let stored = self.upload(lease, checkpoint(21.0)).await;
        self.finish(lease, finish_body(&stored.digest_blake3)).await.json(200)
    }

    /// Moves the clock past the end of every lease that is not renewed now.
    pub fn let_leases_lapse(&self) {
        let terms = self.app.state.config.leases.terms();
        self.app.clock.advance(terms.duration.to_std().unwrap() + Duration::from_millis(1));
    }

    /// Moves the clock past the pause after any failure.
    pub fn let_pauses_end(&self) {
        let terms = self.app.state.config.leases.terms();
        self.app.clock.advance(terms.longest_pause.to_std().unwrap());
    }

    /// Passes notifications on as `serve` does, until the runtime of the test ends.
    pub fn listen(&self) {
        tokio::spawn(barycenter::app::events::run(self.app.state.clone(), tokio_util::sync::CancellationToken::new()));
        let changes: JobChanges = self.app.state.jobs_changed.clone();
        tokio::spawn(changes.listen(self.app.state.pool.clone(), tokio_util::sync::CancellationToken::new()));
    }
}

pub fn claim(worker: &Worker, wait_seconds: u32) -> Value {
    json!({"worker_id": worker.worker_id, "wait_seconds": wait_seconds})
}

fn worker(name: &str) -> Value {
    json!({"name": name, "version": "0.1.0", "device": {"kind": "cpu", "name": "cpu"}})
}

/// Coefficients of three candidates in two blocks; both columns sum to 1.
pub fn coefficients() -> Floats {
    Floats(vec![0.25, 0.1, 0.25, 0.2, 0.5, 0.7])
}

pub fn blocks() -> Vec<String> {
    vec!["0.weight".into(), "0.bias".into()]
}

pub fn finish_body(digest: &str) -> Value {
    json!({
        "artifact_digest_blake3": digest,
        "blocks": blocks(),
        "coefficients": coefficients(),
        "report": report(),
    })
}

fn report() -> Value {
    let evaluated = json!({"loss": 0.5, "accuracy": 0.75});
    json!({
        "chosen": "twa",
        "verdict": "the fit is better than every baseline",
        "evaluations": [
            {"method": "twa", "select": evaluated, "select_difference_from_uniform": [-0.02, -0.01]},
        ],
        "fit": {"best_step": 2, "steps": 3, "as_fitted_select_loss": 0.51},
        "geometry": {"gram": [[1.0, -1.0], [-1.0, 1.0]], "effective_rank": 1.0, "near_duplicates": []},
        "fit_samples": 8,
        "select_samples": 2,
        "select_overlaps_fit": false,
        "not_averaged": [],
        "phases": [{"phase": "fit", "seconds": 1.5}],
        "projection_bytes": 1024,
        "projection": {"projection_key": "p", "source": "built", "revisions": 0, "seconds": 0.5},
    })
}

pub fn snapshot(step: u64) -> Snapshot {
    let moved = step as f64 * 1e-3;
    Snapshot {
        step,
        epoch: step as f64 / 3.0,
        learning_rate: 0.1 / (1.0 + step as f64),
        fit_loss: (step > 0).then_some(1.0 / 3.0 + moved),
        select_loss: step.is_multiple_of(2).then_some(0.7 - moved),
        coefficients: Floats(vec![0.25 + moved, 0.1, 0.25, 0.2, 0.5 - moved, 0.7]),
    }
}

pub fn snapshots(steps: impl IntoIterator<Item = u64>) -> Heartbeat {
    Heartbeat { blocks: Some(blocks()), snapshots: steps.into_iter().map(snapshot).collect(), ..Heartbeat::default() }
}

/// A POST with an idempotency key.
pub fn keyed_post(path: &str, key: &str, body: &Value) -> Request<Body> {
    let mut request = crate::harness::json_request(Method::POST, path, body);
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}
