//! Attacks on a real axon on a loopback port, written as bytes.
//!
//! Every case has a name, says what it tries and what must happen. After each of them the handler must have run exactly as
//! often as requests were served, and the axon must serve an honest caller. Nothing here waits for time to pass, but for
//! the cases about clients that are slow on purpose.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bodies;
mod btauth;
mod floods;
mod headers;
mod http;
mod http2;
mod nonces;
mod signatures;
mod weaknesses;
mod world;

use std::collections::HashSet;

use world::{World, resident_bytes};

/// Fewer than this, and somebody has taken some away.
const AT_LEAST: usize = 150;

/// The whole suite may grow the process by this much: what it takes to hold one large body and its JSON, and no flood.
const GROWTH: u64 = 256 << 20;

fn cases() -> Vec<world::Case> {
    [
        headers::cases(),
        signatures::cases(),
        nonces::cases(),
        bodies::cases(),
        http::cases(),
        http2::cases(),
        btauth::cases(),
        floods::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn there_are_enough_attacks_and_each_has_a_name_of_its_own() {
    let cases = cases();
    assert!(cases.len() >= AT_LEAST, "only {} cases", cases.len());
    let names: HashSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have the same name");
    assert!(cases.iter().all(|case| !case.tries.is_empty()));
}

#[test]
fn no_attack_is_served_and_none_harms_the_axon() {
    let world = World::alone();
    world.serves_an_honest_caller().unwrap();
    let before = resident_bytes();
    let mut failed = Vec::new();
    for case in cases() {
        let outcome = (case.play)(&world).and_then(|()| world.serves_an_honest_caller());
        if let Err(why) = outcome {
            failed.push(format!("{} ({}): {why}", case.name, case.tries));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH, "the process grew by {grown} bytes");
}

/// The suite above makes Alice one along its way. Here each case is played by somebody new, and by a regular.
#[test]
fn strangers_and_regulars_forge_and_replay_in_vain() {
    let regular = World::new();
    regular.regular().unwrap();
    let mut failed = Vec::new();
    for case in signatures::cases().into_iter().chain(nonces::cases()) {
        let stranger = World::beside(&regular);
        let stranger = (case.play)(&stranger).map_err(|why| format!("a stranger: {why}"));
        let outcome = stranger.and_then(|()| (case.play)(&regular));
        if let Err(why) = outcome.and_then(|()| regular.serves_an_honest_caller()) {
            failed.push(format!("{} ({}): {why}", case.name, case.tries));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}
