//! The barycenter binary.
fn main() {}
