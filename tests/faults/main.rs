//! Servers and workers as processes: killed without warning, nothing is lost, nothing double, nothing half-visible; left
//! alone, they do what was asked.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adapters;
mod armed;
mod at_random;
mod audit;
mod clock;
mod cluster;
mod folders;
mod full_disk;
mod inputs;
mod link;
mod outage;
mod policy;
mod projections;
mod rebuild;
mod regression;
mod stalled;
mod store;
mod tally;
mod uploads;
mod walk;
mod watch;
mod world;

use barycenter_api::{
    AttemptState, HistoryQuery, JobState, ListQuery, LogQuery, PushCheckpoint, WorkerState, client::ByteCounter,
};
use cluster::Cluster;
use sqlx::PgPool;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

#[sqlx::test]
async fn a_job_whose_worker_was_killed_ends_with_the_coefficients_of_an_undisturbed_one(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = inputs::push(&cluster).await;

    let disturbed = inputs::submit(&cluster, &spec).await;
    let (first, _held) = cluster.worker_held_mid_fit("first");
    cluster.until_mid_fit(disturbed.job_id).await;
    first.kill();
    let _second = cluster.worker("second");
    let disturbed = cluster.until_terminal(disturbed.job_id).await;
    assert_eq!(disturbed.state, JobState::Succeeded, "{disturbed:?}");
    let attempts: Vec<_> = disturbed.attempts.iter().map(|a| (a.worker.as_str(), a.state)).collect();
    assert_eq!(attempts, [("first", AttemptState::Expired), ("second", AttemptState::Succeeded)]);

    let undisturbed = inputs::submit(&cluster, &spec).await;
    let undisturbed = cluster.until_terminal(undisturbed.job_id).await;
    assert_eq!(undisturbed.attempts.len(), 1);
    // Equality of f64 through JSON is equality of bits: both sides print and parse exactly.
    assert_eq!(cluster.coefficients(disturbed.job_id).await, cluster.coefficients(undisturbed.job_id).await);

    let all = HistoryQuery { limit: Some(10_000), coefficients: Some(false), ..HistoryQuery::default() };
    let disturbed = cluster.client.history(disturbed.job_id, &all).await.unwrap();
    let undisturbed = cluster.client.history(undisturbed.job_id, &all).await.unwrap();
    assert_eq!(disturbed.snapshots, undisturbed.snapshots);
}

#[sqlx::test]
async fn a_job_outlives_a_server_that_is_killed_in_the_middle_of_it(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let server = cluster.serve().await;
    let spec = inputs::push(&cluster).await;
    let job = inputs::submit(&cluster, &spec).await;
    let (_worker, held) = cluster.worker_held_mid_fit("only");
    cluster.until_mid_fit(job.job_id).await;
    server.kill();
    held.release();
    let _server = cluster.serve().await;
    let job = cluster.until_terminal(job.job_id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    assert!(job.artifact_id.is_some());
}

#[sqlx::test]
async fn a_drained_worker_ends_its_job_and_then_itself(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = inputs::push(&cluster).await;
    let job = inputs::submit(&cluster, &spec).await;
    let waiting = inputs::submit(&cluster, &spec).await;
    let (worker, held) = cluster.worker_held_mid_fit("drained");
    cluster.until_mid_fit(job.job_id).await;
    let known = cluster.client.list_workers(&ListQuery::default()).await.unwrap().items;
    assert_eq!((known[0].name.as_str(), known[0].job_id), ("drained", Some(job.job_id)));
    cluster.client.drain_worker(known[0].worker_id).await.unwrap();
    held.release();
    assert!(worker.succeeds().await, "it ends by itself");
    assert_eq!(cluster.until_terminal(job.job_id).await.state, JobState::Succeeded);
    assert_eq!(cluster.client.find_job(waiting.job_id, None).await.unwrap().state, JobState::Queued);
    let known = cluster.client.find_worker(known[0].worker_id).await.unwrap();
    assert_eq!(known.state, WorkerState::Drained);
    assert_eq!(known.projections.len(), 1, "it told what its cache holds");
    let log = cluster.client.job_log(job.job_id, &LogQuery::default()).await.unwrap();
    let said = |text: &str| log.lines.iter().any(|line| line.message.contains(text));
    assert!(log.complete && said("attempt 1") && said("fit began") && said("uploaded"), "{log:?}");
}

#[sqlx::test]
async fn a_real_fit_stops_when_its_job_is_cancelled(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = inputs::push(&cluster).await;
    let job = inputs::submit(&cluster, &spec).await;
    let (_worker, held) = cluster.worker_held_mid_fit("only");
    cluster.until_mid_fit(job.job_id).await;
    cluster.client.cancel_job(job.job_id).await.unwrap();
    held.release();
    let job = cluster.until_terminal(job.job_id).await;
    assert_eq!((job.state, job.attempts[0].state), (JobState::Cancelled, AttemptState::Cancelled));
}

#[sqlx::test]
async fn a_server_killed_in_the_middle_of_an_upload_leaves_nothing_visible(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let server = cluster.serve().await;
    inputs::push(&cluster).await;
    let before = cluster.client.list_checkpoints("faults").await.unwrap().len();
    let path = cluster.folder.path().join("late.safetensors");
    inputs::checkpoint(&path, 40);
    let body = std::fs::read(&path).unwrap();

    let mut connection = TcpStream::connect(cluster.address).await.unwrap();
    let head = format!(
        "PUT /v1/runs/faults/checkpoints/40 HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\
         content-type: application/octet-stream\r\n\r\n",
        cluster.address,
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&body[..body.len() / 2]).await.unwrap();
    connection.flush().await.unwrap();
    cluster
        .until("the server has begun the upload", async || {
            let begun: i64 = sqlx::query_scalar("select count(*) from uploads").fetch_one(&pool).await.unwrap();
            (begun == 1).then_some(())
        })
        .await;
    server.kill();
    drop(connection);

    let _server = cluster.serve().await;
    assert_eq!(cluster.client.list_checkpoints("faults").await.unwrap().len(), before);
    let beside = PushCheckpoint::default();
    let pushed = cluster.client.push_checkpoint("faults", 40, &beside, &path, &ByteCounter::none()).await.unwrap();
    assert_eq!(pushed.size_bytes, body.len() as u64);
    let listed = cluster.client.list_checkpoints("faults").await.unwrap();
    assert_eq!(listed.len(), before + 1);
}
