//! Random histories of pushes, sets, jobs, drops, deletions, undeletions, retention and collections never lose a byte that
//! something needs, and end with exactly the bytes that something needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use barycenter::{app::gc, domain::collection::Collected, storage::ObjectKey};
use barycenter_api::{Artifact, CandidateSet, Checkpoint, CheckpointFile, Job, Lease};
use proptest::{
    collection::vec,
    prelude::any,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    checkpoint_files::{create_body, staged_path},
    harness::{TestApp, TestResponse, files::digest},
    projections,
    scene::{self, Scene, finish_body, snapshots},
};

const HISTORIES: usize = 10;
const OPERATIONS: usize = 60;
const RUNS: [&str; 2] = ["one", "two"];

/// A server and every id that a history has made, whatever became of it.
struct World {
    scene: Scene,
    ids: BTreeMap<&'static str, Vec<Uuid>>,
    /// What each artifact is made of.
    models: BTreeMap<Uuid, Vec<u8>>,
    drops: usize,
    /// What the projections that were shared are called.
    keys: Vec<String>,
}

/// One byte of chance for the kind of operation, two for what it is done to.
type Operation = [u8; 3];

impl World {
    fn app(&self) -> &TestApp {
        &self.scene.app
    }

    fn note(&mut self, things: &'static str, id: Uuid) {
        self.ids.entry(things).or_default().push(id);
    }

    /// One of the latest: most of the older ones are gone.
    fn any(&self, things: &str, chance: u8) -> Option<Uuid> {
        let ids = self.ids.get(things)?;
        let latest = &ids[ids.len().saturating_sub(12)..];
        latest.get(usize::from(chance) % latest.len()).copied()
    }

    async fn act(&mut self, [kind, a, b]: Operation) {
        let run = RUNS[usize::from(a) % RUNS.len()];
        match kind % 23 {
            0..=2 => self.push(run, a, b).await,
            3 | 18 => self.push_files(run, a, b).await,
            19 => self.stage(run, b).await,
            4 => self.freeze(run, b).await,
            5 | 6 => self.job(a, b).await,
            7 | 8 => self.delete(a, b).await,
            9 => self.undelete(a, b).await,
            10 => self.alias(run, a, b).await,
            11 => self.pin(a, b).await,
            12 => self.rules(run, b).await,
            13 => self.app().clock.advance(Duration::from_secs(u64::from(b) * 30)),
            14 => self.whole_run(run, b).await,
            15 | 20 | 21 => self.drop_bytes(a).await,
            16 => self.restore(a).await,
            22 => self.unshare(a, b).await,
            _ => self.collect().await,
        }
    }

    async fn push(&mut self, run: &str, a: u8, b: u8) {
        // Few steps and few contents, so that steps are taken, freed and taken again and bytes are shared.
        let path = format!("/v1/runs/{run}/checkpoints/{}?metrics=loss:{}", a / 2 % 12, b % 5);
        let pushed = self.app().put(&path, scene::checkpoint(f32::from(b % 6))).await;
        if pushed.status == 201 {
            let id = pushed.json::<Checkpoint>(201).checkpoint_id;
            self.note("checkpoints", id);
        } else {
            refused(&pushed);
        }
    }

    /// A checkpoint of two files with weights, their index and a configuration that many share; not all of them always come.
    async fn push_files(&mut self, run: &str, a: u8, b: u8) {
        let files = sharded(b % 6, b % 2);
        for (name, bytes) in files.iter().take(if b.is_multiple_of(7) { 2 } else { 4 }) {
            refused(&self.app().put(&staged_path(run, name, bytes), bytes.clone()).await);
        }
        let body = create_body((a / 2 % 12).into(), &files);
        let made = self.app().post(&format!("/v1/runs/{run}/checkpoints"), body).await;
        if made.status == 201 {
            let id = made.json::<Checkpoint>(201).checkpoint_id;
            self.note("checkpoints", id);
            self.note("checkpoints of files", id);
        } else {
            refused(&made);
        }
    }

    /// A file that comes for a checkpoint which nobody creates, or not yet.
    async fn stage(&self, run: &str, b: u8) {
        let files = sharded(b % 6, b % 3);
        let (name, bytes) = &files[usize::from(b) % files.len()];
        refused(&self.app().put(&staged_path(run, name, bytes), bytes.clone()).await);
    }

