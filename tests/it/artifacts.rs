//! Artifacts over HTTP.

use axum::{body::Body, http::Request};
use barycenter_api::{Artifact, Job, Lineage, Manifest};
use serde_json::json;
use sqlx::PgPool;

use crate::scene::{Scene, checkpoint, coefficients};

#[sqlx::test]
async fn an_artifact_comes_back_byte_for_byte(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let job = scene.succeed(&scene.claim().await).await;
    let path = format!("/v1/artifacts/{}", job.artifact_id.unwrap());
    let artifact: Artifact = scene.app.get(&path).await.json(200);
    assert_eq!((artifact.job_id, artifact.run_id), (job.job_id, job.run_id));
    let content = scene.app.get(&format!("{path}/content")).await;
    assert_eq!(content.body, checkpoint(21.0));
    assert_eq!(content.header("etag"), format!("\"{}\"", artifact.digest_blake3));
    let range = Request::get(format!("{path}/content")).header("range", "bytes=8-15").body(Body::empty()).unwrap();
    let part = scene.app.send(range).await;
    assert_eq!((part.status.as_u16(), part.body.as_ref()), (206, &checkpoint(21.0)[8..16]));
}

#[sqlx::test]
async fn a_manifest_says_how_to_make_the_artifact_again(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let submitted = scene.submit().await;
    let job = scene.succeed(&scene.claim().await).await;
    let path = format!("/v1/artifacts/{}/manifest", job.artifact_id.unwrap());
    let manifest: Manifest = scene.app.get(&path).await.json(200);
    assert_eq!(manifest.spec, submitted.spec);
    assert_eq!(manifest.report, job.report.unwrap());
    assert_eq!(manifest.worker_version, "0.1.0");
    assert_eq!(manifest.coefficients.values.concat(), coefficients().0);
    assert_eq!(manifest.candidate_set_id, scene.set.candidate_set_id);
    assert_eq!(manifest.datasets.len(), 1);
    assert_eq!((manifest.datasets[0].named.as_str(), manifest.base), ("validation", None));
    for (candidate, member) in manifest.candidates.iter().zip(&scene.set.members) {
        assert_eq!(candidate.digest_blake3, member.digest_blake3);
    }
}

#[sqlx::test]
async fn a_lineage_leads_from_the_artifact_to_its_checkpoints(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let first = scene.submit().await;
    scene.succeed(&scene.claim().await).await;
    let mut spec = scene.spec();
    spec["method"] = json!({ "kind": "twa", "start": { "job": first.job_id } });
    let second: Job = scene.app.post("/v1/jobs", spec).await.json(202);
    let job = scene.succeed(&scene.claim().await).await;
    assert_eq!(job.job_id, second.job_id);
    let path = format!("/v1/artifacts/{}/lineage", job.artifact_id.unwrap());
    let lineage: Lineage = scene.app.get(&path).await.json(200);
    assert_eq!((lineage.job_id, lineage.start_job_id), (job.job_id, Some(first.job_id)));
    assert_eq!(json!(lineage.candidate_set), json!(scene.set));
    assert_eq!(lineage.datasets[0].named, "validation");
}

#[sqlx::test]
async fn an_artifact_that_is_not_there_is_a_problem(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let path = "/v1/artifacts/0190f3a8-0000-7000-8000-000000000001";
    for tail in ["", "/manifest", "/lineage", "/content"] {
        scene.app.get(&format!("{path}{tail}")).await.problem(404, "artifact_not_found");
    }
    scene.app.get("/v1/artifacts/resnet").await.problem(400, "invalid_id");
}

#[sqlx::test]
async fn an_uploaded_artifact_is_not_seen_before_it_is_published(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    scene.upload(&lease, checkpoint(1.0)).await;
    assert_eq!(scene.job(&job).await.artifact_id, None);
    assert_eq!(scene.app.count("artifacts").await, 0);
}
