//! The typed async client.
