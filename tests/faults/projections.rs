//! Projections that workers share and extend: a job ends with the same bits whichever way its worker came by one.

use std::path::Path;

use barycenter_api::{
    CandidateSetRule, CoefficientTable, CreateCandidateSet, Extends, Job, JobSpec, JobState, ListQuery, MethodSpec,
    ProjectionReport, ProjectionSource, PushCheckpoint, client::ByteCounter,
};
use barycenter_core::checkpoint::CheckpointFile;
use barycenter_faults::Point;
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    armed::{Action, Armed},
    cluster::Cluster,
    inputs,
};

/// Steps of candidates whose centre is far from that of the first six, see [`push_far`].
const FAR_FROM_THE_FIRST: [usize; 6] = [5, 10, 11, 12, 13, 14];
/// Steps of candidates whose centre is near that one.
const NEAR_THOSE: [usize; 6] = [5, 11, 12, 13, 14, 15];

/// The set of the candidates of these steps.
async fn set(cluster: &Cluster, steps: impl IntoIterator<Item = usize>) -> uuid::Uuid {
    let rule = CandidateSetRule::Explicit {
        checkpoint_ids: Vec::new(),
        checkpoints: steps.into_iter().map(|step| step.to_string()).collect(),
    };
    let create = CreateCandidateSet { name: None, rule, other_runs: Vec::new() };
    cluster.client.create_candidate_set("faults", &create).await.unwrap().candidate_set_id
}

fn twa(spec: &mut JobSpec) -> &mut barycenter_api::TwaSpec {
    match &mut spec.method {
        MethodSpec::Twa(twa) => twa,
        other => panic!("{other:?}"),
    }
}

/// A run of eight checkpoints and the spec of a job on the first six.
async fn push(cluster: &Cluster, epochs: u32) -> JobSpec {
    let mut spec = inputs::push(cluster).await;
    for candidate in 6..8 {
        let path = cluster.folder.path().join(format!("{candidate}.safetensors"));
        inputs::checkpoint(&path, candidate);
        push_file(cluster, candidate, &path).await;
    }
    twa(&mut spec).epochs = Some(epochs);
    spec.candidate_set_id = set(cluster, 0..6).await;
    spec
}

async fn push_file(cluster: &Cluster, step: usize, path: &Path) {
    let beside = PushCheckpoint::default();
    cluster.client.push_checkpoint("faults", step as i64, &beside, path, &ByteCounter::none()).await.unwrap();
}

/// Pushes candidates far from those of [`inputs::push`].
async fn push_far(cluster: &Cluster, steps: std::ops::Range<usize>) {
    for step in steps {
        let (near, far) = (cluster.folder.path().join("near"), cluster.folder.path().join(format!("far-{step}")));
        inputs::checkpoint(&near, step % 6);
        let file = CheckpointFile::open(&near).unwrap();
        let tensors = file.layout().tensors.iter().map(|layout| {
            let mut values = vec![0.0; layout.elements()];
            file.fill_f32(&layout.name, 0, &mut values).unwrap();
            for value in &mut values {
                *value += 1.0;
            }
            inputs::tensor(&layout.name, &layout.shape, &values)
        });
        inputs::write(&far, tensors.collect());
        push_file(cluster, step, &far).await;
    }
}

/// The job on the candidates two steps on, whose projection extends that of the first.
async fn extending(cluster: &Cluster, spec: &JobSpec, first: &Job) -> JobSpec {
    extending_to(cluster, spec, first, 2..8).await
}

/// A job on the candidates of these steps whose projection extends that of another.
async fn extending_to(
    cluster: &Cluster,
    spec: &JobSpec,
    first: &Job,
    steps: impl IntoIterator<Item = usize>,
) -> JobSpec {
    let mut next = spec.clone();
    next.candidate_set_id = set(cluster, steps).await;
    twa(&mut next).extends = Some(Extends::Job(first.job_id));
    next
}

