//! Replays, and nonces of other times.

use std::{
    net::SocketAddr,
    sync::{Arc, Barrier},
    thread,
};

use schwann::Server;
use schwann_synapse::{
    caller::Verify,
    nonce::{Durability, PersistentNonceStore, now_ns},
};

use crate::world::{
    BtAuth, CLOCK, Case, MALFORMED, Must, NONCE, Running, TIMEOUT, UNVERIFIED, UUID, V10, VERSION,
    World, case, case_of_old, check, play, send,
};

const SECOND: i128 = 1_000_000_000;

/// A request signed with a nonce this far from now.
fn at(name: &str, tries: &str, must: Must, from_now: i128) -> Case {
    case_of_old(name, tries, must, move |world| {
        V10::new(&world.lasting, "Echo").nonce(i128::from(now_ns()) + from_now).request()
    })
}

/// A request from before the axon's start, with other unsigned headers (W3).
fn widened(name: &str, header: &'static str, value: &'static str, must: Must) -> Case {
    let tries = "an old signature with unsigned headers that stop the reference's clock (W3)";
    case_of_old(name, tries, must, move |world| {
        let old = i128::from(now_ns()) - 3600 * SECOND;
        let request = V10::new(&world.lasting, "Echo").nonce(old).request();
        if value.is_empty() { request.without(header) } else { request.set(header, value) }
    })
}

/// A nonce in a spelling that Python's `int()` reads as the same number: served, and used up by it.
fn spelled(name: &str, spell: fn(&str) -> String) -> Case {
    play(name, "a number in another spelling is the same number", move |world| {
        let good = world.good();
        let value = spell(&good.value(NONCE));
        world.expect(Must::Serve, &good.clone().set(NONCE, value))?;
        world.expect(UNVERIFIED, &good)
    })
}

fn replayed(
    name: &str,
    tries: &str,
    must: Must,
    again: impl Fn(crate::world::Request) -> crate::world::Request + 'static,
) -> Case {
    play(name, tries, move |world| {
        let good = world.good();
        world.expect(Must::Serve, &good)?;
        world.expect(must, &again(good))
    })
}

/// Sends the same bytes from 64 threads at once; returns how many were served.
pub(crate) fn stampede(at: SocketAddr, bytes: &[u8]) -> usize {
    let bytes: Arc<[u8]> = bytes.into();
    let start = Arc::new(Barrier::new(64));
    let threads: Vec<_> = (0..64)
        .map(|_| {
            let (bytes, start) = (Arc::clone(&bytes), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                send(at, &bytes).status
            })
        })
        .collect();
    let statuses: Vec<u16> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 401)), "{statuses:?}");
    served
}

