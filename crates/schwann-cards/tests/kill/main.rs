//! The server is killed at any moment, its disk is full or fails: nothing
//! that was shown is lost, and every run has one end.
//!
//! This program is its own server: with `--serve` it writes runs and says on
//! stdout what their readers were shown; without, it starts and kills that.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test with a `main` of its own, which starts itself"
)]

mod application;
mod disk;
mod disk_over_http;
mod killed;
mod many;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod servers;
mod writer;

use std::{panic, process::ExitCode, time::Instant};

use schwann_process::Span;

/// What is held to here, by the name under which it can be chosen.
const TESTS: &[(&str, fn())] = &[
    ("killed_at_200_random_points_nothing_shown_is_lost", killed::at_random_points),
    ("killed_with_programs_running_none_lives_on_or_runs_again", application::killed),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("a_killed_server_s_runs_end_once_and_its_own_word_counts_when_it_is_back", servers::killed),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("a_server_that_stood_still_for_too_long_ends_what_was_ended_in_its_place", servers::stopped),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("a_server_that_stands_still_within_its_lease_loses_nothing", servers::within_its_lease),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("readers_get_the_end_that_a_killed_server_had_noted_and_not_shown", servers::noted),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("an_end_that_a_killed_server_had_on_its_disk_only_counts_when_it_is_back", servers::unnoted),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("an_end_that_a_killed_server_had_shown_only_is_noted_as_it_was", servers::shown_only),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    (
        "where_redis_and_a_server_are_lost_nothing_looks_whole_until_the_server_is_back",
        servers::emptied,
    ),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("who_sees_the_end_of_a_run_can_run_its_card_again_through_another_server", servers::again),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("servers_that_live_keep_their_runs_however_quiet", servers::living),
    ("two_hundred_runs_stream_at_once", many::at_once),
    ("a_thousand_readers_that_stand_still_cost_little_and_harm_nobody", many::readers),
    #[cfg(all(feature = "postgres", feature = "redis"))]
    ("a_thousand_readers_elsewhere_that_stand_still_cost_as_little", many::readers_elsewhere),
    ("a_full_disk_refuses_new_runs_and_recovers_without_a_restart", disk::full),
    ("a_failing_write_ends_streams_visibly_and_recovers_without_a_restart", disk::failing),
    ("what_the_disk_does_not_keep_is_neither_accepted_nor_ended", disk::unkept),
    ("over_http_a_full_disk_is_507_and_harms_nothing", disk_over_http::full),
    ("over_http_a_failing_disk_is_503_and_harms_nothing", disk_over_http::failing),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--serve") => return writer::serve(arguments[1].as_ref()),
        Some("--application") => {
            return application::serve(
                arguments[1].as_ref(),
                &arguments[2],
                arguments[3].parse().unwrap(),
                arguments.get(4).map(|database| {
                    let lease = Span::from_secs(arguments[6].parse().unwrap());
                    (&**database, &*arguments[5], lease)
                }),
            );
        }
        Some("--unkept") => return disk::keep_nothing(arguments[1].as_ref(), &arguments[2]),
        Some("--fill") => return disk::fill(arguments[1].as_ref()),
        _ => {}
    }
    let wanted: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let list = arguments.iter().any(|word| word == "--list");
    let mut failed = 0;
    for (name, test) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        if list {
            println!("{name}: test");
            continue;
        }
        let began = Instant::now();
        let passed = panic::catch_unwind(test).is_ok();
        failed += usize::from(!passed);
        let word = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1} s)", began.elapsed().as_secs_f64());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A small generator, so that a failure can be repeated by its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}
