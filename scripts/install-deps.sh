#!/usr/bin/env bash
# Installs what the build and the tests need and the machine lacks, on Debian and its relatives: a C compiler, Postgres,
# Rust; with the argument `bench` also Python, in which the peers of the benchmarks run, with `faults` also the library that moves a
# process's clock. Says and does nothing where all is
# there. Elsewhere it names what is missing.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1; }

has_postgres() {
    has initdb && has postgres && return
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

packages=()
has cc || packages+=(build-essential)
has_postgres && has psql || packages+=(postgresql)
has cargo || { has curl || packages+=(curl ca-certificates); }
if [ "${1:-}" = bench ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
fi
if [ "${1:-}" = faults ]; then
    has faketime || packages+=(faketime)
    has unshare || packages+=(util-linux)
fi

if [ ${#packages[@]} -gt 0 ]; then
    if ! has apt-get; then
        echo "missing on this machine, and there is no apt-get to install it: ${packages[*]}" >&2
        exit 1
    fi
    echo "installing ${packages[*]}" >&2
    sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
fi

if ! has cargo && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    echo "installing Rust" >&2
    # The toolchain itself is chosen by rust-toolchain.toml at the first use.
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain none
fi
