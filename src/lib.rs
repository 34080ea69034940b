//! The Barycenter server.
