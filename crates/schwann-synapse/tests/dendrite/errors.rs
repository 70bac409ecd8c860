//! The table of §10.5 and what we do otherwise.

use std::time::Duration;

use schwann_synapse::{
    call_error::{AnswerError, CallError, Phase},
    dendrite::Answer,
    synapse::Ask,
    target::Target,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::fake::{
    AXON, Axon, PlainSynapse, SUCCESS, axon, builder, dendrite, fine, json, plain, saying, untyped,
};

async fn call(axon: &Axon) -> Result<Answer<PlainSynapse>, CallError> {
    dendrite().call(&axon.target, plain()).await
}

#[track_caller]
fn expect<S: std::fmt::Debug>(
    result: Result<Answer<S>, CallError>,
    code: i64,
    message: &str,
) -> CallError {
    let error = result.expect_err("the call succeeded");
    assert_eq!(error.status_code(), code, "{error:?}");
    let told = error.status_message().unwrap_or_default().into_owned();
    assert!(told.starts_with(message), "{told:?} does not begin with {message:?}");
    error
}

async fn expect_saying(answer: impl AsRef<[u8]>, code: i64, message: &str) -> CallError {
    let axon = saying(answer).await;
    expect(call(&axon).await, code, message)
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let axon = saying("").await;
    let target = axon.target.clone();
    drop(axon);
    // The listener goes with its task; until then connecting succeeds and nobody answers.
    while TcpStream::connect(target.authority()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let message = format!("Service unavailable at {}/PlainSynapse", target.authority());
    let error = expect(dendrite().call(&target, plain()).await, 503, &message);
    assert!(matches!(error, CallError::Unreachable { .. }));
}

#[tokio::test]
async fn the_unspecified_address_is_not_dialled_unless_told_to() {
    let axon = saying(fine()).await;
    let port = axon.target.port();
    for host in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
        let target = Target::new(host, port, AXON).unwrap();
        let message = format!("Service unavailable at {}/PlainSynapse", target.authority());
        expect(dendrite().call(&target, plain()).await, 503, &message);
    }
    assert_eq!(axon.connections.count(), 0);

    let told = builder().dial_unspecified(true).build();
    let target = Target::new("0.0.0.0", port, AXON).unwrap();
    assert_eq!(told.call(&target, plain()).await.unwrap().synapse.y, Some(6));
}

#[tokio::test]
async fn port_zero_is_unreachable() {
    let target = Target::new("127.0.0.1", 0, AXON).unwrap();
    expect(
        dendrite().call(&target, plain()).await,
        503,
        "Service unavailable at 127.0.0.1:0/PlainSynapse",
    );
}

#[tokio::test]
async fn a_name_without_address_is_422_like_the_reference_but_told_apart() {
    let target = Target::new("no-such-host.invalid", 18301, AXON).unwrap();
    let dendrite =
        builder().timeout(Duration::from_secs(30)).connect_timeout(Duration::from_secs(30)).build();
    let error = expect(
        dendrite.call(&target, plain()).await,
        422,
        "Failed to parse response at no-such-host.invalid:18301/PlainSynapse",
    );
    assert!(matches!(error, CallError::Unresolvable { .. }));
}

#[tokio::test]
async fn a_route_that_is_none_is_refused_before_anything_is_sent() {
    let axon = saying(fine()).await;
    for name in ["", "a/b", "a\r\nb"] {
        let error = expect(
            dendrite().call(&axon.target, untyped(name, "{}")).await,
            422,
            "Failed to parse response",
        );
        assert!(matches!(error, CallError::Target(_)));
    }
    assert_eq!(axon.connections.count(), 0);
}

#[tokio::test]
async fn connecting_has_its_own_limit() {
    // A listener whose queue is full lets further connections wait.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100, "the queue never fills");
    }
    let target = Target::new("127.0.0.1", address.port(), AXON).unwrap();
    let result = dendrite().call(&target, plain()).connect_timeout(Duration::from_millis(50)).await;
    let error = expect(result, 408, "Request timeout after 0.05 seconds");
    assert!(matches!(error, CallError::Timeout { phase: Phase::Connect, .. }));
}

