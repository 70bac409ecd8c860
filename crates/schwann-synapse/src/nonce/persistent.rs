//! Nonces on disk.
