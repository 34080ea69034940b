//! Edits, aliases, pins, and lists with filters.

use reqwest::{
    Method,
    header::{IF_MATCH, IF_NONE_MATCH},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    Client, Result,
    exchange::{Repeat, decode},
};
use crate::{
    Alias, Artifact, CandidateSet, CandidateSetDiff, Checkpoint, CompareTensors, Deleted, EditArtifact, EditCheckpoint,
    EditRun, EqualTensors, Job, ListCandidateSets, ListCheckpoints, ListQuery, ListRuns, Page, Retention,
    RetentionPreview, Run, SetAlias,
};

/// What a change expects to find on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unless {
    /// Nothing in particular: the change is made.
    #[default]
    Never,
    /// The thing is no longer in this version, the inside of its `ETag`.
    ChangedFrom(String),
    /// The thing is there already.
    Present,
}

impl Unless {
    fn header(&self) -> Option<(reqwest::header::HeaderName, String)> {
        match self {
            Self::Never => None,
            Self::ChangedFrom(version) => Some((IF_MATCH, format!("\"{version}\""))),
            Self::Present => Some((IF_NONE_MATCH, "*".to_owned())),
        }
    }

    /// With a condition, a change that was carried out would be refused the second time.
    pub(super) fn repeat(&self) -> Repeat {
        if *self == Self::Never { Repeat::Harmless } else { Repeat::IfNotCarriedOut }
    }
}

impl Client {
    /// Edits a run's description and metadata.
    pub async fn edit_run(&self, run: &str, edit: &EditRun, unless: &Unless) -> Result<Run> {
        let url = self.url(&["runs", run]);
        let make = || self.request_if(Method::PATCH, &url, unless).json(edit);
        decode(&url, self.send(&url, unless.repeat(), make).await?).await
    }

    /// Sets or moves an alias of a run.
    pub async fn set_alias(&self, run: &str, alias: &str, target: &SetAlias, unless: &Unless) -> Result<Alias> {
        let url = self.url(&["runs", run, "aliases", alias]);
        let make = || self.request_if(Method::PUT, &url, unless).json(target);
        decode(&url, self.send(&url, unless.repeat(), make).await?).await
    }

    /// What an alias of a run names; `latest` is the checkpoint of the highest step.
    pub async fn find_alias(&self, run: &str, alias: &str) -> Result<Alias> {
        self.fetch(&self.url(&["runs", run, "aliases", alias]), &()).await
    }

    /// Every alias of a run.
    pub async fn list_aliases(&self, run: &str) -> Result<Vec<Alias>> {
        self.fetch(&self.url(&["runs", run, "aliases"]), &()).await
    }

    /// Removes an alias; what it named stays.
    pub async fn remove_alias(&self, run: &str, alias: &str, unless: &Unless) -> Result<()> {
        let url = self.url(&["runs", run, "aliases", alias]);
        self.send(&url, Repeat::IfNotCarriedOut, || self.request_if(Method::DELETE, &url, unless)).await?;
        Ok(())
    }

    /// The checkpoint of a run that a step, an alias or an id names.
    pub async fn find_named_checkpoint(&self, run: &str, name: &str) -> Result<Checkpoint> {
        self.fetch(&self.url(&["runs", run, "checkpoints", name]), &()).await
    }

    /// One page of a run's checkpoints.
    pub async fn list_checkpoints_page(&self, run: &str, query: &ListCheckpoints) -> Result<Page<Checkpoint>> {
        self.fetch(&self.url(&["runs", run, "checkpoints"]), query).await
    }

    /// Merges metrics of a checkpoint and replaces its tags.
    pub async fn edit_checkpoint(&self, checkpoint_id: Uuid, edit: &EditCheckpoint) -> Result<Checkpoint> {
        let url = self.url(&["checkpoints", &checkpoint_id.to_string()]);
        let make = || self.request(Method::PATCH, &url).json(edit);
        decode(&url, self.send(&url, Repeat::Harmless, make).await?).await
    }

    /// Pins a checkpoint, or unpins it.
    pub async fn pin_checkpoint(&self, checkpoint_id: Uuid, pinned: bool) -> Result<Checkpoint> {
        let url = self.url(&["checkpoints", &checkpoint_id.to_string(), "pin"]);
        let method = if pinned { Method::PUT } else { Method::DELETE };
        decode(&url, self.send(&url, Repeat::Harmless, || self.request(method.clone(), &url)).await?).await
    }

    /// The tensors that two checkpoints share byte for byte. Files that nobody has asked about yet are read by the server first.
    pub async fn find_equal_tensors(&self, checkpoint_id: Uuid, with: Uuid) -> Result<EqualTensors> {
        let url = self.url(&["checkpoints", &checkpoint_id.to_string(), "equal_tensors"]);
        self.fetch(&url, &CompareTensors { with }).await
    }

    /// One page of a run's candidate sets, newest first.
    pub async fn list_candidate_sets_page(&self, run: &str, query: &ListCandidateSets) -> Result<Page<CandidateSet>> {
        self.fetch(&self.url(&["runs", run, "candidate_sets"]), query).await
    }

