//! Jobs, their coefficients and history.

use reqwest::Method;
use uuid::Uuid;

use super::{Client, Result, exchange::Repeat};
use crate::{
    CoefficientTable, EditJob, History, HistoryQuery, Job, JobLog, JobQuery, JobSpec, JobSummary, ListJobs, LogQuery,
    Page, SubmitQuery, TableFormat, TableQuery, ValidatedJob,
};

impl Client {
    /// Queues a job.
    pub async fn submit_job(&self, spec: &JobSpec) -> Result<Job> {
        self.create(&self.url(&["jobs"]), spec).await
    }

    /// Checks a spec, fills in its defaults and estimates the memory it would take; nothing is queued.
    pub async fn validate_job(&self, spec: &JobSpec) -> Result<ValidatedJob> {
        let url = self.url(&["jobs"]);
        let query = SubmitQuery { validate_only: Some(true) };
        let make = || self.request(Method::POST, &url).query(&query).json(spec);
        let answer = self.send(&url, Repeat::Harmless, make).await?;
        super::exchange::decode(&url, answer).await
    }

    /// One page of jobs, newest first.
    pub async fn list_jobs(&self, query: &ListJobs) -> Result<Page<JobSummary>> {
        self.fetch(&self.url(&["jobs"]), query).await
    }

    /// A job; with `wait_seconds` (at most [`super::LONGEST_WAIT_SECONDS`]) the answer comes when it is terminal or the
    /// time is over.
    pub async fn find_job(&self, job_id: Uuid, wait_seconds: Option<u32>) -> Result<Job> {
        self.fetch(&self.url(&["jobs", &job_id.to_string()]), &JobQuery { wait: wait_seconds }).await
    }

    /// Asks for a job to end.
    pub async fn cancel_job(&self, job_id: Uuid) -> Result<Job> {
        let url = self.url(&["jobs", &job_id.to_string(), "cancel"]);
        let make = || self.request(Method::POST, &url);
        let answer = self.send(&url, Repeat::Harmless, make).await?;
        super::exchange::decode(&url, answer).await
    }

    /// Changes a queued job.
    pub async fn edit_job(&self, job_id: Uuid, edit: &EditJob) -> Result<Job> {
        let url = self.url(&["jobs", &job_id.to_string()]);
        let make = || self.request(Method::PATCH, &url).json(edit);
        let answer = self.send(&url, Repeat::Harmless, make).await?;
        super::exchange::decode(&url, answer).await
    }

    /// Log lines of a job.
    pub async fn job_log(&self, job_id: Uuid, query: &LogQuery) -> Result<JobLog> {
        self.fetch(&self.url(&["jobs", &job_id.to_string(), "logs"]), query).await
    }

    /// A part of a job's history; its `format` is not looked at.
    pub async fn history(&self, job_id: Uuid, query: &HistoryQuery) -> Result<History> {
        let query = HistoryQuery { format: Some(TableFormat::Json), ..query.clone() };
        self.fetch(&self.url(&["jobs", &job_id.to_string(), "history"]), &query).await
    }

    /// Writes a job's history as CSV, whole unless `limit` says otherwise; the query's `format` is not looked at.
    pub async fn history_csv(
        &self,
        job_id: Uuid,
        query: &HistoryQuery,
        into: &mut (dyn std::io::Write + Send),
    ) -> Result<()> {
        let query = HistoryQuery { format: Some(TableFormat::Csv), ..query.clone() };
        self.fetch_text(&self.url(&["jobs", &job_id.to_string(), "history"]), &query, into).await
    }

    /// The coefficients that a job found.
    pub async fn coefficients(&self, job_id: Uuid) -> Result<CoefficientTable> {
        let query = TableQuery { format: Some(TableFormat::Json) };
        self.fetch(&self.url(&["jobs", &job_id.to_string(), "coefficients"]), &query).await
    }

    /// Writes the coefficients that a job found as CSV.
    pub async fn coefficients_csv(&self, job_id: Uuid, into: &mut (dyn std::io::Write + Send)) -> Result<()> {
        let query = TableQuery { format: Some(TableFormat::Csv) };
        self.fetch_text(&self.url(&["jobs", &job_id.to_string(), "coefficients"]), &query, into).await
    }
}
