#!/usr/bin/env bash
# Makes anew what is made from code and committed: the checked queries, the OpenAPI document, the table of problems.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-sqlx >/dev/null || cargo install --locked sqlx-cli --version '^0.9' --no-default-features --features postgres,rustls

cargo run --quiet -p private-postgres --bin with-postgres -- env SQLX_OFFLINE=false \
    sh -ec 'cargo sqlx migrate run; cargo sqlx prepare -- --all-targets'
BARYCENTER_REGENERATE=1 cargo test --lib every_code_is_documented
BARYCENTER_REGENERATE=1 cargo test --test openapi
