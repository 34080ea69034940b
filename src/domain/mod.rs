//! Pure types and rules: no SQL, no HTTP, no object store, no wire types.

pub mod blob;
pub mod clock;
pub mod ids;
pub mod page;
pub mod problem_code;
