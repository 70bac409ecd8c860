//! Streaming answers.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use schwann_synapse::{
    call_error::{CallError, Phase},
    dendrite::{AnswerHead, CollectText, HookError, Inputs, Lines, StreamHooks},
    python::{Dict, Value},
};
use schwann_testkit::gate;
use tokio::time::timeout;

use crate::fake::{
    SUCCESS, always_saying, axon, chunk, dendrite, fine, json, plain, saying, stream_ask,
    stream_head, untyped,
};

fn whole(chunks: &[&[u8]]) -> Vec<u8> {
    let mut answer = stream_head().into_bytes();
    for bytes in chunks {
        answer.extend(chunk(bytes));
    }
    answer.extend(b"0\r\n\r\n");
    answer
}

#[tokio::test]
async fn pieces_arrive_as_they_are_sent_and_then_the_filled_synapse() {
    let more = gate();
    let axon = axon({
        let more = more.clone();
        move |_, mut wire| {
            let more = more.clone();
            async move {
                wire.request().await;
                wire.write(stream_head()).await;
                for token in ["tok0 ", "tok1 "] {
                    more.pass().await;
                    wire.write(chunk(token)).await;
                }
                more.pass().await;
                wire.write("0\r\n\r\n").await;
            }
        }
    })
    .await;
    let dendrite = dendrite();
    let call =
        dendrite.stream(&axon.target, stream_ask()).hooks(CollectText::into_field("completion"));
    let mut stream = call.await.unwrap();
    for token in ["tok0 ", "tok1 "] {
        more.open();
        assert_eq!(stream.chunk().await.unwrap().as_deref(), Some(token.as_bytes()));
    }
    assert_eq!(stream.received(), 10);
    more.open();
    assert!(stream.chunk().await.unwrap().is_none());
    let answer = stream.finish().await.unwrap();
    assert_eq!(answer.synapse.fields.get("completion"), Some(&Value::from("tok0 tok1 ")));
    assert_eq!(answer.synapse.fields.get("prompt"), Some(&Value::from("go")));
    assert!(answer.is_success() && answer.delimited && answer.dendrite.process_time.is_some());
}

#[tokio::test]
async fn without_hooks_the_synapse_is_as_it_was_asked() {
    let axon = saying(whole(&[b"x"])).await;
    let answer =
        dendrite().stream(&axon.target, stream_ask()).await.unwrap().finish().await.unwrap();
    assert_eq!(answer.synapse, stream_ask());
    assert_eq!(answer.status_message(), Some("Success"));
}

#[tokio::test]
async fn text_never_splits_a_character() {
    let text = "a€😀é\u{fffd}z";
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    let axon = saying(whole(&bytes)).await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    let mut seen = String::new();
    while let Some(text) = stream.text_chunk().await.unwrap() {
        assert!(!text.is_empty());
        seen.push_str(&text);
    }
    assert_eq!(seen, text);
}

#[tokio::test]
async fn a_character_that_never_ends_is_replaced_at_the_end() {
    let axon = saying(whole(&[b"ok", b"\xe2\x82"])).await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    let mut seen = String::new();
    while let Some(text) = stream.text_chunk().await.unwrap() {
        seen.push_str(&text);
    }
    assert_eq!(seen, "ok\u{fffd}");
}

#[tokio::test]
async fn a_cut_stream_is_an_error_with_what_came() {
    for reset in [false, true] {
        let go = gate();
        let axon = axon({
            let go = go.clone();
            move |_, mut wire| {
                let go = go.clone();
                async move {
                    wire.request().await;
                    wire.write(stream_head()).await;
                    wire.write(chunk("tok0")).await;
                    // A reset discards what was not yet read.
                    go.pass().await;
                    if reset {
                        wire.reset();
                    }
                }
            }
        })
        .await;
        let dendrite = dendrite();
        let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
        assert_eq!(stream.chunk().await.unwrap().as_deref(), Some(b"tok0".as_slice()));
        go.open();
        let error = stream.chunk().await.expect_err("ended as if whole");
        assert!(matches!(error, CallError::Truncated { received: 4, .. }), "{error:?}");
        assert_eq!(error.status_code(), 400);
        assert!(error.status_message().unwrap().starts_with("Payload error: "));
        assert!(stream.chunk().await.unwrap().is_none(), "nothing follows");
        let error = stream.finish().await.expect_err("a cut stream has no answer");
        assert!(matches!(error, CallError::Broken { received: 4 }));
    }
}

