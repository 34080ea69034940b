//! Starts a private Postgres from the machine's own binaries, for tests and try-outs.
