#!/usr/bin/env bash
# Makes the Python environments of the peers where they are missing, then measures. Arguments go to benches/compare/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${BENCH_PEERS:-target/bench/peers}
mergekit=${BENCH_MERGEKIT:-target/bench/mergekit}

# environment FOLDER PACKAGES...
environment() {
    [ -x "$1/bin/python" ] && return
    echo "making $1" >&2
    python3 -m venv "$1" && "$1/bin/pip" install --quiet "${@:2}"
}

mkdir -p target/bench
environment "$peers" -r benches/requirements.txt
# It pins its own versions of the peers' libraries, so it gets an environment to itself. The table shows a hole without it.
environment "$mergekit" mergekit || echo "mergekit could not be installed" >&2
if [ -x "$mergekit/bin/mergekit-pytorch" ]; then
    export MERGEKIT="$mergekit/bin/mergekit-pytorch"
fi
exec "$peers/bin/python" benches/compare/run.py "$@"
