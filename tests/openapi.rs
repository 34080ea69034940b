//! `openapi/barycenter.json` is what the code says; `make regenerate` writes it.

use std::{env, fs};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/barycenter.json");

#[test]
fn the_committed_document_is_the_codes() {
    let mut text = barycenter::http::document().to_pretty_json().unwrap();
    text.push('\n');
    if env::var_os("BARYCENTER_REGENERATE").is_some() {
        fs::write(COMMITTED, &text).unwrap();
    }
    assert!(fs::read_to_string(COMMITTED).unwrap() == text, "openapi/barycenter.json is old; run `make regenerate`");
}

#[test]
fn every_operation_has_an_id_of_its_own() {
    let document = serde_json::to_value(barycenter::http::document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.values().flat_map(|path| path.as_object().unwrap().values());
    let ids: Vec<_> = operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
}