    async fn freeze(&mut self, run: &str, b: u8) {
        let other = RUNS[usize::from(b) % RUNS.len()];
        let others = if other == run { json!([]) } else { json!([other]) };
        let body = json!({ "name": "s", "rule": { "kind": "last", "count": 3 }, "other_runs": others });
        let frozen = self.app().post(&format!("/v1/runs/{run}/candidate_sets"), body).await;
        if frozen.status == 201 {
            let id = frozen.json::<CandidateSet>(201).candidate_set_id;
            self.note("candidate_sets", id);
        } else {
            refused(&frozen);
        }
    }

    /// A job that ends: with an artifact, or cancelled.
    async fn job(&mut self, a: u8, b: u8) {
        let Some(set) = self.any("candidate_sets", a) else { return };
        let mut spec = self.scene.spec();
        spec["candidate_set_id"] = json!(set);
        let submitted = self.app().post("/v1/jobs", spec).await;
        if submitted.status != 202 {
            return refused(&submitted);
        }
        let job: Job = submitted.json(202);
        self.note("jobs", job.job_id);
        if b.is_multiple_of(4) {
            self.scene.cancel(&job).await;
            return;
        }
        let lease = self.scene.claim().await;
        self.share(&lease, b).await;
        self.scene.heartbeat(&lease, snapshots(0..u64::from(b % 3))).await.json::<Value>(200);
        let model = scene::checkpoint(f32::from(b % 9));
        let stored = self.scene.upload(&lease, model.clone()).await;
        let mut finish = finish_body(&stored.digest_blake3);
        let kept = if b.is_multiple_of(3) { json!([]) } else { json!(["0.bias"]) };
        finish["merge"] =
            json!({ "rules": "merge_1", "averaged": [{ "tensor": "0.weight", "block": 0 }], "kept": kept });
        let finished: Job = self.scene.finish(&lease, finish).await.json(200);
        let id = finished.artifact_id.unwrap();
        self.models.insert(id, model);
        self.note("artifacts", id);
    }

    /// Few contents under many keys, so that projections share bytes with each other.
    async fn share(&mut self, lease: &Lease, b: u8) {
        let key = &lease.projection.as_ref().unwrap().projection_key;
        let bytes = projections::file(&"x".repeat(usize::from(b % 4)));
        if !b.is_multiple_of(5) {
            refused(&self.app().put(&projections::pushed_to(lease, key), bytes).await);
            self.keys.push(key.clone());
        }
    }

    /// A projection goes at any time, by itself or by eviction; nothing refers to it.
    async fn unshare(&self, a: u8, b: u8) {
        match self.keys.get(usize::from(a) % self.keys.len().max(1)) {
            Some(key) if !b.is_multiple_of(3) => refused(&self.app().delete(&format!("/v1/projections/{key}")).await),
            _ => _ = barycenter::app::projections::evict(&self.app().state).await.unwrap(),
        }
    }

    /// An artifact without its bytes still has what was kept of them, and its candidates.
    async fn drop_bytes(&mut self, a: u8) {
        let Some(id) = self.any("artifacts", a) else { return };
        let dropped = self.app().post(&format!("/v1/artifacts/{id}/drop"), json!({})).await;
        self.drops += usize::from(dropped.status == 200);
        refused(&dropped);
    }

    async fn restore(&self, a: u8) {
        let Some(id) = self.any("artifacts", a) else { return };
        let model = self.models[&id].clone();
        refused(&self.app().put(&format!("/v1/artifacts/{id}/content"), model).await);
    }

    async fn delete(&self, a: u8, b: u8) {
        let things = ["checkpoints", "candidate_sets", "jobs", "artifacts"][usize::from(a) % 4];
        if let Some(id) = self.any(things, b) {
            refused(&self.app().delete(&format!("/v1/{things}/{id}")).await);
        }
    }

    async fn undelete(&self, a: u8, b: u8) {
        let things = ["checkpoints", "candidate_sets", "jobs", "artifacts"][usize::from(a) % 4];
        if let Some(id) = self.any(things, b) {
            refused(&self.app().post(&format!("/v1/{things}/{id}/undelete"), json!({})).await);
        }
    }

    async fn alias(&self, run: &str, a: u8, b: u8) {
        let path = format!("/v1/runs/{run}/aliases/best");
        let target = match (b % 3, self.any("artifacts", a)) {
            (0, _) => return refused(&self.app().delete(&path).await),
            (1, Some(id)) => json!({ "artifact_id": id }),
            _ => json!({ "checkpoint": (a / 2 % 12).to_string() }),
        };
        refused(&self.app().put_json(&path, target).await);
    }

