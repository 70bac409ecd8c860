//! The `schwann` binary.
fn main() {}