fn once(world: &World, axon: &Running, bytes: &[u8]) -> Result<(), String> {
    let before = world.seen.runs();
    let served = stampede(axon.at, bytes);
    let ran = world.seen.runs() - before;
    check(served == 1 && ran == 1, format!("{served} served, {ran} ran"))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        replayed("replay: same bytes", "the very same request", UNVERIFIED, |good| good),
        replayed("replay: other route", "the route is not signed (W6)", UNVERIFIED, |good| {
            good.target("/Other").set("name", "Other")
        }),
        replayed("replay: other method", "the method is not signed (W6)", UNVERIFIED, |good| {
            good.method("GET")
        }),
        replayed("replay: other timeout", "the timeout is not signed (W3)", UNVERIFIED, |good| {
            good.set(TIMEOUT, "60.0")
        }),
        replayed("replay: no version", "the version is not signed (W3)", UNVERIFIED, |good| {
            good.without(VERSION)
        }),
        replayed("replay: other uuid", "another slot of the reference's map", UNVERIFIED, |good| {
            good.set(UUID, "another")
        }),
        replayed("replay: other body", "another text under the signed hash", UNVERIFIED, |good| {
            good.body(r#"{"text": "evil"}"#)
        }),
        replayed("replay: other axon header", "headers that nobody signed", UNVERIFIED, |good| {
            good.set("bt_header_axon_hotkey", "x").set("bt_header_dendrite_ip", "9.9.9.9")
        }),
        play(
            "replay: after the body was refused",
            "a used nonce under a body that failed",
            |world| {
                let good = world.good();
                world.expect(MALFORMED, &good.clone().body(r#"{"text": "evil"}"#))?;
                world.expect(UNVERIFIED, &good)
            },
        ),
        play(
            "replay: after it failed to verify",
            "a wrong signature must not use up a nonce",
            |world| {
                let good = world.good();
                let wrong = V10::new(&world.axon, "Echo").nonce(good.value(NONCE)).signed("wrong");
                world.expect(UNVERIFIED, &wrong)?;
                world.expect(Must::Serve, &good)
            },
        ),
        play(
            "replay: without and with a uuid None",
            "a uuid left out is signed as None",
            |world| {
                let mut v10 = V10::new(&world.axon, "Echo");
                v10.uuid = "None".to_owned();
                let named = v10.request();
                world.expect(Must::Serve, &named.clone().without(UUID))?;
                world.expect(UNVERIFIED, &named)
            },
        ),
        play("replay: a hundred times", "patience", |world| {
            let good = world.good();
            world.expect(Must::Serve, &good)?;
            (0..100).try_for_each(|_| world.expect(UNVERIFIED, &good))
        }),
        play("nonces out of order", "concurrent calls overtake each other (W12)", |world| {
            let requests: Vec<_> = (0..5).map(|_| world.good()).collect();
            for at in [3, 0, 4, 1, 2] {
                world.expect(Must::Serve, &requests[at])?;
            }
            requests.iter().try_for_each(|request| world.expect(UNVERIFIED, request))
        }),
        play(
            "replay: after a restart without memory",
            "nonces were only in memory (W4)",
            |world| {
                let routes = || World::routes(&world.seen);
                let first = world.serve(routes(), Server::default());
                let request = V10::new(&first, "Echo").request();
                world.expect_at(&first, Must::Serve, &request)?;
                drop(first);
                let second = world.serve(routes(), Server::default());
                world.expect_at(&second, UNVERIFIED, &request)?;
                let fresh = V10::new(&second, "Echo").request();
                world.expect_at(&second, Must::Serve, &fresh).map(drop)
            },
        ),
        play(
            "unused nonce after a restart without memory",
            "captured and held back (W4)",
            |world| {
                let request = V10::new(&world.axon, "Echo").request();
                let second = world.serve(World::routes(&world.seen), Server::default());
                world.expect_at(&second, UNVERIFIED, &request).map(drop)
            },
        ),
        play("replay: after a restart with a log", "a log that forgets (W4)", |world| {
            let folder = tempfile::tempdir().unwrap();
            let routes = || {
                let store = PersistentNonceStore::open(folder.path(), Durability::Process).unwrap();
                World::routes(&world.seen).nonce_store(store)
            };
            let first = world.serve(routes(), Server::default());
            let request = V10::new(&first, "Echo").request();
            let unused = V10::new(&first, "Echo").request();
            let signed = BtAuth::new(&first, "Echo").request();
            world.expect_at(&first, Must::Serve, &request)?;
            world.expect_at(&first, Must::Serve, &signed)?;
            first.stop(world);
            let second = world.serve(routes(), Server::default());
            world.expect_at(&second, UNVERIFIED, &request)?;
            world.expect_at(&second, UNVERIFIED, &signed)?;
            // What was not used before is good: the log has no floor.
            world.expect_at(&second, Must::Serve, &unused).map(drop)
        }),
        play(
            "replay: from a reference route on a hardened one",
            "two memories beside each other (W6)",
            |world| {
                let mixed = world.serve(
                    World::builder()
                        .attach(world.seen.route("Echo", &["text"]))
                        .attach(world.seen.route("Old", &["text"]).verify(Verify::LikeReference)),
                    Server::default(),
                );
                let request = V10::new(&mixed, "Old").request();
                world.expect_at(&mixed, Must::Serve, &request)?;
                world.expect_at(&mixed, UNVERIFIED, &request.clone().target("/Echo"))?;
                let request = V10::new(&mixed, "Echo").request();
                world.expect_at(&mixed, Must::Serve, &request)?;
                world.expect_at(&mixed, Must::Refuse(&[401]), &request.clone().target("/Old"))?;
                // Nor may it be used now here and, when its time has come, there.
                let ahead = i128::from(now_ns()) + 30 * SECOND;
                let ahead = V10::new(&mixed, "Old").nonce(ahead).request();
                world.expect_at(&mixed, UNVERIFIED, &ahead).map(drop)
            },
        ),
        play("64 threads, one nonce", "a race between check and store", |world| {
            once(world, &world.axon, &world.good().bytes())
        }),
        play("64 threads, one nonce, on two routes", "a race across routes (W6)", |world| {
            let good = world.good();
            let before = world.seen.runs();
            let other = good.clone().target("/Other").bytes();
            let at = world.axon.at;
            let elsewhere = thread::spawn(move || stampede(at, &other));
            let served = stampede(at, &good.bytes()) + elsewhere.join().unwrap();
            let ran = world.seen.runs() - before;
            check(served == 1 && ran == 1, format!("{served} served, {ran} ran"))
        }),
        play(
            "64 threads, one nonce, like the reference",
            "a race in the reference's rule",
            |world| {
                let routes = World::routes(&world.seen).verify(Verify::LikeReference);
                let axon = world.serve(routes, Server::default());
                once(world, &axon, &V10::new(&axon, "Echo").request().bytes())
            },
        ),
        play("64 threads, one nonce, with a log", "a race in the log", |world| {
            let folder = tempfile::tempdir().unwrap();
            let store = PersistentNonceStore::open(folder.path(), Durability::Process).unwrap();
            let axon =
                world.serve(World::routes(&world.seen).nonce_store(store), Server::default());
            once(world, &axon, &V10::new(&axon, "Echo").request().bytes())
        }),
        play("64 threads, one nonce, btauth", "a race between check and store", |world| {
            once(world, &world.axon, &BtAuth::new(&world.axon, "Echo").request().bytes())
        }),
        at("nonce of 20 s ago", "older than the timeout and 4 s", UNVERIFIED, -20 * SECOND),
        at("nonce of an hour ago", "old", UNVERIFIED, -3600 * SECOND),
        at("nonce of 1970", "as old as can be", UNVERIFIED, 1 - now_ns() as i128),
        at("nonce of 15 s ago", "as old as the timeout allows", Must::Serve, -15 * SECOND),
        at("nonce of 17 s ago", "older than the timeout and 4 s", UNVERIFIED, -17 * SECOND),
        play("nonce of before the start", "older than the axon (W4)", |world| {
            let before = now_ns() - 1;
            let axon = world.serve(World::routes(&world.seen), Server::default());
            let request = V10::new(&axon, "Echo").nonce(before).request();
            world.expect_at(&axon, UNVERIFIED, &request).map(drop)
        }),
        at("nonce 10 s ahead", "signed in advance (W5)", UNVERIFIED, 10 * SECOND),
        at(
            "nonce a year ahead",
            "signed in advance, for good (W5)",
            UNVERIFIED,
            31_536_000 * SECOND,
        ),
        at("nonce a second ahead", "a clock that is a little fast", Must::Serve, SECOND),
        case("nonce 0", "false to Python", UNVERIFIED, |world| {
            V10::new(&world.axon, "Echo").nonce(0).request()
        }),
        case("nonce -1", "before time", UNVERIFIED, |world| {
            V10::new(&world.axon, "Echo").nonce(-1).request()
        }),
        case("nonce minus now", "the age of it overflows", UNVERIFIED, |world| {
            V10::new(&world.axon, "Echo").nonce(format!("-{}", CLOCK.next())).request()
        }),
        case("nonce 2^63", "beyond a signed integer", UNVERIFIED, |world| {
            V10::new(&world.axon, "Echo").nonce(1_u64 << 63).request()
        }),
        case("nonce 2^64", "beyond an integer", UNVERIFIED, |world| {
            V10::new(&world.axon, "Echo").nonce(1_u128 << 64).request()
        }),
        case("nonce now plus 2^64", "now again, if cut to 64 bits", UNVERIFIED, |world| {
            let now = u128::from(CLOCK.next());
            V10::new(&world.axon, "Echo").nonce(now + (1 << 64)).request()
        }),
        case("nonce 2^127", "beyond 128 bits with a sign", UNVERIFIED, |world| {
            V10::new(&world.axon, "Echo").nonce(1_u128 << 127).request()
        }),
        case("nonce of 4,000 digits", "a long number", UNVERIFIED, |world| {
            V10::new(&world.axon, "Echo").nonce("9".repeat(4000)).request()
        }),
        case("nonce of 10,000 digits", "a number beyond Python's limit", MALFORMED, |world| {
            V10::new(&world.axon, "Echo").nonce("9".repeat(10_000)).request()
        }),
        case("nonce as a float", "1.5e18", MALFORMED, |world| {
            V10::new(&world.axon, "Echo").nonce("1.5e18").request()
        }),
        case("nonce with a point", "a number with a fraction", MALFORMED, |world| {
            V10::new(&world.axon, "Echo").nonce(format!("{}.0", CLOCK.next())).request()
        }),
        case("nonce in hexadecimal", "0x10", MALFORMED, |world| {
            V10::new(&world.axon, "Echo").nonce(format!("{:#x}", CLOCK.next())).request()
        }),
        case("nonce inf", "no number", MALFORMED, |world| {
            V10::new(&world.axon, "Echo").nonce("inf").request()
        }),
        case("nonce True", "Python's one", MALFORMED, |world| {
            V10::new(&world.axon, "Echo").nonce("True").request()
        }),
        case("nonce None", "what Python writes for nothing", MALFORMED, |world| {
            V10::new(&world.axon, "Echo").nonce("None").request()
        }),
        spelled("nonce with a plus", |nonce| format!("+{nonce}")),
        spelled("nonce with zeros", |nonce| format!("000{nonce}")),
        spelled("nonce with underscores", |nonce| format!("{}_{}", &nonce[..1], &nonce[1..])),
        spelled("nonce in full-width digits", |nonce| {
            let wide = |digit: char| char::from_u32(0xff10 + digit.to_digit(10).unwrap()).unwrap();
            nonce.chars().map(wide).collect()
        }),
        spelled("nonce in Arabic digits", |nonce| {
            let other = |digit: char| char::from_u32(0x660 + digit.to_digit(10).unwrap()).unwrap();
            nonce.chars().map(other).collect()
        }),
        widened("old nonce, timeout nan", TIMEOUT, "nan", MALFORMED),
        widened("old nonce, timeout inf", TIMEOUT, "inf", MALFORMED),
        widened("old nonce, timeout -inf", TIMEOUT, "-inf", MALFORMED),
        widened("old nonce, timeout Infinity", TIMEOUT, "Infinity", MALFORMED),
        widened("old nonce, timeout 1e999", TIMEOUT, "1e999", MALFORMED),
        widened("old nonce, timeout 1e308", TIMEOUT, "1e308", UNVERIFIED),
        widened("old nonce, timeout 4000", TIMEOUT, "4000", UNVERIFIED),
        widened("old nonce, timeout -1", TIMEOUT, "-1", UNVERIFIED),
        widened("old nonce, timeout -1e308", TIMEOUT, "-1e308", UNVERIFIED),
        widened("old nonce, timeout None", TIMEOUT, "None", MALFORMED),
        widened("old nonce, no timeout", TIMEOUT, "", UNVERIFIED),
        widened("old nonce, no version", VERSION, "", UNVERIFIED),
        widened("old nonce, version 7001000", VERSION, "7001000", UNVERIFIED),
        widened("old nonce, version 0", VERSION, "0", UNVERIFIED),
        widened("old nonce, version -1", VERSION, "-1", UNVERIFIED),
        widened("old nonce, version 2^64", VERSION, "18446744073709551616", MALFORMED),
        case("timeout negative, nonce fresh", "a timeout in the past", Must::Serve, |world| {
            world.good().set(TIMEOUT, "-5")
        }),
        case(
            "timeout 1e308, nonce fresh",
            "a timeout that no clock can hold",
            Must::Serve,
            |world| world.good().set(TIMEOUT, "1e308"),
        ),
        play("timeout 1e-300", "a deadline that has passed already", |world| {
            let request = world.good().set(TIMEOUT, "1e-300");
            let answer = send(world.axon.at, &request.bytes());
            // Either way at once, whatever came first: the body or the deadline.
            check(matches!(answer.status, 200 | 408), answer.text())
        }),
        case("timeout 0, nonce fresh", "zero is none", Must::Serve, |world| {
            world.good().set(TIMEOUT, "0")
        }),
        case("timeout twice in one", "a list of numbers", MALFORMED, |world| {
            world.good().set(TIMEOUT, "12.0, 4000")
        }),
    ]
}
