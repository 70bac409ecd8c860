#![no_main]

#[path = "../../crates/schwann-synapse/tests/fuzz/targets.rs"]
#[allow(dead_code, reason = "one of its targets is used here")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::body_hash(data));
