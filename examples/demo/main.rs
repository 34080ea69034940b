//! The main job, end to end: train a small network on drawn pictures, push its checkpoints as they come, average them,
//! and compare the result with the honest baselines. Run by `make demo`.

mod service;
mod shapes;
mod training;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use barycenter_api::{
    Among, Augmentation, CandidateSetRule, CreateCandidateSet, CreateRun, Job, JobSpec, JobState,
    NetworkSpec as WireNetwork, PushCheckpoint, PushDataset, Report,
    client::{ByteCounter, Client},
};
use barycenter_core::{data::Dataset, network::NetworkSpec};
use serde_json::json;
use service::Service;
use training::{AUGMENTATION, Training};

const DEPTH: usize = 8;
const EPOCHS: usize = 24;
const CANDIDATES: u32 = 16;
const SEED: u64 = 7;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let keep = std::env::args().any(|argument| argument == "--keep");
    let folder = PathBuf::from("target/demo");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("clearing target/demo")?;
    }
    fs::create_dir_all(&folder)?;
    let started = Instant::now();
    let service = Service::start(&folder.join("service")).await?;
    eprintln!("service       {}  ({:.1} s)", service.url, started.elapsed().as_secs_f64());

    let client = Client::new(&service.url, None)?;
    let data = make_data(&client, &folder).await?;
    let (run, training_seconds) = train(&client, &folder, &data).await?;
    let job = average(&client, &run).await?;
    let report = job.report.clone().context("a job that succeeded has a report")?;
    print_report(&report, &service.url, &job);
    let written = json!({
        "seconds": started.elapsed().as_secs_f64(),
        "training_seconds": training_seconds,
        "url": service.url,
        "job_id": job.job_id,
        "report": report,
    });
    fs::write("target/demo-report.json", serde_json::to_string_pretty(&written)?)?;
    eprintln!("written       target/demo-report.json  ({:.0} s in all)", started.elapsed().as_secs_f64());
    if keep {
        eprintln!("the service stays up at {}; end it with Ctrl-C", service.url);
        return service.wait().await;
    }
    service.stop().await
}

struct Data {
    train: Arc<Dataset>,
    validation: Arc<Dataset>,
}

/// Draws three datasets and pushes them.
async fn make_data(client: &Client, folder: &Path) -> anyhow::Result<Data> {
    for (name, count, seed) in [("train", 8000, 1), ("validation", 3000, 2), ("test", 6000, 3)] {
        let path = folder.join(format!("{name}.safetensors"));
        training::save_dataset(&shapes::draw(count, seed), &path)?;
        client.push_dataset(name, &PushDataset::default(), &path, &ByteCounter::none()).await?;
        eprintln!("dataset       {name}: {count} pictures of {} classes", shapes::CLASSES);
    }
    let open = |name: &str| Dataset::open(&folder.join(format!("{name}.safetensors")), None).map(Arc::new);
    Ok(Data { train: open("train")?, validation: open("validation")? })
}

/// Trains, pushing a checkpoint each epoch; returns the run's name.
async fn train(client: &Client, folder: &Path, data: &Data) -> anyhow::Result<(String, f64)> {
    let run = client
        .create_run(&CreateRun {
            project: None,
            name: "demo".into(),
            description: Some("ResNet on drawn pictures, SGD at a constant rate".into()),
            metadata: serde_json::Map::new(),
        })
        .await?;
    let network = NetworkSpec::ResnetCifar { depth: DEPTH, classes: shapes::CLASSES }.build()?;
    let mut training = Training::new(Arc::from(network), Arc::clone(&data.train), SEED)?;
    let started = Instant::now();
    for epoch in 1..=EPOCHS {
        // The device is this machine's processor: the runtime's threads stay free for the push.
        let (loss, statistics) = tokio::task::block_in_place(|| {
            let loss = training.epoch()?;
            anyhow::Ok((loss, training.statistics()?))
        })?;
        let validation = training.evaluate(&statistics, &data.validation)?;
        let path = folder.join(format!("epoch-{epoch:03}.safetensors"));
        training.save(&statistics, &path)?;
        let beside = PushCheckpoint {
            epoch: Some(epoch as f64),
            metrics: Some(format!(
                "train_loss:{loss},val_loss:{},val_accuracy:{}",
                validation.mean_loss(),
                validation.accuracy().unwrap_or(f64::NAN)
            )),
            ..PushCheckpoint::default()
        };
        client.push_checkpoint(&run.name, training.step() as i64, &beside, &path, &ByteCounter::none()).await?;
        eprintln!(
            "epoch {epoch:>2}      train loss {loss:.4}  validation loss {:.4}  accuracy {:.2} %  pushed",
            validation.mean_loss(),
            validation.accuracy().unwrap_or(f64::NAN) * 100.0
        );
    }
    Ok((run.name, started.elapsed().as_secs_f64()))
}

/// Freezes a candidate set and runs TWA-v on it.
async fn average(client: &Client, run: &str) -> anyhow::Result<Job> {
    let rule = CandidateSetRule::Last { count: CANDIDATES, among: Among::default() };
    let set =
        client.create_candidate_set(run, &CreateCandidateSet { name: None, rule, other_runs: Vec::new() }).await?;
    let network = WireNetwork::ResnetCifar { depth: DEPTH as u64, classes: shapes::CLASSES as u64 };
    let mut spec: JobSpec = serde_json::from_value(json!({
        "candidate_set_id": set.candidate_set_id,
        "network": network,
        "data": { "fit": "validation", "train": "train", "test": "test" },
        "seed": SEED,
    }))?;
    spec.data.augmentation = Some(Augmentation { pad: AUGMENTATION.pad as u32, flip: AUGMENTATION.flip });
    let mut job = client.submit_job(&spec).await?;
    eprintln!("job           {}  {} candidates", job.job_id, set.members.len());
    while !job.state.is_terminal() {
        job = client.find_job(job.job_id, Some(5)).await?;
        if let Some(progress) = &job.progress {
            eprintln!("job           {}  {} {}/{}", job.state, progress.phase, progress.done, progress.total);
        }
    }
    anyhow::ensure!(job.state == JobState::Succeeded, "the job ended as {}: {:?}", job.state, job.error);
    Ok(job)
}

fn print_report(report: &Report, url: &str, job: &Job) {
    println!();
    println!(
        "{:<12} {:>12} {:>10} {:>12} {:>10}   95 % interval of select loss against uniform",
        "method", "select loss", "select %", "test loss", "test %"
    );
    for row in &report.evaluations {
        let [low, high] = row.select_difference_from_uniform;
        let test = row.test.as_ref();
        println!(
            "{:<12} {:>12.4} {:>10.2} {:>12.4} {:>10.2}   {low:+.4} .. {high:+.4}{}",
            row.method,
            row.select.loss,
            row.select.accuracy.unwrap_or(f64::NAN) * 100.0,
            test.map_or(f64::NAN, |t| t.loss),
            test.and_then(|t| t.accuracy).unwrap_or(f64::NAN) * 100.0,
            if row.method == report.chosen { "   <- returned" } else { "" },
        );
    }
    println!();
    println!("{}", report.verdict);
    let phases: Vec<_> = report.phases.iter().map(|p| format!("{} {:.1} s", p.phase, p.seconds)).collect();
    println!("phases: {}", phases.join(", "));
    println!("look at: {url}/docs  {url}/v1/jobs/{}", job.job_id);
}
