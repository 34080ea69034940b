//! Pure types and rules: no SQL, no HTTP, no object store, no wire types.

pub mod artifact;
pub mod blob;
pub mod clock;
pub mod history;
pub mod ids;
pub mod job;
pub mod lease;
pub mod page;
pub mod problem_code;
