//! Pure types and rules: no SQL, no HTTP, no object store, no wire types.

pub mod alias;
pub mod artifact;
pub mod blob;
pub mod candidate_set;
pub mod checkpoint;
pub mod checkpoint_files;
pub mod checkpoint_list;
pub mod clock;
pub mod collection;
pub mod dataset;
pub mod history;
pub mod ids;
pub mod job;
pub mod layout;
pub mod lease;
pub mod metadata;
pub mod name;
pub mod page;
pub mod precondition;
pub mod problem_code;
pub mod retention;
pub mod run;
pub mod selection;
pub mod set_diff;
pub mod upload;
