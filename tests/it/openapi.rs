//! The committed OpenAPI document.

use sqlx::PgPool;

use crate::harness::TestApp;

#[test]
fn the_committed_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let current = barycenter::http::document().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("BARYCENTER_REGENERATE").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == current, "run `make regenerate`");
}

#[sqlx::test]
async fn the_document_and_its_ui_are_served(pool: PgPool) {
    let app = TestApp::new(pool);
    let served: serde_json::Value = app.get("/openapi.json").await.json(200);
    assert!(served["paths"]["/v1/runs"]["post"].is_object());
    let page = app.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("swagger"), "{}", page.text());
}
