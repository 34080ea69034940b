//! The lease protocol against its model (`docs/leases.md`): random workers on a real Postgres, compared after every step.

use std::time::Duration;

use barycenter::app::sweeper;
use barycenter_api::{AttemptState, Directive, HeartbeatReply, Job, JobState, Lease};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::{
    prelude::{Just, Strategy, any},
    prop_oneof,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::scene::{Scene, checkpoint, finish_body};

/// What can happen. Numbers choose among what is there, modulo how much that is.
#[derive(Clone, Debug)]
enum Step {
    Submit { deadline_seconds: Option<u64> },
    Claim,
    Beat(usize),
    Finish(usize),
    Fail { lease: usize, code: &'static str, retry: bool },
    Cancel(usize),
    Advance(u64),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let code = prop_oneof![Just("io"), Just("worker_stopped"), Just("invalid_input"), Just("cancelled")];
    let step = prop_oneof![
        2 => proptest::option::weighted(0.3, 30..200_u64).prop_map(|deadline_seconds| Step::Submit { deadline_seconds }),
        6 => Just(Step::Claim),
        4 => any::<usize>().prop_map(Step::Beat),
        2 => any::<usize>().prop_map(Step::Finish),
        3 => (any::<usize>(), code, any::<bool>()).prop_map(|(lease, code, retry)| Step::Fail { lease, code, retry }),
        1 => any::<usize>().prop_map(Step::Cancel),
        4 => prop_oneof![1..29_u64, 29..40_u64, 40..400_u64].prop_map(Step::Advance),
        2 => Just(Step::Sweep),
    ];
    proptest::collection::vec(step, 1..45)
}

/// A job as the model knows it.
struct ModelJob {
    id: uuid::Uuid,
    state: JobState,
    attempts: Vec<AttemptState>,
    failures: u32,
    cancel_requested: bool,
    not_before: DateTime<Utc>,
    deadline: Option<DateTime<Utc>>,
    /// The lease that speaks for it: its index, and when it lapses.
    lease: Option<(usize, DateTime<Utc>)>,
}

impl ModelJob {
    fn end(&mut self, state: JobState, attempt: AttemptState) {
        self.state = state;
        self.lease = None;
        if let Some(last) = self.attempts.last_mut().filter(|last| **last == AttemptState::Running) {
            *last = attempt;
        }
    }
}

/// The protocol in one process, and the service beside it.
struct Model<'a> {
    scene: &'a Scene,
    jobs: Vec<ModelJob>,
    /// Every lease ever given, with the index of its job.
    leases: Vec<(Lease, usize)>,
}

const MAX_ATTEMPTS: u32 = 5;
const LEASE: TimeDelta = TimeDelta::seconds(30);

fn pause(failures: u32) -> TimeDelta {
    TimeDelta::seconds((5_i64 << (failures - 1).min(10)).min(300))
}

impl Model<'_> {
    fn now(&self) -> DateTime<Utc> {
        self.scene.app.state.clock.now()
    }

    /// The job that a lease speaks for, where it still does.
    fn held(&mut self, lease: usize) -> Option<&mut ModelJob> {
        let job = &mut self.jobs[self.leases[lease].1];
        (job.lease.map(|(held, _)| held) == Some(lease)).then_some(job)
    }

    async fn step(&mut self, step: &Step) {
        let leases = self.leases.len();
        match step {
            Step::Submit { deadline_seconds } => self.submit(*deadline_seconds).await,
            Step::Claim => self.claim().await,
            Step::Beat(n) if leases > 0 => self.beat(n % leases).await,
            Step::Finish(n) if leases > 0 => self.finish(n % leases).await,
            Step::Fail { lease, code, retry } if leases > 0 => self.fail(lease % leases, code, *retry).await,
            Step::Cancel(n) if !self.jobs.is_empty() => self.cancel(n % self.jobs.len()).await,
            Step::Advance(seconds) => self.scene.app.clock.advance(Duration::from_secs(*seconds)),
            Step::Sweep => self.sweep().await,
            _ => {}
        }
    }

    async fn submit(&mut self, deadline_seconds: Option<u64>) {
        let mut spec = self.scene.spec();
        spec["scheduling"] = json!({"deadline_seconds": deadline_seconds});
        let job: Job = self.scene.app.post("/v1/jobs", spec).await.json(202);
        let now = self.now();
        self.jobs.push(ModelJob {
            id: job.job_id,
            state: JobState::Queued,
            attempts: Vec::new(),
            failures: 0,
            cancel_requested: false,
            not_before: now,
            deadline: deadline_seconds.map(|seconds| now + TimeDelta::seconds(seconds as i64)),
            lease: None,
        });
    }

    /// Whether a claim may take a job now.
    fn is_claimable(&self, job: &ModelJob) -> bool {
        let now = self.now();
        let in_time = job.deadline.is_none_or(|deadline| deadline > now);
        in_time
            && match job.lease {
                None => job.state == JobState::Queued && job.not_before <= now,
                Some((_, lapses_at)) => {
                    let left = (pause(job.failures + 1) - LEASE).max(TimeDelta::zero());
                    !job.cancel_requested && job.failures + 1 < MAX_ATTEMPTS && lapses_at + left <= now
                }
            }
    }

    async fn claim(&mut self) {
        let now = self.now();
        let answer = self.scene.try_claim().await;
        // Lapsed ones first, each in the order of submission: one project, one priority.
        let expected = [true, false].into_iter().find_map(|lapsed| {
            self.jobs.iter().position(|job| job.lease.is_some() == lapsed && self.is_claimable(job))
        });
        let Some(index) = expected else {
            assert_eq!(answer.status, 204, "{}", answer.text());
            return;
        };
        let lease: Lease = answer.json(201);
        let job = &mut self.jobs[index];
        assert_eq!(lease.job_id, job.id, "the first that may be taken");
        if job.lease.is_some() {
            job.failures += 1;
            *job.attempts.last_mut().unwrap() = AttemptState::Expired;
        }
        job.attempts.push(AttemptState::Running);
        assert_eq!(lease.attempt as usize, job.attempts.len());
        job.state = JobState::Running;
        job.lease = Some((self.leases.len(), now + LEASE));
        self.leases.push((lease, index));
    }

    async fn beat(&mut self, lease: usize) {
        let now = self.now();
        let reply: HeartbeatReply = self.scene.beat(&self.leases[lease].0).await;
        let expected = match self.held(lease) {
            None => Directive::Lost,
            Some(job) => {
                job.lease = Some((lease, now + LEASE));
                if job.cancel_requested { Directive::Stop } else { Directive::Continue }
            }
        };
        assert_eq!(reply.directive, expected);
    }

    async fn finish(&mut self, lease: usize) {
        let given = self.leases[lease].0.clone();
        let path = format!("/v1/leases/{}/artifact", given.lease_id);
        let uploaded = self.scene.app.put(&path, checkpoint(21.0)).await;
        let digest = blake3::hash(&checkpoint(21.0)).to_hex().to_string();
        let finished = self.scene.finish(&given, finish_body(&digest)).await;
        let index = self.leases[lease].1;
        if let Some(job) = self.held(lease) {
            job.end(JobState::Succeeded, AttemptState::Succeeded);
            assert_eq!((uploaded.status.as_u16(), finished.status.as_u16()), (200, 200), "{}", finished.text());
        } else {
            // The same call again under the lease that has published is answered with the same job.
            let again = self.jobs[index].state == JobState::Succeeded
                && given.attempt as usize == self.jobs[index].attempts.len();
            assert_eq!(finished.status.as_u16(), if again { 200 } else { 409 }, "{}", finished.text());
        }
    }

    async fn fail(&mut self, lease: usize, code: &str, retry: bool) {
        let now = self.now();
        let given = self.leases[lease].0.clone();
        let answer = self.scene.fail(&given, code, retry).await;
        let index = self.leases[lease].1;
        let reported = self.jobs[index].attempts[given.attempt as usize - 1];
        let Some(job) = self.held(lease) else {
            let again = matches!(reported, AttemptState::Failed | AttemptState::Cancelled);
            assert_eq!(answer.status.as_u16(), if again { 200 } else { 409 }, "{}", answer.text());
            return;
        };
        assert_eq!(answer.status, 200, "{}", answer.text());
        let handed_back = code == "worker_stopped" && retry;
        let failures = job.failures + u32::from(!handed_back);
        if job.cancel_requested && (retry || code == "cancelled") {
            job.end(JobState::Cancelled, AttemptState::Cancelled);
        } else if retry && code != "invalid_input" && failures < MAX_ATTEMPTS {
            job.end(JobState::Queued, AttemptState::Failed);
            job.failures = failures;
            job.not_before = if handed_back { now } else { now + pause(failures) };
        } else {
            job.end(JobState::Failed, AttemptState::Failed);
        }
    }

    async fn cancel(&mut self, index: usize) {
        let path = format!("/v1/jobs/{}/cancel", self.jobs[index].id);
        let request = axum::http::Request::post(path).body(axum::body::Body::empty()).unwrap();
        self.scene.app.send(request).await.json::<Value>(200);
        let job = &mut self.jobs[index];
        match job.state {
            JobState::Queued => job.end(JobState::Cancelled, AttemptState::Cancelled),
            JobState::Running => job.cancel_requested = true,
            _ => {}
        }
    }

    async fn sweep(&mut self) {
        let now = self.now();
        sweeper::sweep(&self.scene.app.state).await.unwrap();
        for job in self.jobs.iter_mut().filter(|job| !job.state.is_terminal()) {
            if job.deadline.is_some_and(|deadline| deadline <= now) {
                job.end(JobState::Failed, AttemptState::Failed);
            } else if job.lease.is_some_and(|(_, lapses_at)| lapses_at <= now) {
                if job.cancel_requested {
                    job.end(JobState::Cancelled, AttemptState::Expired);
                } else if job.failures + 1 >= MAX_ATTEMPTS {
                    job.end(JobState::Failed, AttemptState::Expired);
                }
            }
        }
    }

    /// Every job is where the model has it, and every artifact belongs to one that succeeded.
    async fn compare(&self) {
        for expected in &self.jobs {
            let job: Job = self.scene.app.get(&format!("/v1/jobs/{}", expected.id)).await.json(200);
            assert_eq!(job.state, expected.state, "{job:?}");
            let attempts: Vec<AttemptState> = job.attempts.iter().map(|attempt| attempt.state).collect();
            assert_eq!(attempts, expected.attempts, "{job:?}");
            assert_eq!(job.artifact_id.is_some(), job.state == JobState::Succeeded);
        }
    }
}

async fn play(scene: &Scene, steps: &[Step]) {
    for table in ["artifacts", "artifact_uploads", "jobs"] {
        let statement = sqlx::AssertSqlSafe(format!("delete from {table}"));
        sqlx::query(statement).execute(&scene.app.state.pool).await.unwrap();
    }
    let mut model = Model { scene, jobs: Vec::new(), leases: Vec::new() };
    for step in steps {
        model.step(step).await;
        model.compare().await;
    }
}

#[sqlx::test]
async fn the_service_does_what_the_model_does_whatever_workers_do(pool: PgPool) {
    let scene = Scene::new(pool).await;
    // Every run of the test plays other games; a failure prints the shortest that fails.
    let games = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Handle::current();
        let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        runner.run(&steps(), |steps| {
            let played =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(play(&scene, &steps))));
            played.map_err(|panic| {
                let told = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a step panicked".to_owned());
                TestCaseError::fail(told)
            })
        })
    });
    games.await.unwrap().unwrap();
}
