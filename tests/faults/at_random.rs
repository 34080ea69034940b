//! Two servers and four workers behind a balancer, killed and stalled at random while jobs come in.

use std::time::{Duration, Instant};

use barycenter_api::{Job, JobSpec, JobSummary, ListJobs, client::Client};
use barycenter_core::data::Draws;

use crate::{
    audit::{self, Audit},
    cluster::Process,
    inputs,
    link::{End, Link, free_address},
    tally::{self, Tally},
    world::World,
};

/// Jobs of different numbers, so that not all of them end with the same bytes.
const KINDS: usize = 4;
const EPOCHS: u32 = 60;

/// A process that is there, or will be again.
struct Place {
    process: Option<Process>,
    back_at: Instant,
}

impl Place {
    fn empty() -> Self {
        Self { process: None, back_at: Instant::now() }
    }

    fn is_due(&mut self) -> bool {
        let lives = self.process.as_mut().is_some_and(Process::is_alive);
        !lives && self.back_at <= Instant::now()
    }
}

/// What is disturbed, and how far the jobs are.
struct Storm {
    world: World,
    balancer: Link,
    addresses: [std::net::SocketAddr; 2],
    servers: [Place; 2],
    workers: [Place; 4],
    stalled: Vec<(usize, Instant)>,
    draws: Draws,
    kills: [usize; 5],
}

impl Storm {
    async fn begin(seed: u64) -> Self {
        let world = World::new().await;
        let addresses = [free_address(), free_address()];
        let balancer = Link::open(addresses.map(End::Tcp).to_vec());
        let servers = [Place::empty(), Place::empty()];
        let workers = [Place::empty(), Place::empty(), Place::empty(), Place::empty()];
        let draws = Draws::keyed(&[seed]);
        Self { world, balancer, addresses, servers, workers, stalled: Vec::new(), draws, kills: [0; 5] }
    }

    fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.balancer.address), None).unwrap()
    }

    /// Starts what is due to come back: also a server that gave up because Postgres was away when it started.
    fn restore(&mut self) {
        for (place, address) in self.servers.iter_mut().zip(self.addresses) {
            if place.is_due() {
                place.process = Some(self.world.start_server(address, crate::store::URL, None, &[]));
            }
        }
        for (index, place) in self.workers.iter_mut().enumerate() {
            if place.is_due() {
                let environment = self.world.worker_environment(&format!("w{index}"), self.balancer.address, None);
                place.process = Some(Process::start(&["worker"], &environment));
            }
        }
        let workers = &self.workers;
        self.stalled.retain(|(index, until)| {
            let is_over = *until <= Instant::now();
            if is_over && let Some(process) = &workers[*index].process {
                process.wake();
            }
            !is_over
        });
    }

    fn milliseconds(&mut self, below: usize) -> Duration {
        Duration::from_millis(self.draws.below(below) as u64)
    }

    /// One disturbance: mostly of workers and servers, now and then of what they stand on.
    async fn disturb(&mut self) {
        let away = self.milliseconds(1500);
        match self.draws.below(20) {
            0 => {
                self.kills[0] += 1;
                self.world.kill_postgres().await;
                tokio::time::sleep(away).await;
                self.world.start_postgres().await;
            }
            1 => {
                self.kills[1] += 1;
                self.world.kill_store();
                tokio::time::sleep(away).await;
                self.world.start_store().await;
            }
            2..8 => {
                self.kills[2] += 1;
                let index = self.draws.below(2);
                kill(&mut self.servers[index], away);
            }
            8..11 => {
                self.kills[3] += 1;
                let index = self.draws.below(4);
                if let Some(process) = &self.workers[index].process {
                    process.stall();
                    // Longer than a lease.
                    self.stalled.push((index, Instant::now() + Duration::from_secs(3)));
                }
            }
            _ => {
                self.kills[4] += 1;
                let index = self.draws.below(4);
                kill(&mut self.workers[index], away);
            }
        }
    }

    /// Disturbs for a time, jobs coming in at even distances; returns once all have come in.
    async fn blow(&mut self, specs: &[JobSpec], jobs: u64, time: Duration) {
        let began = Instant::now();
        let mut submitted = 0;
        while submitted < jobs || began.elapsed() < time {
            self.restore();
            let due = (began.elapsed().as_secs_f64() / time.as_secs_f64() * jobs as f64) as u64 + 1;
            while submitted < due.min(jobs) {
                let spec = &specs[submitted as usize % specs.len()];
                if !submit(&self.client(), spec, submitted).await {
                    break;
                }
                submitted += 1;
            }
            let pause = self.milliseconds(1500);
            tokio::time::sleep(pause).await;
            self.disturb().await;
        }
    }

    /// Lets everything come back and waits until every job has ended.
    async fn calm(&mut self, jobs: u64) -> Vec<Job> {
        let client = self.client();
        let deadline = Instant::now() + Duration::from_mins(5);
        loop {
            self.restore();
            if let Some(jobs_now) = list_all(&client).await
                && jobs_now.iter().all(|job| job.state.is_terminal())
            {
                assert_eq!(jobs_now.len() as u64, jobs, "each submission made one job");
                let mut ended = Vec::new();
                for job in jobs_now {
                    ended.push(client.find_job(job.job_id, None).await.unwrap());
                }
                return ended;
            }
            assert!(Instant::now() < deadline, "jobs did not end");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Every job; `None` where the servers did not answer.
async fn list_all(client: &Client) -> Option<Vec<JobSummary>> {
    let (mut all, mut page_token) = (Vec::new(), None);
    loop {
        let page = client.list_jobs(&ListJobs { page_token, ..ListJobs::default() }).await.ok()?;
        all.extend(page.items);
        page_token = page.next_page_token;
        if page_token.is_none() {
            return Some(all);
        }
    }
}

fn kill(place: &mut Place, away: Duration) {
    if let Some(process) = place.process.take() {
        process.kill();
        place.back_at = Instant::now() + away;
    }
}

/// Submits a job under a key of its own; false where no server could say whether it did, and the same is to be asked again.
async fn submit(client: &Client, spec: &JobSpec, number: u64) -> bool {
    let url = client.base_url().join("/v1/jobs").unwrap();
    let request = reqwest::Client::new().post(url).header("idempotency-key", format!("job-{number}")).json(spec);
    match request.send().await {
        Ok(answer) if answer.status().is_success() => true,
        Ok(answer) if answer.status() == 503 || answer.status() == 409 => false,
        Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap()),
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_ends_once_and_the_same_while_everything_is_killed_at_random() {
    let (jobs, time) = if tally::is_long() {
        (tally::number("FAULTS_JOBS", 200), Duration::from_mins(tally::number("FAULTS_MINUTES", 10)))
    } else {
        (8, Duration::from_secs(15))
    };
    let seed = tally::number("FAULTS_SEED", u64::from(std::process::id()));
    println!("FAULTS_SEED={seed}");
    let mut tally = Tally::of("two servers, four workers, killed at random");
    let mut storm = Storm::begin(seed).await;
    storm.restore();
    storm.world.until_ready(storm.balancer.address).await;
    let client = storm.client();
    let base = inputs::push_from(&client, storm.world.folder.path(), EPOCHS).await;
    let specs: Vec<JobSpec> =
        (0..KINDS).map(|kind| JobSpec { seed: base.seed + kind as u64, ..base.clone() }).collect();
    let mut undisturbed = Vec::new();
    for spec in &specs {
        let job = client.submit_job(spec).await.unwrap();
        let job = storm.world.until_terminal_at(&client, job.job_id).await;
        undisturbed.push(audit::result_of(&client, &job).await);
    }

    storm.blow(&specs, jobs, time).await;
    let ended = storm.calm(jobs + KINDS as u64).await;
    let audit = Audit::of(&storm.world);
    for job in &ended {
        let kind = (job.spec.seed - base.seed) as usize;
        assert_eq!(audit::result_of(&client, job).await, undisturbed[kind], "seed {seed}: {job:?}");
        audit.one_success(job).await;
        tally.job(job);
    }
    storm.servers = [Place::empty(), Place::empty()];
    storm.workers.iter_mut().for_each(|place| place.process = None);
    audit.nothing_half_visible().await;
    let [postgres, store, servers, stalls, workers] = storm.kills;
    println!(
        "killed: {servers} servers, {workers} workers, {postgres} Postgres, {store} store; stalled: {stalls} workers"
    );
    tally.disturbances = storm.kills.iter().sum();
    tally.end();
}
