#!/usr/bin/env bash
# Makes the Python environment of the peer where it is missing, then measures the release binary on a private Postgres.
# Arguments go to the program (crates/barycenter-load).
set -euo pipefail
cd "$(dirname "$0")/.."
peer=${LOAD_PEER:-target/load/peer}

if [ ! -x "$peer/bin/mlflow" ]; then
    echo "making $peer" >&2
    mkdir -p "$(dirname "$peer")"
    python3 -m venv "$peer" && "$peer/bin/pip" install --quiet -r load/requirements.txt ||
        echo "mlflow could not be installed: its figures are left out" >&2
fi
options=()
[ -x "$peer/bin/mlflow" ] && options=(--peer "$peer/bin/python")
# Two sockets for each of a thousand clients.
ulimit -n 8192
exec cargo run --quiet -p private-postgres --bin with-postgres -- target/release/load "${options[@]}" "$@"
