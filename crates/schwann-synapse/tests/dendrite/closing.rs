//! What ends with a call, a stream, and the dendrite.

use std::time::Duration;

use schwann_synapse::{call_error::CallError, dendrite::Dendrite};
use tokio::time::timeout;

use crate::fake::{
    AXON, Axon, axon, builder, chunk, dendrite, fine, plain, stream_ask, stream_head, untyped,
};

/// Answers `/PlainSynapse` never and `/StreamSynapse` with one token and no end.
async fn endless() -> Axon {
    axon(|_, mut wire| async move {
        if wire.request().await.is_some_and(|request| request.starts_with("POST /StreamSynapse")) {
            wire.write(stream_head()).await;
            wire.write(chunk("tok0")).await;
        }
        wire.closed().await;
    })
    .await
}

#[tokio::test]
async fn a_call_given_up_closes_its_connection() {
    let axon = endless().await;
    let dendrite = dendrite();
    let given_up = tokio::select! {
        _ = dendrite.call(&axon.target, plain()) => false,
        () = axon.requests.reached(1) => true,
    };
    assert!(given_up);
    axon.closed.reached(1).await;
    assert_eq!(dendrite.open_connections(), 0);
}

#[tokio::test]
async fn a_call_given_up_while_it_still_sends_closes_its_connection() {
    // Nobody reads: the request fills the socket and stands still.
    let axon = axon(|_, wire| async move {
        std::future::pending::<()>().await;
        drop(wire);
    })
    .await;
    let dendrite = dendrite();
    let large = untyped("Large", &format!("{{\"x\": \"{}\"}}", "x".repeat(32 << 20)));
    let result = dendrite.call(&axon.target, large).timeout(Duration::from_millis(300)).await;
    assert!(result.is_err_and(|error| error.is_timeout()));
    while dendrite.open_connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_dropped_closes_its_connection() {
    let axon = endless().await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    stream.chunk().await.unwrap();
    drop(stream);
    axon.closed.reached(1).await;
}

#[tokio::test]
async fn dropping_the_dendrite_ends_what_is_under_way() {
    let axon = endless().await;
    let dendrite = dendrite();
    let call = tokio::spawn(dendrite.call(&axon.target, plain()).into_future());
    let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    stream.chunk().await.unwrap();
    let unread = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    axon.requests.reached(3).await;

    let other = dendrite.clone();
    drop(dendrite);
    assert!(timeout(Duration::from_millis(20), stream.chunk()).await.is_err(), "a handle is left");
    drop(other);
    assert!(matches!(call.await.unwrap(), Err(CallError::Closed)));
    assert!(matches!(stream.chunk().await, Err(CallError::Closed)));
    // Also the connection of a stream that nobody polls.
    axon.closed.reached(3).await;
    drop(unread);
}

#[tokio::test]
async fn dropping_the_dendrite_closes_kept_connections() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        wire.write(fine()).await;
        wire.closed().await;
    })
    .await;
    let dendrite = dendrite();
    dendrite.call(&axon.target, plain()).await.unwrap();
    assert_eq!(axon.closed.count(), 0);
    drop(dendrite);
    axon.closed.reached(1).await;
}

#[tokio::test]
async fn close_waits_for_the_connections_and_stays_closed() {
    let axon = endless().await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    stream.chunk().await.unwrap();
    dendrite.close().await;
    assert_eq!(dendrite.open_connections(), 0);
    assert!(matches!(stream.chunk().await, Err(CallError::Closed)));
    let error = dendrite.call(&axon.target, plain()).await.unwrap_err();
    assert!(matches!(error, CallError::Closed));
    assert_eq!(
        error.status_message().as_deref(),
        Some("Failed to parse response: Session is closed")
    );
    assert!(matches!(dendrite.query([&axon.target], plain())[..], [Err(CallError::Closed)]));
    dendrite.close().await;
}

#[test]
fn a_call_that_waits_for_a_lane_ends_with_the_dendrite() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let axon = endless().await;
        let dendrite = builder().lanes_per_axon(1).build();
        let first = tokio::spawn(dendrite.call(&axon.target, plain()).into_future());
        axon.requests.reached(1).await;
        let second = tokio::spawn(dendrite.call(&axon.target, plain()).into_future());
        tokio::task::yield_now().await;
        dendrite.close().await;
        assert!(matches!(first.await.unwrap(), Err(CallError::Closed)));
        assert!(matches!(second.await.unwrap(), Err(CallError::Closed)));
    });
}

#[tokio::test]
async fn the_wait_for_a_lane_has_its_own_limit() {
    let axon = endless().await;
    let dendrite = builder().lanes_per_axon(1).queue_timeout(Duration::from_millis(20)).build();
    let first = tokio::spawn(dendrite.call(&axon.target, plain()).into_future());
    axon.requests.reached(1).await;
    let error = dendrite.call(&axon.target, plain()).await.unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Timeout { phase: schwann_synapse::call_error::Phase::Queue, .. }
        ),
        "{error:?}"
    );
    first.abort();
}

#[test]
fn a_dendrite_names_its_hotkey_and_nothing_secret() {
    let dendrite: Dendrite = dendrite();
    let hotkey = "5HTsR7yDDnP9VhTfkUYbtbxbkXXWxbBES1GfTL5gWMZx4y9L";
    assert_eq!(dendrite.to_string(), format!("dendrite({hotkey})"));
    assert_eq!(format!("{dendrite:?}"), format!("Dendrite {{ hotkey: \"{hotkey}\", .. }}"));
    assert_eq!(dendrite.hotkey(), hotkey);
}

#[tokio::test]
async fn history_is_a_ring_without_signatures_and_off_by_default() {
    let axon = crate::fake::always_saying(fine()).await;
    let dendrite = dendrite();
    dendrite.call(&axon.target, plain()).await.unwrap();
    assert!(dendrite.history().is_empty());

    let dendrite = builder().history(3).build();
    for _ in 0..4 {
        dendrite.call(&axon.target, plain()).await.unwrap();
    }
    let dead = schwann_synapse::target::Target::new("127.0.0.1", 0, AXON).unwrap();
    let _ = dendrite.call(&dead, plain()).await;
    let history = dendrite.history();
    let statuses: Vec<_> = history.iter().map(|record| record.dendrite.status_code).collect();
    assert_eq!(statuses, [Some(200), Some(200), Some(503)]);
    assert!(
        history
            .iter()
            .all(|record| record.name == "PlainSynapse" && record.dendrite.signature.is_none())
    );
}
