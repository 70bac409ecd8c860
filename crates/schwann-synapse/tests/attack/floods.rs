//! Many of something: memory stays bounded, and an honest caller is served all the same.

use std::{io::Write, sync::Arc, thread};

use schwann::Server;
use schwann_synapse::{
    axon::{SynapseError, untyped},
    caller::{Caller, Verify},
    keys::Keypair,
    metrics::Metrics,
    nonce::{MemoryNonceStore, Room},
    synapse::Untyped,
};
use schwann_testkit::gate;

use crate::world::{
    BtAuth, Case, MALLORY, Must, SIGNATURE, TIMEOUT, V10, VICTIM, World, check, connect, play,
    resident_bytes, send,
};

fn small_store(room: Room) -> Arc<MemoryNonceStore> {
    Arc::new(MemoryNonceStore::with_room(room).unwrap())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        play("nonces of one key without end", "one key fills the memory (W15)", |world| {
            let store = small_store(Room { nonces: 400, per_hotkey: 50 });
            let axon = world.serve(
                World::routes(&world.seen).nonce_store(Arc::clone(&store)),
                Server::default(),
            );
            let mut statuses = Vec::new();
            for at in 0..100 {
                let request = match at % 2 {
                    0 => V10 { uuid: format!("lane {at}"), ..V10::new(&axon, "Echo") }
                        .by(&MALLORY)
                        .request(),
                    _ => {
                        let mut request = BtAuth::new(&axon, "Echo");
                        request.hotkey = V10::new(&axon, "Echo").by(&MALLORY).hotkey;
                        request.key = MALLORY.clone();
                        request.request()
                    }
                };
                statuses.push(send(axon.at, &request.bytes()).status);
            }
            check(statuses[..50].iter().all(|status| *status == 200), format!("{statuses:?}"))?;
            check(statuses[50..].iter().all(|status| *status == 401), format!("{statuses:?}"))?;
            check(store.len() == 50, format!("{} remembered", store.len()))?;
            world.expect_at(&axon, Must::Serve, &V10::new(&axon, "Echo").request()).map(drop)
        }),
        play("nonces of many keys without end", "many keys fill the memory (W15)", |world| {
            let store = small_store(Room { nonces: 200, per_hotkey: 100 });
            let axon = world.serve(
                World::routes(&world.seen).nonce_store(Arc::clone(&store)),
                Server::default(),
            );
            let keys: Vec<_> =
                (0..10).map(|at| Keypair::from_uri(&format!("//Flood/{at}")).unwrap()).collect();
            for at in 0..400 {
                let request = V10::new(&axon, "Echo").by(&keys[at % keys.len()]).request();
                let status = send(axon.at, &request.bytes()).status;
                check(matches!(status, 200 | 401), format!("{status}"))?;
            }
            check(store.len() <= 200, format!("{} remembered", store.len()))?;
            world.expect_at(&axon, Must::Serve, &V10::new(&axon, "Echo").request()).map(drop)
        }),
        play(
            "long uuids like the reference",
            "the reference's map keeps what clients chose (W15)",
            |world| {
                let routes = World::routes(&world.seen).verify(Verify::LikeReference);
                let axon = world.serve(routes, Server::default());
                let once = |at: usize| {
                    let mut v10 = V10::new(&axon, "Echo");
                    v10.uuid = format!("{at}{}", "u".repeat(20_000));
                    send(axon.at, &v10.request().bytes()).status
                };
                for at in 0..100 {
                    once(at);
                }
                let before = resident_bytes();
                for at in 100..1600 {
                    check(once(at) == 200, "not served")?;
                }
                let grown = resident_bytes().saturating_sub(before);
                check(grown < 12 << 20, format!("grew by {grown} for 1,500 uuids"))
            },
        ),
        play("bad signatures without end", "work for nothing", |world| {
            let before = resident_bytes();
            for at in 0..300 {
                let mut v10 = V10::new(&world.axon, "Echo");
                v10.uuid = format!("{at}{}", "u".repeat(10_000));
                world.expect(Must::Refuse(&[401]), &v10.signed("wrong"))?;
            }
            let grown = resident_bytes().saturating_sub(before);
            check(grown < 16 << 20, format!("grew by {grown}"))
        }),
        play("unknown routes without end", "a label for each of them", |world| {
            let metrics = Metrics::new();
            let axon =
                world.serve(World::routes(&world.seen).metrics(metrics.clone()), Server::default());
            let before = metrics.text().lines().count();
            for at in 0..300 {
                let target = format!("/Unknown{at}");
                let request = V10::new(&axon, "Echo").request().target(&target);
                world.expect_at(&axon, Must::Refuse(&[404]), &request)?;
            }
            let text = metrics.text();
            check(text.lines().count() <= before + 2, text.clone())?;
            check(!text.contains("Unknown1"), text)
        }),
        play("idle connections", "300 connections that say nothing", |world| {
            let idle: Vec<_> = (0..300).map(|_| connect(world.axon.at)).collect();
            world.serves_an_honest_caller()?;
            drop(idle);
            Ok(())
        }),
        play("half sent heads", "200 requests that are never sent whole", |world| {
            let head = world.good().head();
            let begun: Vec<_> = (0..200)
                .map(|_| {
                    let mut stream = connect(world.axon.at);
                    stream.write_all(&head).unwrap();
                    stream
                })
                .collect();
            world.serves_an_honest_caller()?;
            drop(begun);
            Ok(())
        }),
        play(
            "bodies that become more than they are",
            "short texts that become many values",
            |world| {
                let (hold, held) = (gate(), schwann_testkit::probe());
                let (open, entered) = (hold.clone(), held.clone());
                let holding = untyped("Hold").unary(move |ask: Untyped, _: Caller| {
                    let (hold, held) = (hold.clone(), held.clone());
                    async move {
                        held.hit();
                        hold.pass().await;
                        Ok::<_, SynapseError>(ask)
                    }
                });
                let routes = World::routes(&world.seen).attach(holding).max_bodies(256 * 1024);
                let axon = world.serve(routes, Server::default());
                // Ten kilobytes that become three hundred.
                let large = format!("{{\"x\": [1{}]}}", ",1".repeat(5000));
                let mut v10 = V10::new(&axon, "Hold").body(large.clone());
                v10.hash = crate::world::hash_of(&[]);
                let (bytes, at) = (v10.request().bytes(), axon.at);
                let first = thread::spawn(move || send(at, &bytes).status);
                world.wait(entered.reached(1));
                let second = V10::new(&axon, "Free").body(large).by(&VICTIM).request();
                let second = second.set(TIMEOUT, "0.2");
                world.expect_at(&axon, Must::Refuse(&[408]), &second)?;
                world.expect_at(&axon, Must::Serve, &V10::new(&axon, "Echo").request())?;
                open.open();
                let status = first.join().unwrap();
                check(status == 200, format!("{status}"))
            },
        ),
        play("refusals have one size", "a request that chooses its answer's length", |world| {
            let mut sizes = Vec::new();
            for length in [1, 100, 10_000] {
                let bent = world.good().set(SIGNATURE, "x".repeat(length));
                let answer = world.expect_at(&world.axon, Must::Refuse(&[401]), &bent)?;
                let body = answer.text().split("\r\n\r\n").nth(1).unwrap().len();
                sizes.push(body);
            }
            for length in [100, 1000, 10_000] {
                let bent = world.good().target(&format!("/{}", "x".repeat(length)));
                let answer = world.expect_at(&world.axon, Must::Refuse(&[404]), &bent)?;
                sizes.push(answer.text().split("\r\n\r\n").nth(1).unwrap().len());
            }
            check(sizes[..3].iter().all(|size| *size == sizes[0]), format!("{sizes:?}"))?;
            check(sizes[3..].iter().all(|size| *size == sizes[3]), format!("{sizes:?}"))
        }),
    ]
}