#[tokio::test]
async fn no_answer_in_time_is_408_with_the_seconds() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        wire.closed().await;
    })
    .await;
    let total = Duration::from_millis(400);
    let error = expect(
        dendrite().call(&axon.target, plain()).timeout(total).await,
        408,
        "Request timeout after 0.4 seconds",
    );
    assert!(
        matches!(error, CallError::Timeout { phase: Phase::Total, limit, received: 0 } if limit == total)
    );
    // Given up is hung up.
    axon.closed.reached(1).await;

    let first = Duration::from_millis(20);
    let result = dendrite().call(&axon.target, plain()).first_byte_timeout(first).await;
    let error = expect(result, 408, "Request timeout after 0.02 seconds");
    assert!(matches!(error, CallError::Timeout { phase: Phase::FirstByte, .. }));
}

#[tokio::test]
async fn a_timeout_far_too_short_says_so_as_python_writes_it() {
    let axon = axon(|_, mut wire| async move { wire.closed().await }).await;
    let result = dendrite().call(&axon.target, plain()).timeout(Duration::from_micros(10)).await;
    expect(result, 408, "Request timeout after 1e-05 seconds");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_408_with_what_came() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        wire.write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"x\"").await;
        wire.closed().await;
    })
    .await;
    let result = dendrite().call(&axon.target, plain()).timeout(Duration::from_millis(600)).await;
    let error = expect(result, 408, "Request timeout after 0.6 seconds");
    assert!(
        matches!(error, CallError::Timeout { phase: Phase::Total, received: 4, .. }),
        "{error:?}"
    );

    let result =
        dendrite().call(&axon.target, plain()).idle_timeout(Duration::from_millis(20)).await;
    let error = expect(result, 408, "Request timeout after 0.02 seconds");
    assert!(
        matches!(error, CallError::Timeout { phase: Phase::Idle, received: 4, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_is_not_http_is_400() {
    for answer in
        ["hello there\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"]
    {
        let error = expect_saying(answer, 400, "Client response error: ").await;
        assert!(matches!(error, CallError::Response(_)));
    }
    let bad_chunk = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{\"x\":\r\n";
    let error = expect_saying(bad_chunk, 400, "Client response error: ").await;
    assert!(matches!(error, CallError::Response(_)));
}

#[tokio::test]
async fn a_head_over_the_limit_is_400() {
    let large = json(200, &format!("x: {}\r\n", "a".repeat(70_000)), "{}");
    let many = json(200, &"x: y\r\n".repeat(300), "{}");
    for answer in [large, many] {
        expect_saying(answer, 400, "Client response error: ").await;
    }
}

#[tokio::test]
async fn a_cut_answer_is_400_with_what_came() {
    let length =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"x\": 3";
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"x\":\r\n";
    for (answer, came) in [(length, 7), (chunked, 5)] {
        let error = expect_saying(answer, 400, "Payload error: ").await;
        assert!(
            matches!(error, CallError::Truncated { received, .. } if received == came),
            "{error:?}"
        );

        let axon = axon(move |_, mut wire| async move {
            wire.request().await;
            wire.write(answer).await;
            wire.reset();
        })
        .await;
        let error = expect(call(&axon).await, 400, "Payload error: ");
        assert!(matches!(error, CallError::Truncated { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn no_answer_at_all_is_503() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-ty"] {
        let error = expect_saying(answer, 503, "Service disconnected: ").await;
        assert!(matches!(error, CallError::Disconnected(_)));
    }
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        wire.reset();
    })
    .await;
    expect(call(&axon).await, 503, "Service disconnected: Server disconnected");
    assert_eq!(axon.requests.count(), 1, "what was sent is not sent again");
}

#[tokio::test]
async fn a_refusal_is_what_the_axon_says() {
    for status in [401, 403, 404, 408, 429, 500, 503] {
        let axon = saying(json(status, "", r#"{"message": "why"}"#)).await;
        let error = expect(call(&axon).await, i64::from(status), "why");
        assert!(matches!(error, CallError::Refused(_)));
        assert_eq!(
            (error.is_not_verified(), error.is_blacklisted(), error.is_timeout()),
            (status == 401, status == 403, status == 408)
        );
    }
    let error = expect_saying(json(404, "", r#"{"detail": "Not Found"}"#), 404, "").await;
    assert_eq!(error.status_message(), None);
}

#[tokio::test]
async fn a_status_of_the_handlers_own_is_a_refusal_with_its_message() {
    let headers = "bt_header_axon_status_code: 418\r\nbt_header_axon_status_message: teapot\r\n";
    expect_saying(json(418, headers, r#"{"mode": "set_status"}"#), 418, "teapot").await;
}

#[tokio::test]
async fn success_needs_both_http_and_header() {
    let failed = "bt_header_axon_status_code: 500\r\nbt_header_axon_status_message: hm\r\n";
    expect_saying(json(200, failed, r#"{"x": 3}"#), 500, "hm").await;
    // The reference reports success here.
    expect_saying(json(500, SUCCESS, r#"{"message": "x"}"#), 500, "x").await;
}

#[tokio::test]
async fn an_axon_that_gives_no_status_is_not_a_success_and_not_a_failure() {
    let axon = saying(json(200, "", r#"{"x": 3, "y": 6}"#)).await;
    let answer = call(&axon).await.unwrap();
    assert_eq!(
        (answer.status_code(), answer.is_success(), answer.synapse.y),
        (None, false, Some(6))
    );
    let axon = saying(json(200, "", r#"{"y": 6, "axon": {"status_code": 200}}"#)).await;
    assert!(call(&axon).await.unwrap().is_success());
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let elsewhere = saying(fine()).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("location: http://{}/evil\r\n", elsewhere.target.authority());
        let axon = saying(json(status, &location, "")).await;
        let error = expect(call(&axon).await, i64::from(status), "redirects are not followed");
        assert!(matches!(error, CallError::Refused(_)));
    }
    assert_eq!(elsewhere.connections.count(), 0);
}

#[tokio::test]
async fn what_is_no_answer_is_422() {
    let text = "Attempt to decode JSON with unexpected mimetype: ";
    let plain_json = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    expect_saying(
        plain_json,
        422,
        &format!("Failed to parse response: 200, message='{text}text/plain'"),
    )
    .await;
    let unlabelled = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    expect_saying(unlabelled, 422, &format!("Failed to parse response: 200, message='{text}'"))
        .await;
    let error = expect_saying(
        "HTTP/1.1 500 X\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 2\r\n\r\nno",
        422,
        &format!("Failed to parse response: 500, message='{text}text/plain; charset=utf-8'"),
    )
    .await;
    assert!(matches!(
        error,
        CallError::Unparsable { http_status: 500, source: AnswerError::ContentType { .. } }
    ));
    expect_saying("HTTP/1.1 204 X\r\n\r\n", 422, "Failed to parse response: ").await;

    for body in [
        "",
        "  ",
        "null",
        "[1,2]",
        "3",
        "\"x\"",
        "{not json",
        "{\"x\": \"abc\"}",
        "{\"y\": NaN}",
        "\u{feff}{}",
    ] {
        expect_saying(json(200, SUCCESS, body), 422, "Failed to parse response: ").await;
    }
    expect_saying(json(500, "", "[1]"), 422, "Failed to parse response: ").await;
    let bad_header = "bt_header_axon_status_code: abc\r\n";
    expect_saying(json(200, bad_header, "{}"), 422, "Failed to parse response: ").await;
}

#[tokio::test]
async fn json_by_another_name_is_json() {
    for label in ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"]
    {
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {label}\r\n{SUCCESS}content-length: 8\r\n\r\n{{\"y\": 6}}"
        );
        let axon = saying(answer).await;
        assert_eq!(call(&axon).await.unwrap().synapse.y, Some(6), "{label}");
    }
}

#[tokio::test]
async fn compression_that_was_not_asked_for_is_422() {
    let axon = saying(json(200, "content-encoding: gzip\r\n", "\x1f")).await;
    expect(call(&axon).await, 422, "Failed to parse response: content-encoding \"gzip\"");
    let seen = axon.seen();
    assert_eq!(crate::fake::header(&seen[0], "accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused_by_what_it_claims_or_by_what_comes() {
    let claims = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999999\r\n\r\n";
    let error = expect_saying(claims, 400, "Payload error: ").await;
    assert!(matches!(error, CallError::TooLarge { limit } if limit == 64 << 20));

    let comes = axon(|_, mut wire| async move {
        wire.request().await;
        wire.write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n").await;
        loop {
            wire.write(crate::fake::chunk([b' '; 1000])).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    let result = dendrite().call(&comes.target, plain()).max_answer_bytes(10_000).await;
    assert!(matches!(result, Err(CallError::TooLarge { limit: 10_000 })));
}

#[tokio::test]
async fn what_cannot_be_sent_says_so() {
    let axon = saying(fine()).await;
    let odd = untyped("Odd", r#"{"a b": 1}"#).required(["a b"]);
    assert!(odd.placeholders().len() == 1);
    let error = expect(dendrite().call(&axon.target, odd).await, 422, "Failed to parse response: ");
    assert!(matches!(error, CallError::Ask(_)));
    assert_eq!(axon.connections.count(), 0);
}
