//! Edits, aliases, pins, and lists with filters.

use reqwest::{
    Method,
    header::{IF_MATCH, IF_NONE_MATCH},
};
use uuid::Uuid;

use super::{
    Client, Result,
    exchange::{Repeat, decode},
};
use crate::{
    Alias, CandidateSet, CandidateSetDiff, Checkpoint, EditCheckpoint, EditRun, ListCandidateSets, ListCheckpoints,
    Page, Run, SetAlias,
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
    fn repeat(&self) -> Repeat {
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

    /// One page of a run's candidate sets, newest first.
    pub async fn list_candidate_sets_page(&self, run: &str, query: &ListCandidateSets) -> Result<Page<CandidateSet>> {
        self.fetch(&self.url(&["runs", run, "candidate_sets"]), query).await
    }

    /// What changed from one candidate set to another.
    pub async fn diff_candidate_sets(&self, from: Uuid, to: Uuid) -> Result<CandidateSetDiff> {
        self.fetch(&self.url(&["candidate_sets", &from.to_string(), "diff", &to.to_string()]), &()).await
    }

    fn request_if(&self, method: Method, url: &reqwest::Url, unless: &Unless) -> reqwest::RequestBuilder {
        let request = self.request(method, url);
        match unless.header() {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    }
}