#[tokio::test]
async fn finishing_early_reads_the_rest_and_notices_a_cut() {
    let mut answer = stream_head().into_bytes();
    answer.extend(chunk("tok0"));
    let axon = saying(answer).await;
    let dendrite = dendrite();
    let stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    assert!(matches!(stream.finish().await, Err(CallError::Truncated { .. })));
}

#[tokio::test]
async fn a_refusal_is_an_error_and_never_tokens() {
    let axon = saying(json(401, "", r#"{"message": "Not Verified with error: x"}"#)).await;
    let error =
        dendrite().stream(&axon.target, stream_ask()).await.expect_err("a stream of an error");
    assert_eq!(
        (error.status_code(), error.status_message().as_deref()),
        (401, Some("Not Verified with error: x"))
    );

    let failed = stream_head().replace("status_code: 200", "status_code: 500");
    let axon = saying([failed.as_bytes(), &chunk("tok0"), b"0\r\n\r\n"].concat()).await;
    let error =
        dendrite().stream(&axon.target, stream_ask()).await.expect_err("a stream of an error");
    assert_eq!(error.status_code(), 500);
}

#[tokio::test]
async fn a_stream_that_stands_still_ends_by_its_own_limit() {
    let axon = axon(|_, mut wire| async move {
        wire.request().await;
        wire.write(stream_head()).await;
        wire.write(chunk("tok0")).await;
        wire.closed().await;
    })
    .await;
    let dendrite = dendrite();
    for (total, idle, phase) in [(400, 20, Phase::Idle), (50, 10_000, Phase::Total)] {
        let call = dendrite
            .stream(&axon.target, stream_ask())
            .timeout(Duration::from_millis(total))
            .idle_timeout(Duration::from_millis(idle));
        let mut stream = call.await.unwrap();
        let error = loop {
            match stream.chunk().await {
                Ok(piece) => assert_eq!(piece.as_deref(), Some(b"tok0".as_slice())),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, CallError::Timeout { phase: which, received: 4, .. } if which == phase),
            "{error:?}"
        );
    }
    axon.closed.reached(2).await;
}

#[tokio::test]
async fn a_piece_is_not_lost_with_a_future_that_was_dropped() {
    let more = gate();
    let axon = axon({
        let more = more.clone();
        move |_, mut wire| {
            let more = more.clone();
            async move {
                wire.request().await;
                wire.write(stream_head()).await;
                for n in 0..200_u8 {
                    if n % 10 == 0 {
                        more.pass().await;
                    }
                    wire.write(chunk([n])).await;
                }
                wire.write("0\r\n\r\n").await;
            }
        }
    })
    .await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    let (mut seen, mut dropped) = (Vec::new(), 0);
    loop {
        match timeout(Duration::ZERO, stream.chunk()).await {
            Err(_) => {
                dropped += 1;
                more.open();
                tokio::task::yield_now().await;
            }
            Ok(Ok(Some(piece))) => seen.extend(piece),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{error:?}"),
        }
    }
    assert!(dropped > 0, "nothing was ever dropped");
    assert_eq!(seen, (0..200).collect::<Vec<u8>>());
}

#[tokio::test]
async fn hooks_make_the_pieces_and_the_fields() {
    struct Upper(usize);
    impl StreamHooks for Upper {
        fn process(
            &mut self,
            arrived: Bytes,
            pieces: &mut VecDeque<Bytes>,
        ) -> Result<(), HookError> {
            self.0 += arrived.len();
            pieces.push_back(arrived.to_ascii_uppercase().into());
            Ok(())
        }
        fn end(&mut self, pieces: &mut VecDeque<Bytes>) -> Result<(), HookError> {
            pieces.push_back(Bytes::from_static(b"!"));
            Ok(())
        }
        fn extract(&mut self, head: &AnswerHead<'_>) -> Result<Dict, HookError> {
            assert_eq!((head.status(), head.header("timeout")), (200, Some(b"12.0".as_slice())));
            assert!(
                head.raw_headers().any(|(name, value)| (name, value) == ("name", b"StreamSynapse"))
            );
            Ok(Dict::from_iter([("length".to_owned(), Value::from(i64::try_from(self.0)?))]))
        }
    }
    let axon = saying(whole(&[b"ab", b"c"])).await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).hooks(Upper(0)).await.unwrap();
    let mut seen = Vec::new();
    while let Some(piece) = stream.chunk().await.unwrap() {
        seen.extend(piece);
    }
    assert_eq!(seen, b"ABC!");
    assert_eq!(stream.finish().await.unwrap().synapse.fields.get("length"), Some(&Value::from(3)));
}

#[tokio::test]
async fn a_hook_that_fails_ends_the_stream() {
    struct Bad;
    impl StreamHooks for Bad {
        fn process(&mut self, _: Bytes, _: &mut VecDeque<Bytes>) -> Result<(), HookError> {
            Err("no token".into())
        }
    }
    let axon = saying(whole(&[b"ab"])).await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).hooks(Bad).await.unwrap();
    let error = stream.chunk().await.expect_err("the hook failed");
    assert_eq!(error.status_message().as_deref(), Some("Failed to parse response: no token"));
    assert!(stream.finish().await.is_err());
}

