//! The Barycenter server.
//!
//! Layers, each of which may use only those to its left:
//!
//! ```text
//! domain  <-  db, storage  <-  app  <-  http  <-  main
//! ```
//!
//! * [`domain`] holds pure types and rules: no SQL, no HTTP, no object store, no wire types.
//! * [`db`] holds all SQL, as plain functions over `&mut PgConnection`; it never begins a transaction.
//! * [`storage`] holds all access to object storage; every object key is made in `storage::keys`.
//! * [`app`] holds the use cases: it opens the transaction, makes ids and times, and decides.
//! * [`http`] extracts, calls one function of `app` and converts; it never touches SQL or object storage.
//!
//! `tests/layers.rs` reads the imports and fails on a forbidden one.

pub mod app;
pub mod config;
pub mod db;
pub mod dev;
pub mod domain;
pub mod http;
pub mod job_tags;
pub mod outbound;
pub mod server;
pub mod state;
pub mod storage;
pub mod telemetry;
