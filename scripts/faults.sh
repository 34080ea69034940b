#!/usr/bin/env bash
# Every test of faults in its long form, one after the other, then a table of what was done. JOBS, MINUTES and SEED set the random one.
set -euo pipefail
cd "$(dirname "$0")/.."
table=$PWD/target/faults.tsv

mkdir -p target
printf 'what\tjobs\tpushes\tdisturbances\tattempts\tseconds\n' >"$table"
export FAULTS_LONG=1 FAULTS_TABLE=$table
[ -z "${JOBS:-}" ] || export FAULTS_JOBS=$JOBS
[ -z "${MINUTES:-}" ] || export FAULTS_MINUTES=$MINUTES
[ -z "${SEED:-}" ] || export FAULTS_SEED=$SEED
outcome=0
cargo run --quiet -p private-postgres --bin with-postgres -- \
    cargo test --test faults -- --include-ignored --test-threads="${THREADS:-2}" --nocapture || outcome=$?
# Aligned without `column`, which small machines lack.
awk -F '\t' '{ printf "%-50s %6s %7s %13s %9s %8s\n", $1, $2, $3, $4, $5, $6 }' "$table"
exit "$outcome"