#[tokio::test]
async fn lines_come_whole() {
    let axon = saying(whole(&[b"data: 1\nda", b"ta: 2\n\nrest"])).await;
    let dendrite = dendrite();
    let mut stream =
        dendrite.stream(&axon.target, stream_ask()).hooks(Lines::default()).await.unwrap();
    let mut seen = Vec::new();
    while let Some(piece) = stream.text_chunk().await.unwrap() {
        seen.push(piece);
    }
    assert_eq!(seen, ["data: 1\n", "data: 2\n", "\n", "rest"]);
}

#[tokio::test]
async fn a_second_end_harms_nobody() {
    let stream = [whole(&[b"tok0"]), b"0\r\n\r\n".to_vec()].concat();
    let axon = axon(move |_, mut wire| {
        let stream = stream.clone();
        async move {
            while let Some(request) = wire.request().await {
                if request.starts_with("POST /StreamSynapse") {
                    wire.write(&stream).await;
                } else {
                    wire.write(fine()).await;
                }
            }
        }
    })
    .await;
    let dendrite = dendrite();
    for _ in 0..20 {
        let answer =
            dendrite.stream(&axon.target, stream_ask()).await.unwrap().finish().await.unwrap();
        assert!(answer.is_success());
        assert_eq!(dendrite.call(&axon.target, plain()).await.unwrap().synapse.y, Some(6));
    }
    // The calls share one connection; no stream's connection carries anything after it.
    assert_eq!(axon.connections.count(), 21);
}

#[tokio::test]
async fn a_stream_that_ends_with_its_connection_says_that_nobody_can_tell() {
    let head = format!("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n{SUCCESS}\r\n");
    let axon = saying(format!("{head}tok0")).await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    assert_eq!(stream.text_chunk().await.unwrap().as_deref(), Some("tok0"));
    assert!(!stream.finish().await.unwrap().delimited);
}

#[tokio::test]
async fn an_empty_stream_is_a_stream() {
    let axon = always_saying(whole(&[])).await;
    let dendrite = dendrite();
    let mut stream = dendrite.stream(&axon.target, stream_ask()).await.unwrap();
    assert!(stream.chunk().await.unwrap().is_none());
    assert!(stream.finish().await.unwrap().is_success());
}

#[tokio::test]
async fn extracted_inputs_do_not_replace_what_was_asked() {
    struct Swap;
    impl StreamHooks for Swap {
        fn extract(&mut self, _: &AnswerHead<'_>) -> Result<Dict, HookError> {
            Ok(Dict::from_iter([("q".to_owned(), Value::from("theirs"))]))
        }
    }
    let axon = always_saying(whole(&[])).await;
    let ask = || untyped("StreamSynapse", r#"{"q": "ours"}"#).required(["q"]);
    let dendrite = dendrite();
    let answer =
        dendrite.stream(&axon.target, ask()).hooks(Swap).await.unwrap().finish().await.unwrap();
    assert_eq!(
        (answer.synapse.fields.get("q"), answer.altered),
        (Some(&Value::from("ours")), vec!["q".to_owned()])
    );
    let call = dendrite.stream(&axon.target, ask()).hooks(Swap).inputs(Inputs::Answered);
    let answer = call.await.unwrap().finish().await.unwrap();
    assert_eq!(answer.synapse.fields.get("q"), Some(&Value::from("theirs")));
}
