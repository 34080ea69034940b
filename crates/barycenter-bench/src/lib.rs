//! What the benchmark programs share. Each prints lines of JSON; `benches/compare/run.py` runs them beside their peers.

pub mod checkpoints;
pub mod evidence;
pub mod process;
pub mod training;
