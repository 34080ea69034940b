//! Uploads in parts, as a client makes them.

use axum::{body::Body, http::Request};
use barycenter_api::{Page, Upload, UploadPart, tree::PartPlan};
use serde_json::{Value, json};

use super::{TestApp, TestResponse, files::digest};

/// A file on its way in parts.
pub struct Sender {
    pub upload: Upload,
    pub bytes: Vec<u8>,
}

/// What is asked for a checkpoint.
pub fn checkpoint_upload(run: &str, step: i64, bytes: &[u8], part_size_bytes: u64) -> Value {
    json!({
        "target": { "kind": "checkpoint", "run": run, "step": step },
        "size_bytes": bytes.len(), "digest_blake3": digest(bytes), "part_size_bytes": part_size_bytes,
    })
}

impl Sender {
    /// Begins an upload for a checkpoint, or finds it.
    pub async fn begin(app: &TestApp, run: &str, step: i64, bytes: Vec<u8>, part_size_bytes: u64) -> Self {
        let asked = app.post("/v1/uploads", checkpoint_upload(run, step, &bytes, part_size_bytes)).await;
        assert!(asked.status.is_success(), "{}", asked.text());
        Self { upload: asked.json(asked.status.as_u16()), bytes }
    }

    pub fn plan(&self) -> PartPlan {
        PartPlan::new(self.upload.size_bytes, self.upload.part_size_bytes).unwrap()
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/v1/uploads/{}{rest}", self.upload.upload_id)
    }

    pub fn part(&self, number: u64) -> Vec<u8> {
        let range = self.plan().range(number).unwrap();
        self.bytes[range.start as usize..range.end as usize].to_vec()
    }

    pub async fn try_send(&self, app: &TestApp, number: u64) -> TestResponse {
        app.put(&self.path(&format!("/parts/{number}")), self.part(number)).await
    }

    pub async fn send(&self, app: &TestApp, number: u64) -> UploadPart {
        self.try_send(app, number).await.json(200)
    }

    pub async fn send_all(&self, app: &TestApp) {
        for number in 1..=self.upload.part_count {
            self.send(app, number).await;
        }
    }

    /// Sends what is missing; returns the numbers.
    pub async fn send_missing(&self, app: &TestApp) -> Vec<u64> {
        let there: Vec<u64> = self.listed(app).await.iter().map(|part| part.number).collect();
        let missing: Vec<u64> = (1..=self.upload.part_count).filter(|number| !there.contains(number)).collect();
        for number in &missing {
            self.send(app, *number).await;
        }
        missing
    }

    pub async fn listed(&self, app: &TestApp) -> Vec<UploadPart> {
        let page: Page<UploadPart> = app.get(&self.path("/parts?page_size=1000")).await.json(200);
        page.items
    }

    pub async fn try_complete(&self, app: &TestApp) -> TestResponse {
        app.send(Request::post(self.path("/complete")).body(Body::empty()).unwrap()).await
    }

    pub async fn complete(&self, app: &TestApp) -> Upload {
        self.try_complete(app).await.json(200)
    }

    pub async fn abort(&self, app: &TestApp) -> TestResponse {
        app.send(Request::delete(self.path("")).body(Body::empty()).unwrap()).await
    }

    /// Fails where the completed upload is not this file.
    pub async fn assert_stored(&self, app: &TestApp, completed: &Upload) {
        let path = format!("/v1/checkpoints/{}/content", completed.checkpoint_id.unwrap());
        assert!(app.get(&path).await.body == self.bytes, "other bytes came back");
    }
}
