//! Many calls: lanes, fan-out, order, and code that is not async.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use schwann_synapse::{call_error::CallError, dendrite::Answer, ss58::Hotkey, target::Target};
use schwann_testkit::{Probe, gate, probe};

use crate::fake::{
    AXON, Axon, PlainSynapse, axon, builder, dendrite, fine, header, json, plain, stream_ask,
    stream_head,
};

/// Answers once `together` requests are there.
async fn answering_together(together: usize) -> Axon {
    let there = probe();
    axon(move |_, mut wire| {
        let there: Probe = there.clone();
        async move {
            while wire.request().await.is_some() {
                there.hit();
                there.reached(together).await;
                wire.write(fine()).await;
            }
        }
    })
    .await
}

/// The same address under many hotkeys: many axons, one port.
fn many(axon: &Axon, count: usize) -> Vec<Target> {
    (0..count)
        .map(|n| {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            let hotkey = Hotkey::from_bytes(key).to_string();
            Target::new(axon.target.host(), axon.target.port(), &hotkey).unwrap()
        })
        .collect()
}

#[tokio::test]
async fn a_fan_out_to_256_is_in_flight_all_at_once() {
    // No answer before all 256 requests are there: in waves this would never end.
    let axon = answering_together(256).await;
    let targets = many(&axon, 256);
    let dendrite = dendrite();
    let mut results = dendrite.fan_out(&targets, plain()).timeout(Duration::from_secs(12));
    let mut seen = HashSet::new();
    while let Some((index, result)) = results.next().await {
        assert_eq!(result.unwrap().synapse.y, Some(6));
        assert!(seen.insert(index));
    }
    assert_eq!(seen.len(), 256);
    assert_eq!(results.remaining(), 0);
}

#[tokio::test]
async fn axons_of_one_second_all_answer_within_two_and_a_half() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        wire.write(fine()).await;
    })
    .await;
    let targets = many(&axon, 256);
    let results = dendrite().forward(&targets, plain()).timeout(Duration::from_millis(2500)).await;
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of 256 failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test]
async fn waiting_for_a_place_is_not_in_the_timeout() {
    let axon = axon(|_, mut wire| async move {
        while wire.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(300)).await;
            wire.write(fine()).await;
        }
    })
    .await;
    // Five at a time: the last ones wait 1.2 s before they are sent.
    let dendrite = builder().max_in_flight(5).build();
    let results = dendrite
        .forward(vec![&axon.target; 25], plain())
        .concurrency(25)
        .timeout(Duration::from_millis(1000))
        .await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let waited = results.iter().flatten().map(|answer| answer.timings.queued).max();
    assert!(waited > Some(Duration::from_millis(1000)), "{waited:?}");
}