    /// What changed from one candidate set to another.
    pub async fn diff_candidate_sets(&self, from: Uuid, to: Uuid) -> Result<CandidateSetDiff> {
        self.fetch(&self.url(&["candidate_sets", &from.to_string(), "diff", &to.to_string()]), &()).await
    }

    /// One page of runs that are deleted and can still be undeleted, newest first.
    pub async fn list_deleted_runs(&self, page: &ListQuery) -> Result<Page<Run>> {
        let ListQuery { page_size, page_token } = page.clone();
        self.fetch(&self.url(&["runs"]), &ListRuns { deleted: Some(true), page_size, page_token }).await
    }

    /// Deletes a run with all that it has.
    pub async fn delete_run(&self, run: &str) -> Result<Deleted> {
        self.delete(&["runs", run]).await
    }

    /// Brings a deleted run back.
    pub async fn undelete_run(&self, run_id: Uuid) -> Result<Run> {
        self.undelete("runs", run_id).await
    }

    /// Deletes a checkpoint.
    pub async fn delete_checkpoint(&self, checkpoint_id: Uuid) -> Result<Deleted> {
        self.delete(&["checkpoints", &checkpoint_id.to_string()]).await
    }

    /// Brings a deleted checkpoint back.
    pub async fn undelete_checkpoint(&self, checkpoint_id: Uuid) -> Result<Checkpoint> {
        self.undelete("checkpoints", checkpoint_id).await
    }

    /// Deletes a candidate set.
    pub async fn delete_candidate_set(&self, candidate_set_id: Uuid) -> Result<Deleted> {
        self.delete(&["candidate_sets", &candidate_set_id.to_string()]).await
    }

    /// Brings a deleted candidate set back.
    pub async fn undelete_candidate_set(&self, candidate_set_id: Uuid) -> Result<CandidateSet> {
        self.undelete("candidate_sets", candidate_set_id).await
    }

    /// Deletes a job.
    pub async fn delete_job(&self, job_id: Uuid) -> Result<Deleted> {
        self.delete(&["jobs", &job_id.to_string()]).await
    }

    /// Brings a deleted job back.
    pub async fn undelete_job(&self, job_id: Uuid) -> Result<Job> {
        self.undelete("jobs", job_id).await
    }

    /// Deletes an artifact.
    pub async fn delete_artifact(&self, artifact_id: Uuid) -> Result<Deleted> {
        self.delete(&["artifacts", &artifact_id.to_string()]).await
    }

    /// Brings a deleted artifact back.
    pub async fn undelete_artifact(&self, artifact_id: Uuid) -> Result<Artifact> {
        self.undelete("artifacts", artifact_id).await
    }

    /// Sets when an artifact deletes itself, or that it does not.
    pub async fn edit_artifact(&self, artifact_id: Uuid, edit: &EditArtifact) -> Result<Artifact> {
        let url = self.url(&["artifacts", &artifact_id.to_string()]);
        decode(&url, self.send(&url, Repeat::Harmless, || self.request(Method::PATCH, &url).json(edit)).await?).await
    }

    /// The retention rules of a run; `None` where it keeps everything.
    pub async fn find_retention(&self, run: &str) -> Result<Option<Retention>> {
        self.fetch(&self.url(&["runs", run, "retention"]), &()).await
    }

    /// Sets the retention rules of a run, or removes them.
    pub async fn set_retention(&self, run: &str, rules: Option<&Retention>) -> Result<()> {
        let url = self.url(&["runs", run, "retention"]);
        let make = || match rules {
            Some(rules) => self.request(Method::PUT, &url).json(rules),
            None => self.request(Method::DELETE, &url),
        };
        self.send(&url, Repeat::Harmless, make).await?;
        Ok(())
    }

    /// What these rules, or without any those of the run, would delete now.
    pub async fn preview_retention(&self, run: &str, tried: Option<&Retention>) -> Result<RetentionPreview> {
        let url = self.url(&["runs", run, "retention", "preview"]);
        let make = || match tried {
            Some(rules) => self.request(Method::POST, &url).json(rules),
            None => self.request(Method::GET, &url),
        };
        decode(&url, self.send(&url, Repeat::Harmless, make).await?).await
    }

    async fn delete(&self, path: &[&str]) -> Result<Deleted> {
        let url = self.url(path);
        decode(&url, self.send(&url, Repeat::IfNotCarriedOut, || self.request(Method::DELETE, &url)).await?).await
    }

    async fn undelete<T: DeserializeOwned>(&self, things: &str, id: Uuid) -> Result<T> {
        let url = self.url(&[things, &id.to_string(), "undelete"]);
        decode(&url, self.send(&url, Repeat::Harmless, || self.request(Method::POST, &url)).await?).await
    }

    pub(super) fn request_if(&self, method: Method, url: &reqwest::Url, unless: &Unless) -> reqwest::RequestBuilder {
        let request = self.request(method, url);
        match unless.header() {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    }
}