    async fn pin(&self, a: u8, b: u8) {
        let Some(id) = self.any("checkpoints", a) else { return };
        let path = format!("/v1/checkpoints/{id}/pin");
        let pinned = if b.is_multiple_of(2) { self.app().put(&path, "").await } else { self.app().delete(&path).await };
        refused(&pinned);
    }

    async fn rules(&self, run: &str, b: u8) {
        let path = format!("/v1/runs/{run}/retention");
        let rules = json!({ "last": 1 + b % 4, "best": [{ "count": 1, "metric": "loss", "direction": "min" }] });
        let set =
            if b.is_multiple_of(3) { self.app().delete(&path).await } else { self.app().put_json(&path, rules).await };
        refused(&set);
    }

    /// Deletes a run, brings it back, or opens another of its name.
    async fn whole_run(&mut self, run: &'static str, b: u8) {
        match b % 4 {
            0 => refused(&self.app().delete(&format!("/v1/runs/{run}")).await),
            1 => {
                if let Some(id) = self.any("runs", b / 4) {
                    refused(&self.app().post(&format!("/v1/runs/{id}/undelete"), json!({})).await);
                }
            }
            _ => self.open(run).await,
        }
    }

    async fn open(&mut self, run: &'static str) {
        let opened = self.app().post("/v1/runs", json!({ "name": run })).await;
        if opened.status == 201 {
            let id: Value = opened.json(201);
            self.note("runs", id["run_id"].as_str().unwrap().parse().unwrap());
        } else {
            refused(&opened);
        }
    }

    /// A collection frees what it says and leaves what is needed.
    async fn collect(&self) {
        let before = self.bytes_in_store().await;
        let collected: Collected = gc::collect(&self.app().state).await.unwrap();
        assert_eq!(before - self.bytes_in_store().await, collected.bytes, "bytes freed and bytes said to be freed");
        self.check().await;
    }

