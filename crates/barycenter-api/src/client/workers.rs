//! Workers and projects.

use reqwest::Method;
use uuid::Uuid;

use super::{
    Client, Result,
    exchange::{Repeat, decode},
};
use crate::{
    EditWorker, ListQuery, Page, Project, RegisterWorker, SetProject, Worker, WorkerHeartbeat, WorkerHeartbeatReply,
};

impl Client {
    /// Registers a worker, or finds its place again after a restart.
    pub async fn register_worker(&self, worker: &RegisterWorker) -> Result<Worker> {
        let url = self.url(&["workers"]);
        let answer = self.post(&url, Repeat::Harmless, worker).await?;
        decode(&url, answer).await
    }

    /// Tells that a worker is there.
    pub async fn worker_heartbeat(&self, worker_id: Uuid, heartbeat: &WorkerHeartbeat) -> Result<WorkerHeartbeatReply> {
        let url = self.url(&["workers", &worker_id.to_string(), "heartbeat"]);
        let answer = self.post(&url, Repeat::Harmless, heartbeat).await?;
        decode(&url, answer).await
    }

    /// One page of workers, last registered first.
    pub async fn list_workers(&self, query: &ListQuery) -> Result<Page<Worker>> {
        self.fetch(&self.url(&["workers"]), query).await
    }

    /// A worker.
    pub async fn find_worker(&self, worker_id: Uuid) -> Result<Worker> {
        self.fetch(&self.url(&["workers", &worker_id.to_string()]), &()).await
    }

    /// Pauses or resumes a worker.
    pub async fn edit_worker(&self, worker_id: Uuid, edit: &EditWorker) -> Result<Worker> {
        let url = self.url(&["workers", &worker_id.to_string()]);
        let make = || self.request(Method::PATCH, &url).json(edit);
        decode(&url, self.send(&url, Repeat::Harmless, make).await?).await
    }

    /// Lets a worker end after the job that it has.
    pub async fn drain_worker(&self, worker_id: Uuid) -> Result<Worker> {
        let url = self.url(&["workers", &worker_id.to_string(), "drain"]);
        let make = || self.request(Method::POST, &url);
        decode(&url, self.send(&url, Repeat::Harmless, make).await?).await
    }

    /// One page of projects, by name.
    pub async fn list_projects(&self, query: &ListQuery) -> Result<Page<Project>> {
        self.fetch(&self.url(&["projects"]), query).await
    }

    /// Sets the bounds of a project.
    pub async fn set_project(&self, project: &str, bounds: &SetProject) -> Result<Project> {
        let url = self.url(&["projects", project]);
        let make = || self.request(Method::PUT, &url).json(bounds);
        decode(&url, self.send(&url, Repeat::Harmless, make).await?).await
    }
}