#[tokio::test]
async fn no_more_calls_run_than_allowed() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let axon = axon({
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        move |_, mut wire| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                while wire.request().await.is_some() {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    wire.write(fine()).await;
                }
            }
        }
    })
    .await;
    let dendrite = dendrite();
    let mut results = dendrite.fan_out(vec![&axon.target; 100], plain()).concurrency(4);
    while let Some((_, result)) = results.next().await {
        result.unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 4);
    assert!(axon.connections.count() <= 4, "{} connections", axon.connections.count());

    most.store(0, Ordering::SeqCst);
    let results = dendrite.forward(vec![&axon.target; 20], plain()).sequential().await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_lane_carries_one_request_at_a_time_and_its_nonces_grow() {
    // An axon as strict as the reference: per uuid, only ever newer nonces (§8), with
    // answers out of order.
    let last: Arc<std::sync::Mutex<HashMap<String, u128>>> = Arc::default();
    let lanes: Arc<std::sync::Mutex<HashSet<String>>> = Arc::default();
    let axon = axon({
        let last = Arc::clone(&last);
        move |number, mut wire| {
            let (last, lanes) = (Arc::clone(&last), Arc::clone(&lanes));
            async move {
                while let Some(request) = wire.request().await {
                    let uuid = header(&request, "bt_header_dendrite_uuid").unwrap().to_owned();
                    let nonce: u128 =
                        header(&request, "bt_header_dendrite_nonce").unwrap().parse().unwrap();
                    let newer = last
                        .lock()
                        .unwrap()
                        .insert(uuid.clone(), nonce)
                        .is_none_or(|last| last < nonce);
                    let alone = lanes.lock().unwrap().insert(uuid.clone());
                    for _ in 0..number % 7 {
                        tokio::task::yield_now().await;
                    }
                    lanes.lock().unwrap().remove(&uuid);
                    let ok = newer && alone;
                    wire.write(if ok { fine() } else { json(401, "", r#"{"message": "nonce"}"#) })
                        .await;
                }
            }
        }
    })
    .await;
    let dendrite = builder().lanes_per_axon(8).build();
    for _ in 0..5 {
        let results = dendrite.forward(vec![&axon.target; 64], plain()).await;
        assert!(
            results.iter().all(Result::is_ok),
            "{:?}",
            results.iter().find(|result| result.is_err())
        );
    }
    let uuids = last.lock().unwrap().len();
    assert!((2..=8).contains(&uuids), "{uuids} uuids for 8 lanes");
}

#[tokio::test]
async fn results_are_in_the_order_of_the_targets() {
    let release = gate();
    let slow = axon({
        let release = release.clone();
        move |_, mut wire| {
            let release = release.clone();
            async move {
                wire.request().await;
                release.pass().await;
                wire.write(json(200, crate::fake::SUCCESS, r#"{"y": 1}"#)).await;
            }
        }
    })
    .await;
    let fast = axon({
        let release = release.clone();
        move |_, mut wire| {
            let release = release.clone();
            async move {
                wire.request().await;
                wire.write(json(200, crate::fake::SUCCESS, r#"{"y": 2}"#)).await;
                release.open();
            }
        }
    })
    .await;
    let dead = Target::new("127.0.0.1", 0, AXON).unwrap();
    let results = dendrite().forward([&slow.target, &dead, &fast.target], plain()).await;
    let summary = results.iter().map(|result| match result {
        Ok(answer) => (200, answer.synapse.y),
        Err(error) => (error.status_code(), None),
    });
    assert_eq!(summary.collect::<Vec<_>>(), [(200, Some(1)), (503, None), (200, Some(2))]);
    assert!(dendrite().forward(Vec::<Target>::new(), plain()).await.is_empty());
}

#[tokio::test]
async fn streams_can_be_forwarded_too() {
    let axon = axon(|number, mut wire| async move {
        wire.request().await;
        wire.write(stream_head()).await;
        wire.write(crate::fake::chunk(format!("stream {number}"))).await;
        wire.write("0\r\n\r\n").await;
    })
    .await;
    let dead = Target::new("127.0.0.1", 0, AXON).unwrap();
    let dendrite = dendrite();
    let streams =
        dendrite.forward([&axon.target, &dead, &axon.target], stream_ask()).streaming().await;
    assert_eq!(streams.len(), 3);
    let mut texts = HashSet::new();
    for (index, stream) in streams.into_iter().enumerate() {
        match stream {
            Ok(mut stream) => {
                texts.insert(stream.text_chunk().await.unwrap().unwrap());
                assert!(stream.finish().await.unwrap().is_success());
            }
            Err(error) => assert_eq!((index, error.status_code()), (1, 503)),
        }
    }
    assert_eq!(texts, HashSet::from(["stream 0".to_owned(), "stream 1".to_owned()]));
}

fn outcome(results: &[Result<Answer<PlainSynapse>, CallError>]) -> Vec<i64> {
    results
        .iter()
        .map(|result| result.as_ref().map_or_else(CallError::status_code, |_| 200))
        .collect()
}

#[test]
fn query_blocks_inside_and_outside_a_runtime_and_again() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let axon = runtime.block_on(crate::fake::always_saying(fine()));
    let dead = Target::new("127.0.0.1", 0, AXON).unwrap();
    let dendrite = dendrite();
    // Outside, twice: the reference's second one finds its session closed (W31).
    for _ in 0..2 {
        assert_eq!(outcome(&dendrite.query([&axon.target, &dead], plain())), [200, 503]);
    }
    // Inside, and mixed with async calls.
    runtime.block_on(async {
        assert!(dendrite.call(&axon.target, plain()).await.is_ok());
        assert_eq!(outcome(&dendrite.query([&axon.target], plain())), [200]);
        assert!(dendrite.call(&axon.target, plain()).await.is_ok());
    });
    // From many threads.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(outcome(&dendrite.query(vec![&axon.target; 8], plain())), [200; 8])
            });
        }
    });
    assert!(dendrite.call(&axon.target, plain()).wait().unwrap().is_success());
    // Dropped inside a runtime, where a runtime of its own may not be waited for.
    runtime.block_on(async move { drop(dendrite) });
}

#[tokio::test]
async fn dropping_a_fan_out_gives_its_calls_up() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        wire.closed().await;
    })
    .await;
    let dendrite = dendrite();
    let mut results = dendrite.fan_out(vec![&axon.target; 5], plain());
    tokio::select! {
        _ = results.next() => panic!("nobody answers"),
        () = axon.requests.reached(5) => {}
    }
    let began = Instant::now();
    drop(results);
    axon.closed.reached(5).await;
    assert!(began.elapsed() < Duration::from_secs(5), "waited for a timeout");
}
