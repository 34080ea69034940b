//! The OpenAPI document as it is served; `tests/openapi.rs` keeps the committed copy equal to the code.

use sqlx::PgPool;

use crate::harness::TestApp;

#[sqlx::test]
async fn the_document_and_its_ui_are_served(pool: PgPool) {
    let app = TestApp::new(pool);
    let served: serde_json::Value = app.get("/openapi.json").await.json(200);
    assert!(served["paths"]["/v1/runs"]["post"].is_object());
    let page = app.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("swagger"), "{}", page.text());
}