    async fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let store = &self.app().state.store;
        let mut objects = BTreeMap::new();
        for key in store.list_keys().await.unwrap() {
            let bytes = store.get_bytes(&ObjectKey::from_stored(&key)).await.unwrap().to_vec();
            objects.insert(key, bytes);
        }
        objects
    }

    async fn bytes_in_store(&self) -> u64 {
        self.objects().await.values().map(|bytes| bytes.len() as u64).sum()
    }

    async fn texts(&self, statement: &'static str) -> BTreeSet<String> {
        let texts: Vec<String> = sqlx::query_scalar(statement).fetch_all(&self.app().state.pool).await.unwrap();
        texts.into_iter().collect()
    }

    /// The store holds the bytes of every row, deleted or not, and no others; nothing that is there needs what is not.
    async fn check(&self) {
        let held: BTreeSet<String> = self.objects().await.values().map(|bytes| digest(bytes)).collect();
        let owners = "select digest_blake3 from checkpoints union select digest_blake3 from checkpoint_files
            union select digest_blake3 from staged_files
            union select blob_blake3 from artifacts where dropped_at is null
            union select kept_blake3 from artifacts where kept_blake3 is not null
            union select digest_blake3 from history_chunks union select digest_blake3 from datasets
            union select digest_blake3 from projections";
        assert_eq!(held, self.texts(owners).await, "bytes in the store and bytes that rows refer to");
        self.app().assert_no_orphans().await;
        let dangling = "select 'member of set ' || s.candidate_set_id from candidate_sets s
                join candidate_set_members using (candidate_set_id) join checkpoints c using (checkpoint_id)
                where s.deleted_at is null and c.deleted_at is not null
            union select 'set of job ' || job_id from jobs join candidate_sets s using (candidate_set_id)
                where jobs.deleted_at is null and s.deleted_at is not null
            union select 'job of artifact ' || artifact_id from artifacts a join jobs using (job_id)
                where a.deleted_at is null and jobs.deleted_at is not null
            union select 'checkpoint of alias ' || alias from run_aliases join checkpoints c using (checkpoint_id)
                join runs on runs.run_id = run_aliases.run_id
                where runs.deleted_at is null and c.deleted_at is not null
            union select 'run of checkpoint ' || checkpoint_id from checkpoints c join runs using (run_id)
                where c.deleted_at is null and runs.deleted_at is not null
            union select 'candidate of dropped artifact ' || artifact_id from artifacts a join jobs using (job_id)
                join candidate_set_members m using (candidate_set_id) left join checkpoints c using (checkpoint_id)
                left join blobs b on b.digest_blake3 = c.digest_blake3
                where a.dropped_at is not null and b.object_key is null
            union select 'count of run ' || run_id from runs
                where checkpoint_count <> (select count(*) from checkpoints c
                    where c.run_id = runs.run_id and c.deleted_at is null)
            union select 'metrics of checkpoint ' || checkpoint_id from checkpoints c
                where (select count(*) from jsonb_object_keys(metrics)) <>
                    (select count(*) from checkpoint_metrics m where m.checkpoint_id = c.checkpoint_id)";
        assert_eq!(self.texts(dangling).await, BTreeSet::new(), "what is there needs what is not");
        self.check_artifacts().await;
    }

    /// Whatever an artifact has is there to be read, what it has of its last candidate too.
    async fn check_artifacts(&self) {
        for id in self.ids.get("artifacts").into_iter().flatten() {
            let path = format!("/v1/artifacts/{id}/files");
            let listed = self.app().get(&path).await;
            if listed.status == 404 {
                continue;
            }
            let artifact: Artifact = self.app().get(&format!("/v1/artifacts/{id}")).await.json(200);
            for file in listed.json::<Vec<CheckpointFile>>(200) {
                let read = self.app().get(&format!("{path}/{}", file.name)).await;
                if artifact.dropped_at.is_some() && file.digest_blake3 == artifact.digest_blake3 {
                    assert_eq!(read.status, 410, "the bytes of the artifact {id} are dropped");
                    continue;
                }
                assert_eq!(digest(&read.body), file.digest_blake3, "{} of the artifact {id}", file.name);
            }
        }
    }

    /// After the grace nothing that was deleted is left.
    async fn end(&self) {
        for run in RUNS {
            self.app().delete(&format!("/v1/runs/{run}/retention")).await;
        }
        self.app().clock.advance(Duration::from_hours(73));
        let said = gc::preview(&self.app().state).await.unwrap();
        let before = self.bytes_in_store().await;
        let done = gc::collect(&self.app().state).await.unwrap();
        assert_eq!((said, before - self.bytes_in_store().await), (done, done.bytes));
        self.check().await;
        for table in ["runs", "checkpoints", "candidate_sets", "jobs", "artifacts"] {
            let statement = sqlx::AssertSqlSafe(format!("select count(*) from {table} where deleted_at is not null"));
            let left: i64 = sqlx::query_scalar(statement).fetch_one(&self.app().state.pool).await.unwrap();
            assert_eq!(left, 0, "deleted rows of {table} left");
        }
    }
}

/// The tensors of [`scene::checkpoint`] in two files, with an index and a configuration.
fn sharded(seed: u8, configuration: u8) -> Vec<(String, Vec<u8>)> {
    crate::checkpoint_files::sharded(f32::from(seed), &format!("{{\"a\":{configuration}}}"))
}

/// A request may be refused; the server may not fail.
fn refused(response: &TestResponse) {
    assert!(response.status.as_u16() < 500, "{}", response.text());
}

#[sqlx::test]
async fn no_history_loses_a_byte_that_is_needed_or_keeps_one_that_is_not(pool: PgPool) {
    let mut runner = TestRunner::deterministic();
    let histories = vec(vec(any::<Operation>(), OPERATIONS), HISTORIES).new_tree(&mut runner).unwrap().current();
    let mut world = World {
        scene: Scene::new(pool).await,
        ids: BTreeMap::new(),
        models: BTreeMap::new(),
        drops: 0,
        keys: Vec::new(),
    };
    for history in histories {
        for run in RUNS {
            world.open(run).await;
        }
        for operation in history {
            world.act(operation).await;
        }
        world.check().await;
        world.end().await;
    }
    let made = |things: &str| world.ids.get(things).map_or(0, Vec::len);
    assert!(
        ["checkpoints", "checkpoints of files", "candidate_sets", "jobs", "artifacts"]
            .iter()
            .all(|things| made(things) > 5),
        "{:?}",
        world.ids
    );
    assert!(world.drops > 5, "{} drops", world.drops);
    assert!(world.keys.len() > 5, "{} projections", world.keys.len());
}
