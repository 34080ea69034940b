//! Files up and down, beside a plain copy to the same store and beside `MLflow`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use barycenter_api::client::{ByteCounter, Expected};
use barycenter_core::checkpoint::{Dtype, TensorSpec, Writer};
use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, buffered::BufWriter};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{figures::Figures, service::Service, store::Store};

/// Elements of the large file's tensors.
const TENSOR: usize = 25_000_000;
/// The best of so many counts.
const ROUNDS: u32 = 5;
/// Uploads at a time.
const PARALLEL: u32 = 16;
/// What is read and written at once.
const PIECE: usize = 1 << 20;

/// Where downloads go: into memory, or the disk of the client would be measured, and whether it is waited for.
const DOWN: &str = "/dev/shm/barycenter-load";

/// Seconds of the best round, up and down.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Best {
    up: f64,
    down: f64,
}

impl Best {
    const NONE: Self = Self { up: f64::INFINITY, down: f64::INFINITY };

    fn keep(&mut self, other: Self) {
        self.up = self.up.min(other.up);
        self.down = self.down.min(other.down);
    }
}

/// A file of so many tensors (ten are a gigabyte) up and down, one at a time, and several uploads at a time.
pub async fn measure(
    service: &Service,
    folder: &Path,
    tensors: usize,
    peer: Option<&Path>,
    figures: &mut Figures,
) -> Result<()> {
    let file = folder.join("large.safetensors");
    write_file(&file, tensors)?;
    fs::create_dir_all(DOWN)?;
    let gigabytes = fs::metadata(&file)?.len() as f64 / 1e9;
    run(service, &["run", "create", "large"])?;
    let (mut plain, mut ours, mut mlflow) = (Best::NONE, Best::NONE, Best::NONE);
    let (mut peak_up, mut peak_down) = (0_f64, 0_f64);
    for round in 0..ROUNDS {
        // Equal bytes would not be sent a second time.
        mark(&file, round)?;
        plain.keep(copy(service, &file).await?);
        service.forget_peak()?;
        let (up, expected) = push(service, &file, round).await?;
        peak_up = peak_up.max(service.peak_megabytes()?);
        service.forget_peak()?;
        let down = pull(service, &expected).await?;
        peak_down = peak_down.max(service.peak_megabytes()?);
        ours.keep(Best { up, down });
        if let Some(peer) = peer {
            mlflow.keep(of_mlflow(peer, folder, &file)?);
        }
    }
    let speed = |seconds: f64| gigabytes / seconds;
    let label = service.store.label();
    let size = if gigabytes < 0.95 { format!("{:.0} MB", 1e3 * gigabytes) } else { format!("{gigabytes:.0} GB") };
    let figure = |what: &str| format!("{label}{size} {what}");
    figures.at_least_of(&figure("up, GB/s, against a plain copy"), speed(ours.up), speed(plain.up), 0.8);
    figures.at_least_of(&figure("down, GB/s, against a plain copy"), speed(ours.down), speed(plain.down), 0.8);
    figures.at_most(&figure("up, peak memory of the server, MB"), peak_up, 100.0);
    figures.at_most(&figure("down, peak memory of the server, MB"), peak_down, 100.0);
    if peer.is_some() {
        figures.at_least_of("1 GB up, GB/s, against MLflow", speed(ours.up), speed(mlflow.up), 2.0);
        figures.at_least_of("1 GB down, GB/s, against MLflow", speed(ours.down), speed(mlflow.down), 3.0);
    }
    fs::remove_dir_all(DOWN)?;
    let peak = parallel(service, folder)?;
    figures.at_most(&format!("{label}{PARALLEL} uploads at a time, peak memory of the server, MB"), peak, 200.0);
    Ok(())
}

fn write_file(path: &Path, tensors: usize) -> Result<()> {
    let spec = |t| TensorSpec { name: format!("layer.{t}.weight"), dtype: Dtype::F32, shape: vec![TENSOR] };
    let specs: Vec<_> = (0..tensors).map(spec).collect();
    let mut writer = Writer::new(File::create(path)?, specs.clone(), &BTreeMap::new())?;
    for (t, spec) in specs.iter().enumerate() {
        let value = |e: usize| ((e * 2_654_435_761 + t) % 1_000_003) as f32 / 1e6;
        let bytes: Vec<u8> = (0..TENSOR).flat_map(|e| value(e).to_le_bytes()).collect();
        writer.write(&spec.name, &bytes)?;
    }
    writer.finish()?;
    Ok(())
}

/// Makes the file another one: its last number is this.
fn mark(path: &Path, number: u32) -> Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::End(-4))?;
    Ok(file.write_all(&(number as f32).to_le_bytes())?)
}

fn run(service: &Service, arguments: &[&str]) -> Result<()> {
    let status = service.command(arguments).status()?;
    ensure!(status.success(), "barycenter {}: {status}", arguments.join(" "));
    Ok(())
}

