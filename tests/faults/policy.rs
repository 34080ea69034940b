//! A policy through the real worker: each refresh extends the projection of the one before it.

use barycenter_api::{
    Extends, JobState, ListQuery, MethodSpec, PolicyRefresh, ProjectionSource, PushCheckpoint,
    client::{ByteCounter, Unless},
};
use serde_json::json;
use sqlx::PgPool;

use crate::{cluster::Cluster, inputs};

/// Checkpoints that are there before the policy is set: [`inputs::push`] pushes them.
const BEFORE: usize = 6;
const REFRESHES: usize = 4;
const EVERY: usize = 2;

async fn ended(cluster: &Cluster, count: usize) -> Vec<PolicyRefresh> {
    let listed = async || {
        let page = cluster.client.list_refreshes("faults", &ListQuery::default()).await.ok()?;
        let ended = page.items.iter().filter(|refresh| refresh.finished_at.is_some()).count();
        (ended == count).then(|| page.items.into_iter().rev().collect())
    };
    cluster.until("the refresh ends", listed).await
}

#[sqlx::test]
async fn a_policy_extends_its_projection_at_every_refresh_moves_its_alias_and_raises_its_event(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    inputs::push(&cluster).await;
    let policy = json!({
        "every": EVERY,
        "window": {"last": 6},
        "job": {
            "network": {"kind": "mlp", "features": [64, 256, 10]},
            "method": {"kind": "twa", "epochs": 2},
            "data": {"fit": "data"},
            "baselines": "uniform",
        },
        "target": {"metric": "select_loss", "below": 1e9},
    });
    let policy = serde_json::from_value(policy).unwrap();
    cluster.client.set_policy("faults", &policy, &Unless::Never).await.unwrap();
    let _worker = cluster.worker("only");
    let mut refreshes = Vec::new();
    for refresh in 1..=REFRESHES {
        for step in BEFORE + (refresh - 1) * EVERY..BEFORE + refresh * EVERY {
            let path = cluster.folder.path().join(format!("{step}.safetensors"));
            // Of a few candidates, so that the centre does not wander off.
            inputs::checkpoint(&path, step % 5);
            let beside = PushCheckpoint::default();
            cluster.client.push_checkpoint("faults", step as i64, &beside, &path, &ByteCounter::none()).await.unwrap();
        }
        refreshes = ended(&cluster, refresh).await;
    }
    let mut before = None;
    for refresh in &refreshes {
        let job = cluster.client.find_job(refresh.job_id.unwrap(), None).await.unwrap();
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        let MethodSpec::Twa(twa) = &job.spec.method else { panic!("{job:?}") };
        let found = job.report.unwrap().projection.unwrap();
        assert_eq!(twa.extends, before.map(Extends::Job), "refresh {}", refresh.number);
        let expected = if before.is_none() { ProjectionSource::Built } else { ProjectionSource::Extended };
        assert_eq!(
            (found.source, found.revisions),
            (expected, refresh.number - 1),
            "refresh {}: {found:?}",
            refresh.number
        );
        before = Some(job.job_id);
    }
    let alias = cluster.client.find_alias("faults", "best").await.unwrap();
    assert!(refreshes.iter().any(|refresh| refresh.artifact_id == alias.artifact_id), "{alias:?}");
    let kinds: Vec<String> = sqlx::query_scalar("select kind from events where kind like 'policy.%' order by entry")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(kinds.iter().filter(|kind| *kind == "policy.refreshed").count(), REFRESHES, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "policy.target_reached").count(), 1, "{kinds:?}");
}