async fn metrics(cluster: &Cluster) -> String {
    let mut connection = TcpStream::connect(cluster.address).await.unwrap();
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn keys(cluster: &Cluster) -> Vec<String> {
    let page = cluster.client.list_projections(&ListQuery::default()).await.unwrap();
    page.items.into_iter().map(|projection| projection.projection_key).collect()
}

async fn until_shared(cluster: &Cluster, count: usize) {
    let enough = async || (keys(cluster).await.len() == count).then_some(());
    cluster.until("the projections are shared", enough).await;
}

async fn forget(cluster: &Cluster, which: impl Fn(&str) -> bool) {
    for key in keys(cluster).await.iter().filter(|key| which(key)) {
        cluster.client.delete_projection(key).await.unwrap();
    }
}

/// Runs a job to its end on a worker of its own that has nothing.
async fn run(cluster: &Cluster, worker: &str, spec: &JobSpec) -> (Job, ProjectionReport, CoefficientTable) {
    let _worker = cluster.worker(worker);
    let job = inputs::submit(cluster, spec).await;
    ended(cluster, &job).await
}

/// The same; the worker is there until the server has so many projections.
async fn run_and_share(
    cluster: &Cluster,
    worker: &str,
    spec: &JobSpec,
    count: usize,
) -> (Job, ProjectionReport, CoefficientTable) {
    let _worker = cluster.worker(worker);
    let job = inputs::submit(cluster, spec).await;
    let ended = ended(cluster, &job).await;
    until_shared(cluster, count).await;
    ended
}

/// Files of the projections in a worker's cache.
fn files(cluster: &Cluster, worker: &str) -> Vec<std::path::PathBuf> {
    let folder = cluster.folder.path().join(format!("cache-{worker}/projections"));
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

async fn ended(cluster: &Cluster, job: &Job) -> (Job, ProjectionReport, CoefficientTable) {
    let job = cluster.until_terminal(job.job_id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    let found = job.report.clone().unwrap().projection.unwrap();
    let coefficients = cluster.coefficients(job.job_id).await;
    (job, found, coefficients)
}

#[sqlx::test]
async fn a_worker_without_a_cache_takes_up_a_killed_ones_fit_along_the_projection_that_it_shared(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = push(&cluster, 200).await;
    let job = inputs::submit(&cluster, &spec).await;
    let (first, _held) = cluster.worker_held_mid_fit("first");
    cluster.until_mid_fit(job.job_id).await;
    until_shared(&cluster, 1).await;
    first.kill();
    let _second = cluster.worker("second");
    let (job, found, disturbed) = ended(&cluster, &job).await;
    assert_eq!((job.attempts.len(), found.source, found.revisions), (2, ProjectionSource::Fetched, 0));
    forget(&cluster, |_| true).await;
    let (_, cached, undisturbed) = ended(&cluster, &inputs::submit(&cluster, &spec).await).await;
    assert_eq!((cached.source, &cached.projection_key), (ProjectionSource::Cached, &found.projection_key));
    assert_eq!(disturbed, undisturbed);
    let workers = cluster.client.list_workers(&ListQuery::default()).await.unwrap().items;
    let counts = workers.iter().find(|worker| worker.name == "second").unwrap().projection_counts;
    assert_eq!((counts.built, counts.cached, counts.fetched, counts.hit_rate), (0, 1, 1, Some(1.0)));
    let metrics = metrics(&cluster).await;
    for source in ["cached", "fetched"] {
        let line = format!("barycenter_projections_total{{source=\"{source}\"}} 1");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}

#[sqlx::test]
async fn a_job_ends_with_the_same_bits_whichever_way_its_projection_was_come_by(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = push(&cluster, 100).await;
    let (first, built, _) = run_and_share(&cluster, "extends", &spec, 1).await;
    assert_eq!(built.source, ProjectionSource::Built);
    let next = extending(&cluster, &spec, &first).await;

    // Extended from the worker's own cache, killed in the middle of the fit and taken up by one that fetches what it shared.
    let disturbed = inputs::submit(&cluster, &next).await;
    let (first_worker, _held) = cluster.worker_held_mid_fit("extends");
    cluster.until_mid_fit(disturbed.job_id).await;
    until_shared(&cluster, 2).await;
    first_worker.kill();
    let second_worker = cluster.worker("fetches");
    let (disturbed, fetched, expected) = ended(&cluster, &disturbed).await;
    assert_eq!((disturbed.attempts.len(), fetched.source, fetched.revisions), (2, ProjectionSource::Fetched, 1));
    second_worker.kill();

    // Undisturbed, from the worker's own cache.
    forget(&cluster, |_| true).await;
    let holder = cluster.worker("extends");
    let cached = ended(&cluster, &inputs::submit(&cluster, &next).await).await;
    assert_eq!((cached.1.source, &cached.2), (ProjectionSource::Cached, &expected));
    // The same worker without the last one extends again.
    holder.kill();
    let file = cluster.folder.path().join("cache-extends/projections").join(&cached.1.projection_key);
    std::fs::remove_file(file).unwrap();
    let (_, extended, same) = run_and_share(&cluster, "extends", &next, 1).await;
    assert_eq!((extended.source, extended.fetched, extended.revisions), (ProjectionSource::Extended, false, 1));
    assert_eq!(extended.extended_from.as_ref(), Some(&built.projection_key));
    assert_eq!(same, expected);

    // From the beginning, where nobody has anything.
    forget(&cluster, |_| true).await;
    let (_, replayed, same) = run_and_share(&cluster, "replays", &next, 1).await;
    assert_eq!((replayed.source, replayed.revisions, replayed.unfollowed), (ProjectionSource::Built, 1, false));
    assert_eq!(same, expected);

    // A damaged one is passed over.
    let file = cluster.folder.path().join("cache-replays/projections").join(&replayed.projection_key);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (_, instead, same) = run(&cluster, "replays", &next).await;
    assert_eq!((instead.source, same), (ProjectionSource::Fetched, expected.clone()));
}

#[sqlx::test]
async fn a_projection_that_drifted_is_built_anew_by_every_worker_and_extended_from_there(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = push(&cluster, 4).await;
    push_far(&cluster, 10..16).await;
    let worker = cluster.worker("first");
    let (first, _, _) = ended(&cluster, &inputs::submit(&cluster, &spec).await).await;
    let far = extending_to(&cluster, &spec, &first, FAR_FROM_THE_FIRST).await;
    // Submitted before anybody knows that the one between drifts.
    let between = inputs::submit(&cluster, &far).await;
    let early = extending_to(&cluster, &spec, &between, NEAR_THOSE).await;
    let early = inputs::submit(&cluster, &early).await;
    let (drifted_job, drifted, _) = ended(&cluster, &between).await;
    assert_eq!((drifted.source, drifted.revisions), (ProjectionSource::Built, 0));
    assert_eq!(drifted.drifted, std::slice::from_ref(&drifted.projection_key));
    let (_, early, expected) = ended(&cluster, &early).await;
    assert_eq!((early.source, early.revisions), (ProjectionSource::Extended, 1));
    until_shared(&cluster, 3).await;
    worker.kill();

    // Known to have drifted: the same projection under the same key, which rests on nothing before that one.
    let late = extending_to(&cluster, &spec, &drifted_job, NEAR_THOSE).await;
    forget(&cluster, |_| true).await;
    let (job, late, coefficients) = run(&cluster, "second", &late).await;
    assert_eq!(
        (late.source, late.revisions, &late.projection_key),
        (ProjectionSource::Built, 1, &early.projection_key)
    );
    assert!(late.drifted.is_empty(), "the first link is built, and nothing drifts after it: {late:?}");
    assert_eq!(coefficients, expected);
    let links = sqlx::query_scalar("select count(*) from projection_links where job_id = $1").bind(job.job_id);
    let links: i64 = links.fetch_one(&pool).await.unwrap();
    assert_eq!(links, 1);
}

#[sqlx::test]
async fn a_projection_whose_past_was_deleted_is_built_of_its_candidates_alone(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = push(&cluster, 4).await;
    let (first, built, _) = run_and_share(&cluster, "first", &spec, 1).await;
    let next = extending(&cluster, &spec, &first).await;
    let job = inputs::submit(&cluster, &next).await;
    forget(&cluster, |key| key == built.projection_key).await;
    cluster.client.delete_artifact(first.artifact_id.unwrap()).await.unwrap();
    cluster.client.delete_job(first.job_id).await.unwrap();
    cluster.client.delete_candidate_set(spec.candidate_set_id).await.unwrap();
    let _worker = cluster.worker("second");
    let (_, alone, coefficients) = ended(&cluster, &job).await;
    assert_eq!((alone.source, alone.unfollowed, alone.revisions), (ProjectionSource::Built, true, 0));
    let mut fresh = next.clone();
    twa(&mut fresh).extends = None;
    let (_, same, of_fresh) = ended(&cluster, &inputs::submit(&cluster, &fresh).await).await;
    assert_eq!((same.source, &same.projection_key), (ProjectionSource::Cached, &alone.projection_key));
    assert_eq!(coefficients, of_fresh);
}

#[sqlx::test]
async fn a_worker_goes_on_from_the_projection_in_its_memory_and_ends_with_the_same_bits(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = push(&cluster, 4).await;
    // Neither a disk nor the server has anything when the next job begins.
    let forget_files = async |worker: &str| {
        let files = files(&cluster, worker);
        assert_eq!(files.len(), 1);
        std::fs::remove_file(&files[0]).unwrap();
        until_shared(&cluster, 1).await;
        forget(&cluster, |_| true).await;
    };
    let holds = cluster.worker("holds");
    let (first, built, _) = ended(&cluster, &inputs::submit(&cluster, &spec).await).await;
    forget_files("holds").await;
    let next = extending(&cluster, &spec, &first).await;
    let (_, extended, expected) = ended(&cluster, &inputs::submit(&cluster, &next).await).await;
    assert_eq!((extended.source, extended.fetched, extended.revisions), (ProjectionSource::Extended, false, 1));
    assert_eq!(extended.extended_from.as_ref(), Some(&built.projection_key));
    forget_files("holds").await;
    let (_, again, same) = ended(&cluster, &inputs::submit(&cluster, &next).await).await;
    assert_eq!((again.source, &same), (ProjectionSource::Cached, &expected));
    holds.kill();

    // One that may hold less than a projection has holds nothing.
    let bytes = [("BARYCENTER_HELD_PROJECTION_BYTES", "4096".to_owned())];
    let _lets_go = cluster.worker_with("lets-go", bytes);
    for _ in 0..2 {
        let (_, replayed, same) = ended(&cluster, &inputs::submit(&cluster, &next).await).await;
        assert_eq!((replayed.source, replayed.revisions, &same), (ProjectionSource::Built, 1, &expected));
        forget_files("lets-go").await;
    }
}

#[sqlx::test]
async fn a_worker_that_is_killed_while_it_saves_its_projection_leaves_none(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = push(&cluster, 4).await;
    let armed = Armed::new(Point::WorkerSaving, Action::Kill, cluster.folder.path().join("marks"));
    let dies = cluster.worker_with("dies", armed.environment());
    let job = inputs::submit(&cluster, &spec).await;
    armed.reached().await;
    assert!(!dies.succeeds().await);
    let left = files(&cluster, "dies");
    assert!(
        left.iter().all(|file| file.extension().is_some_and(|end| end.display().to_string().starts_with("partial")))
    );
    assert_eq!((left.len(), keys(&cluster).await.len()), (1, 0));
    let _second = cluster.worker("dies");
    let (job, built, disturbed) = ended(&cluster, &job).await;
    assert_eq!((job.attempts.len(), built.source), (2, ProjectionSource::Built));
    let (_, cached, undisturbed) = ended(&cluster, &inputs::submit(&cluster, &spec).await).await;
    assert_eq!((cached.source, disturbed), (ProjectionSource::Cached, undisturbed));
}
