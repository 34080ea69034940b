//! Jobs to measure with: a small run, its candidate set and dataset, and as many queued jobs as are asked for.

use std::path::Path;

use anyhow::{Context, Result};
use barycenter_api::{
    Among, CandidateSetRule, Claim, CreateCandidateSet, CreateRun, DeviceKind, JobSpec, Lease, PushCheckpoint,
    PushDataset, RegisterWorker, WorkerDevice,
    client::{ByteCounter, Client},
};
use barycenter_core::checkpoint::{Dtype, TensorSpec, Writer};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::service::Service;

/// Name of the run.
pub const RUN: &str = "jobs";

/// Where jobs are made.
pub struct Jobs<'a> {
    /// The server.
    pub service: &'a Service,
    /// Its database.
    pub database_url: &'a str,
    /// For small files.
    pub folder: &'a Path,
}

impl Jobs<'_> {
    /// The spec of a job that is sound and small; the first call pushes what it needs.
    pub async fn spec(&self) -> Result<JobSpec> {
        let client = self.service.client()?;
        if client.find_run(RUN).await.is_err() {
            self.push(&client).await?;
        }
        let rule = CandidateSetRule::Last { count: 2, among: Among::default() };
        let new = CreateCandidateSet { name: None, rule, other_runs: Vec::new() };
        let set = client.create_candidate_set(RUN, &new).await?;
        Ok(serde_json::from_value(json!({
            "candidate_set_id": set.candidate_set_id,
            "network": {"kind": "mlp", "features": [2, 3]},
            "data": {"fit": RUN},
        }))?)
    }

    async fn push(&self, client: &Client) -> Result<()> {
        let run =
            CreateRun { name: RUN.to_owned(), project: None, description: None, metadata: serde_json::Map::new() };
        client.create_run(&run).await?;
        for step in 1..=2_u8 {
            let file = self.folder.join("small.safetensors");
            let values =
                |count: u8| (0..count).flat_map(move |i| f32::from(step + i).to_le_bytes()).collect::<Vec<u8>>();
            let tensors = [("0.weight", Dtype::F32, vec![3, 2], values(6)), ("0.bias", Dtype::F32, vec![3], values(3))];
            write(&file, &tensors)?;
            let beside = PushCheckpoint::default();
            client.push_checkpoint(RUN, step.into(), &beside, &file, &ByteCounter::none()).await?;
        }
        let file = self.folder.join("small-data.safetensors");
        let inputs = (0..20_u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let labels = (0..10_i64).flat_map(|i| (i % 3).to_le_bytes()).collect();
        let tensors = [("inputs", Dtype::F32, vec![10, 2], inputs), ("labels", Dtype::I64, vec![10], labels)];
        write(&file, &tensors)?;
        client.push_dataset(RUN, &PushDataset::default(), &file, &ByteCounter::none()).await?;
        Ok(())
    }

    /// Queues so many jobs in place of all that were there, written past the server: copies of one that was submitted.
    pub async fn fill(&self, count: u32) -> Result<()> {
        self.clear().await?;
        let first = self.service.client()?.submit_job(&self.spec().await?).await?;
        let columns =
            "run_id, candidate_set_id, state, spec, estimate, created_at, changed_at, project, projection_key";
        let copy = format!(
            "insert into jobs (job_id, {columns}, turn)
             select gen_random_uuid(), {columns}, n from jobs, generate_series(1, {count} - 1) as n where job_id = '{}'",
            first.job_id
        );
        let datasets = format!(
            "insert into job_datasets (job_id, named, dataset_id)
             select jobs.job_id, named, dataset_id from jobs, job_datasets as of
             where of.job_id = '{0}' and jobs.job_id <> '{0}'",
            first.job_id
        );
        self.execute(&[&copy, &datasets, "analyze"]).await
    }

    /// Removes every job.
    pub async fn clear(&self) -> Result<()> {
        self.execute(&["truncate jobs cascade"]).await
    }

    async fn execute(&self, statements: &[&str]) -> Result<()> {
        let mut conn = PgConnection::connect(self.database_url).await?;
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe((*statement).to_owned())).execute(&mut conn).await?;
        }
        Ok(conn.close().await?)
    }
}

/// Registers a worker of this name.
pub async fn register(client: &Client, name: &str) -> Result<Uuid> {
    let device = WorkerDevice { kind: DeviceKind::Cpu, name: "cpu".to_owned() };
    let worker = RegisterWorker {
        name: name.to_owned(),
        version: "load".to_owned(),
        device,
        memory_bytes: None,
        networks: Vec::new(),
        projections: Vec::new(),
    };
    Ok(client.register_worker(&worker).await?.worker_id)
}

/// Claims a job that must be there.
pub async fn claim(client: &Client, worker_id: Uuid, wait_seconds: u32) -> Result<Lease> {
    client.claim(&Claim { worker_id, wait_seconds }).await?.context("the queue is empty")
}

fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Result<()> {
    let specs = tensors.iter().map(|(name, dtype, shape, _)| TensorSpec {
        name: (*name).to_owned(),
        dtype: *dtype,
        shape: shape.clone(),
    });
    let file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut writer = Writer::new(file, specs.collect(), &std::collections::BTreeMap::new())?;
    for (name, _, _, bytes) in tensors {
        writer.write(name, bytes)?;
    }
    writer.finish()?;
    Ok(())
}
