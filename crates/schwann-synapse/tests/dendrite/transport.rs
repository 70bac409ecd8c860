//! Connections: which are used again, which are not, and when they close.

use std::time::Duration;

use schwann_synapse::{call_error::CallError, target::Target};

use crate::fake::{
    AXON, SUCCESS, always_saying, axon, axon_at, builder, dendrite, fine, header, json, plain,
    saying,
};

#[tokio::test]
async fn calls_one_after_the_other_share_a_connection() {
    let axon = always_saying(fine()).await;
    let dendrite = dendrite();
    for _ in 0..50 {
        assert!(dendrite.call(&axon.target, plain()).await.unwrap().is_success());
    }
    assert_eq!(axon.connections.count(), 1);
    assert_eq!(dendrite.open_connections(), 1);
}

#[tokio::test]
async fn a_refusal_keeps_its_connection() {
    let axon = always_saying(json(403, "", r#"{"message": "no"}"#)).await;
    let dendrite = dendrite();
    for _ in 0..5 {
        assert!(dendrite.call(&axon.target, plain()).await.unwrap_err().is_blacklisted());
    }
    assert_eq!(axon.connections.count(), 1);
}

#[tokio::test]
async fn a_connection_the_axon_will_close_is_not_kept() {
    let close = json(200, &format!("{SUCCESS}connection: Keep-Alive, Close\r\n"), "{}");
    let old = fine().replace("HTTP/1.1", "HTTP/1.0");
    let undelimited =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{SUCCESS}\r\n{{}}");
    for answer in [close, old, undelimited] {
        let axon = saying(answer).await;
        let dendrite = dendrite();
        for _ in 0..3 {
            assert!(dendrite.call(&axon.target, plain()).await.unwrap().is_success());
        }
        assert_eq!(axon.connections.count(), 3);
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_the_caller_nothing() {
    // One answer for each connection, without saying that it will close.
    let axon = saying(fine()).await;
    let dendrite = dendrite();
    for n in 1..=50 {
        dendrite.call(&axon.target, plain()).await.unwrap();
        assert_eq!(axon.requests.count(), n, "a request was read twice");
    }
}

#[test]
fn a_kept_connection_whose_end_was_not_noticed_yet_is_replaced() {
    use std::io::{Read as _, Write as _};

    // The axon on a thread of its own, and no task of ours running when it closes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new("127.0.0.1", listener.local_addr().unwrap().port(), AXON).unwrap();
    let (closed, when_closed) = std::sync::mpsc::channel();
    let (go, when_answered) = std::sync::mpsc::channel();
    let axon = std::thread::spawn(move || {
        for _ in 0..10 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"null}") {
                let mut more = [0; 4096];
                let n = stream.read(&mut more).unwrap();
                assert_ne!(n, 0, "closed within a request");
                seen.extend_from_slice(&more[..n]);
            }
            assert_eq!(seen.windows(4).filter(|four| four == b"POST").count(), 1);
            stream.write_all(fine().as_bytes()).unwrap();
            when_answered.recv().unwrap();
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dendrite = dendrite();
    for _ in 0..10 {
        let result = runtime.block_on(dendrite.call(&target, plain()).into_future());
        assert!(result.is_ok(), "{result:?}");
        go.send(()).unwrap();
        when_closed.recv().unwrap();
    }
    axon.join().unwrap();
}

#[tokio::test]
async fn a_new_connection_that_is_closed_is_not_tried_again() {
    let axon = axon(|_, wire| async move { drop(wire) }).await;
    for n in 1..=20 {
        let error = dendrite().call(&axon.target, plain()).await.unwrap_err();
        assert!(matches!(error, CallError::Disconnected(_)), "{error:?}");
        assert_eq!(axon.connections.count(), n);
    }
}

#[tokio::test]
async fn a_request_that_was_read_is_never_sent_again() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        wire.write(fine()).await;
        // The second one is read and dropped, as by an axon that dies on it.
        wire.request().await;
    })
    .await;
    let dendrite = dendrite();
    dendrite.call(&axon.target, plain()).await.unwrap();
    let error = dendrite.call(&axon.target, plain()).await.unwrap_err();
    assert!(matches!(error, CallError::Disconnected(_)), "{error:?}");
    assert_eq!((axon.requests.count(), axon.connections.count()), (2, 1));
}

#[tokio::test]
async fn bytes_after_an_answer_are_not_the_next_answer() {
    let axon = always_saying(fine() + "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad").await;
    let dendrite = dendrite();
    for _ in 0..20 {
        // Refused or answered on a new connection, but never by the bytes left over.
        match dendrite.call(&axon.target, plain()).await {
            Ok(answer) => assert_eq!(answer.synapse.y, Some(6)),
            Err(error) => assert!(
                matches!(error, CallError::Response(_) | CallError::Disconnected(_)),
                "{error:?}"
            ),
        }
    }
}

#[tokio::test]
async fn an_unused_connection_is_closed_after_a_while() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        wire.write(fine()).await;
        wire.closed().await;
    })
    .await;
    let dendrite = builder().keep_alive(Duration::from_millis(20)).build();
    dendrite.call(&axon.target, plain()).await.unwrap();
    axon.closed.reached(1).await;
    dendrite.call(&axon.target, plain()).await.unwrap();
    axon.closed.reached(2).await;
    assert_eq!(dendrite.open_connections(), 0);
}

#[tokio::test]
async fn no_more_connections_are_kept_than_allowed() {
    let axon = always_saying(fine()).await;
    let dendrite = builder().max_idle(2, 100).build();
    let results = dendrite.forward(vec![&axon.target; 10], plain()).await;
    assert!(results.iter().all(Result::is_ok));
    while dendrite.open_connections() > 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(dendrite.open_connections(), 2);
}

#[tokio::test]
async fn ipv6_is_called_by_its_bracketed_name() {
    let axon = axon_at("::1", |_, mut wire| async move {
        wire.request().await;
        wire.write(fine()).await;
    })
    .await;
    dendrite().call(&axon.target, plain()).await.unwrap();
    let seen = axon.seen();
    assert_eq!(header(&seen[0], "host"), Some(format!("[::1]:{}", axon.target.port()).as_str()));
    assert_eq!(header(&seen[0], "bt_header_axon_ip"), Some("::1"));
}

#[tokio::test]
async fn a_host_name_is_looked_up() {
    let axon = always_saying(fine()).await;
    let named = Target::new("localhost", axon.target.port(), axon.target.hotkey()).unwrap();
    assert!(dendrite().call(&named, plain()).await.unwrap().is_success());
}

#[tokio::test]
async fn an_answer_in_many_pieces_is_one_answer() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        for byte in fine().bytes() {
            wire.write([byte]).await;
            tokio::task::yield_now().await;
        }
        wire.closed().await;
    })
    .await;
    assert_eq!(dendrite().call(&axon.target, plain()).await.unwrap().synapse.y, Some(6));
}

#[tokio::test]
async fn one_hundred_continue_is_not_the_answer() {
    let axon = saying(format!("HTTP/1.1 100 Continue\r\n\r\n{}", fine())).await;
    assert_eq!(dendrite().call(&axon.target, plain()).await.unwrap().synapse.y, Some(6));
}
