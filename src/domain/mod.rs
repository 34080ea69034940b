//! Pure types and rules: no SQL, no HTTP, no object store, no wire types.

pub mod blob;
pub mod candidate_set;
pub mod checkpoint;
pub mod clock;
pub mod dataset;
pub mod ids;
pub mod layout;
pub mod name;
pub mod page;
pub mod problem_code;
pub mod run;