/// The file into the store and out of it without a server, hashed both ways, as much on the disk at the end as with one: through
/// `object_store`, in parts of 8 MiB, but for the way out of a folder, where the file is read.
async fn copy(service: &Service, file: &Path) -> Result<Best> {
    let store = service.store.objects()?;
    let key = object_store::path::Path::from("plain");
    let began = Instant::now();
    let mut from = tokio::fs::File::open(file).await?;
    let mut to = BufWriter::with_capacity(Arc::clone(&store), key.clone(), 8 * PIECE);
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE]);
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        to.write_all(&piece[..count]).await?;
    }
    to.shutdown().await?;
    let (up, digest) = (began.elapsed().as_secs_f64(), hasher.finalize());

    let began = Instant::now();
    let to = Path::new(DOWN).join("copied");
    let found = match &service.store {
        Store::Folder(folder) => copy_file(&folder.join("plain"), &to)?,
        Store::S3(_) => copy_object(&store, &key, &to).await?,
    };
    let down = began.elapsed().as_secs_f64();
    ensure!(found == digest, "the copy differs");
    store.delete(&key).await?;
    Ok(Best { up, down })
}

fn copy_file(from: &Path, to: &Path) -> Result<blake3::Hash> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE]);
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        to.write_all(&piece[..count])?;
    }
    to.sync_all()?;
    Ok(hasher.finalize())
}

async fn copy_object(store: &Arc<dyn ObjectStore>, key: &object_store::path::Path, to: &Path) -> Result<blake3::Hash> {
    let mut from = store.get(key).await?.into_stream();
    let (mut to, mut hasher) = (File::create(to)?, blake3::Hasher::new());
    while let Some(piece) = from.next().await {
        let piece = piece?;
        hasher.update(&piece);
        to.write_all(&piece)?;
    }
    to.sync_all()?;
    Ok(hasher.finalize())
}

/// What a checkpoint is found by and must be.
struct Pushed {
    path: String,
    size_bytes: u64,
    digest_blake3: String,
}

/// Pushes by the command line, as a training script does.
async fn push(service: &Service, file: &Path, step: u32) -> Result<(f64, Pushed)> {
    let step = step.to_string();
    let name = file.to_str().context("a path of text")?;
    let began = Instant::now();
    run(service, &["checkpoint", "push", name, "--run", "large", "--step", &step])?;
    let up = began.elapsed().as_secs_f64();
    let url = format!("{}/v1/runs/large/checkpoints?page_size=1", service.url);
    let page: serde_json::Value = reqwest::get(&url).await?.error_for_status()?.json().await?;
    let checkpoint = &page["items"][0];
    let text = |field: &str| checkpoint[field].as_str().map(str::to_owned).with_context(|| field.to_owned());
    let pushed = Pushed {
        path: format!("v1/checkpoints/{}/content", text("checkpoint_id")?),
        size_bytes: checkpoint["size_bytes"].as_u64().context("size_bytes")?,
        digest_blake3: text("digest_blake3")?,
    };
    Ok((up, pushed))
}

async fn pull(service: &Service, pushed: &Pushed) -> Result<f64> {
    let to = Path::new(DOWN).join("pulled");
    let expected = Expected { size_bytes: pushed.size_bytes, digest_blake3: &pushed.digest_blake3 };
    let client = service.client()?;
    let began = Instant::now();
    client.download(&pushed.path, &to, expected, &ByteCounter::none()).await?;
    let down = began.elapsed().as_secs_f64();
    fs::remove_file(to)?;
    Ok(down)
}

/// The same file to an `MLflow` server and back, by its own client.
fn of_mlflow(python: &Path, folder: &Path, file: &Path) -> Result<Best> {
    let ran = Command::new(python)
        .arg("load/mlflow_transfer.py")
        .arg(file)
        .args([&folder.join("mlflow"), Path::new(DOWN)])
        .output()?;
    ensure!(ran.status.success(), "load/mlflow_transfer.py: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(serde_json::from_slice(&ran.stdout)?)
}

/// Peak memory of the server, in megabytes, while several files of a fifth of a gigabyte come in at a time.
fn parallel(service: &Service, folder: &Path) -> Result<f64> {
    run(service, &["run", "create", "parallel"])?;
    let files: Vec<PathBuf> = (0..PARALLEL).map(|i| folder.join(format!("parallel-{i}.safetensors"))).collect();
    for (i, file) in files.iter().enumerate() {
        write_file(file, 2)?;
        mark(file, i as u32)?;
    }
    service.forget_peak()?;
    let push = |(step, file): (usize, &PathBuf)| {
        let step = step.to_string();
        let name = file.to_str().context("a path of text")?;
        Ok(service.command(&["checkpoint", "push", name, "--run", "parallel", "--step", &step]).spawn()?)
    };
    let pushes: Vec<_> = files.iter().enumerate().map(push).collect::<Result<_>>()?;
    for mut process in pushes {
        let status = process.wait()?;
        ensure!(status.success(), "a push among {PARALLEL}: {status}");
    }
    for file in files {
        fs::remove_file(file)?;
    }
    service.peak_megabytes()
}
