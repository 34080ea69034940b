#!/usr/bin/env bash
# Fuzzes every reader in turn: MINUTES each (default 10), TARGETS by name (default all). Stops at the first finding, whose input
# lies in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

fixtures=../crates/barycenter-core/tests/fixtures
seconds=$((${MINUTES:-10} * 60))
targets=${TARGETS:-$(cargo fuzz list)}
cargo fuzz build
for target in $targets; do
    seeds=(seeds/"$target")
    if [ "$target" = pytorch ]; then
        seeds=("$fixtures/pytorch" "$fixtures/hostile")
    fi
    mkdir -p "corpus/$target"
    echo "== $target, $seconds s"
    cargo fuzz run "$target" "corpus/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0
done
