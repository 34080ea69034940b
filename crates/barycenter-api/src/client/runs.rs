//! Runs, checkpoints, datasets and candidate sets.

use std::{ops::Range, path::Path};

use bytes::Bytes;
use reqwest::{Method, StatusCode, Url, header::RANGE};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{ByteCounter, Client, ClientError, Result, exchange::Repeat};
use crate::{
    CandidateSet, Checkpoint, CreateCandidateSet, CreateRun, Dataset, ListQuery, Page, PushCheckpoint, PushDataset, Run,
};

/// The largest page that the server gives.
const PAGE_SIZE: u32 = 1000;

impl Client {
    /// Opens a run.
    pub async fn create_run(&self, body: &CreateRun) -> Result<Run> {
        self.create(&self.url(&["runs"]), body).await
    }

    /// One page of runs, newest first.
    pub async fn list_runs(&self, query: &ListQuery) -> Result<Page<Run>> {
        self.fetch(&self.url(&["runs"]), query).await
    }

    /// The run of this name or id.
    pub async fn find_run(&self, run: &str) -> Result<Run> {
        self.fetch(&self.url(&["runs", run]), &()).await
    }

    /// Uploads a safetensors file as the checkpoint of a step; `sent` hears the bytes sent so far.
    pub async fn push_checkpoint(
        &self,
        run: &str,
        step: i64,
        beside: &PushCheckpoint,
        file: &Path,
        sent: &ByteCounter,
    ) -> Result<Checkpoint> {
        let url = self.url(&["runs", run, "checkpoints", &step.to_string()]);
        self.upload(&url, beside, file, sent).await
    }

    /// Every checkpoint of a run, newest first.
    pub async fn list_checkpoints(&self, run: &str) -> Result<Vec<Checkpoint>> {
        self.fetch_pages(&self.url(&["runs", run, "checkpoints"])).await
    }

    /// A checkpoint by id.
    pub async fn find_checkpoint(&self, checkpoint_id: Uuid) -> Result<Checkpoint> {
        self.fetch(&self.url(&["checkpoints", &checkpoint_id.to_string()]), &()).await
    }

    /// These bytes of a checkpoint's file; the end is exclusive and lies within the file.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] where the server answers with another range.
    pub async fn checkpoint_content(&self, checkpoint_id: Uuid, range: Range<u64>) -> Result<Bytes> {
        let url = self.url(&["checkpoints", &checkpoint_id.to_string(), "content"]);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let make = || self.request(Method::GET, &url).header(RANGE, &header);
        let answer = self.send(&url, Repeat::Harmless, make).await?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|e| ClientError::transport(&url, e))?;
        if status == StatusCode::PARTIAL_CONTENT && bytes.len() as u64 == range.end - range.start {
            return Ok(bytes);
        }
        let detail = format!("asked for {header}, got status {status} with {} bytes", bytes.len());
        Err(ClientError::Protocol { url: url.to_string(), detail })
    }

    /// The path of a checkpoint's file, for [`Client::download`].
    pub fn checkpoint_content_path(checkpoint_id: Uuid) -> String {
        format!("/v1/checkpoints/{checkpoint_id}/content")
    }

    /// Uploads a safetensors file with `inputs` and `labels` as the dataset of this name.
    pub async fn push_dataset(
        &self,
        name: &str,
        beside: &PushDataset,
        file: &Path,
        sent: &ByteCounter,
    ) -> Result<Dataset> {
        self.upload(&self.url(&["datasets", name]), beside, file, sent).await
    }

    /// The dataset of this name or id.
    pub async fn find_dataset(&self, dataset: &str) -> Result<Dataset> {
        self.fetch(&self.url(&["datasets", dataset]), &()).await
    }

    /// One page of datasets, newest first.
    pub async fn list_datasets(&self, query: &ListQuery) -> Result<Page<Dataset>> {
        self.fetch(&self.url(&["datasets"]), query).await
    }

    /// The path of a dataset's file, for [`Client::download`].
    pub fn dataset_content_path(dataset_id: Uuid) -> String {
        format!("/v1/datasets/{dataset_id}/content")
    }

    /// Freezes a candidate set of a run.
    pub async fn create_candidate_set(&self, run: &str, body: &CreateCandidateSet) -> Result<CandidateSet> {
        self.create(&self.url(&["runs", run, "candidate_sets"]), body).await
    }

    /// A candidate set with its members.
    pub async fn find_candidate_set(&self, candidate_set_id: Uuid) -> Result<CandidateSet> {
        self.fetch(&self.url(&["candidate_sets", &candidate_set_id.to_string()]), &()).await
    }

    /// Every candidate set of a run, newest first.
    pub async fn list_candidate_sets(&self, run: &str) -> Result<Vec<CandidateSet>> {
        self.fetch_pages(&self.url(&["runs", run, "candidate_sets"])).await
    }

    /// The items of all pages.
    async fn fetch_pages<T: DeserializeOwned>(&self, url: &Url) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut query = ListQuery { page_size: Some(PAGE_SIZE), page_token: None };
        loop {
            let page: Page<T> = self.fetch(url, &query).await?;
            items.extend(page.items);
            query.page_token = page.next_page_token;
            if query.page_token.is_none() {
                return Ok(items);
            }
        }
    }

    /// A streamed PUT of a file; putting the same bytes twice is putting them once.
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        url: &Url,
        beside: &impl Serialize,
        file: &Path,
        sent: &ByteCounter,
    ) -> Result<T> {
        self.put_file(url, beside, file, sent, Repeat::Harmless).await
    }
}
