//! Objects over a WebSocket, at the wire.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use schwann::{Call, Error, Finished, Handler, Server, serve_connection};
use schwann_etl::{EtlServer, Object, Target, transform};
use schwann_testkit::{gate, probe};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpStream,
    sync::oneshot,
};

use crate::client::{Client, HANDSHAKE, PATIENCE, frame, header};

fn server(transform: impl Handler) -> EtlServer {
    let target = Target::parse("http://127.0.0.1:9/v1/etl/_object/etl-x/s3cr3t").unwrap();
    EtlServer::new(target, transform).unwrap()
}

/// A connection with 64 KiB of room each way.
async fn connect(transform: impl Handler) -> Client<DuplexStream> {
    let (ours, theirs) = duplex(64 * 1024);
    let server = server(transform);
    tokio::spawn(async move { serve_connection(&EtlServer::http(), theirs, server).await });
    Client::connect(ours).await
}

fn upper() -> impl Handler {
    transform::buffered(|_, data: Bytes| Ok(data.to_ascii_uppercase()))
}

/// Sends each piece back as it comes.
async fn echo(call: Call) -> Result<Finished, Error> {
    let (_, mut body, reply) = call.into_parts();
    let mut out = reply.start(StatusCode::OK);
    while let Some(piece) = body.chunk().await? {
        out.write(piece).await?;
    }
    Ok(out.finish())
}

/// What `args` says: fail at once, after a piece, or not.
async fn as_told(call: Call) -> Result<Finished, Error> {
    let (head, body, reply) = call.into_parts();
    let object = Object::of(&head).clone();
    match object.etl_args() {
        "fail" => Err(Error::server("wsboom")),
        "break" => {
            let mut out = reply.start(StatusCode::OK);
            out.write("half").await?;
            Err(Error::server("wsboom"))
        }
        "deaf" => Ok(reply.send(StatusCode::OK, "done")),
        "refuse" => Ok(reply.send(StatusCode::IM_A_TEAPOT, "no")),
        args => {
            let length = body.collect().await?.len();
            Ok(reply.send(StatusCode::OK, format!("{} {args} {length}", object.path())))
        }
    }
}

/// A destination that keeps what comes whole, and answers with `status`.
async fn destination(status: StatusCode) -> (SocketAddr, Arc<Mutex<Vec<(String, Bytes)>>>) {
    let stored = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&stored);
    let handler = move |call: Call| {
        let kept = Arc::clone(&kept);
        async move {
            let (head, body, reply) = call.into_parts();
            let body = body.collect().await?;
            kept.lock().unwrap().push((head.uri.to_string(), body));
            let said = if status == StatusCode::OK { "" } else { "no room" };
            Ok::<Finished, Error>(reply.send(status, said))
        }
    };
    let listener = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::default().run(listener, handler, std::future::pending()));
    (address, stored)
}

fn put_to(at: SocketAddr, path: &str, more: &str) -> String {
    format!("{{\"path\":\"o\",\"pipeline\":\"http://{at}/ais%2F@%23%2Fdst%2F{path}?owt=3\"{more}}}")
}

#[tokio::test]
async fn replies_come_in_the_order_of_the_objects() {
    let mut client = connect(upper()).await;
    let mut sent = Vec::new();
    for n in 0..50 {
        sent.extend(frame(0x82, b"{\"path\":\"o\"}"));
        sent.extend(frame(0x82, format!("object {n}").as_bytes()));
    }
    client.raw(&sent).await;
    for n in 0..50 {
        assert_eq!(client.content().await, format!("OBJECT {n}").as_bytes());
    }
}

#[tokio::test]
async fn objects_may_be_empty_in_fragments_and_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    std::fs::write(&file, b"from a file").unwrap();
    for streamed in [false, true] {
        let mut client = match streamed {
            true => connect(echo).await,
            false => connect(transform::buffered(|_, data: Bytes| Ok(data))).await,
        };
        client.control("{}").await;
        client.object(b"").await;
        assert_eq!(client.content().await, b"");
        let fqn = file.display().to_string().replace(' ', "%20");
        client.control(&format!("{{\"path\":\"o\",\"fqn\":\"{fqn}\"}}")).await;
        assert_eq!(client.content().await, b"from a file");
        // The name of the file is not the next object's.
        client.control("{\"path\":\"p\"}").await;
        client.frame(0x02, b"in ").await;
        client.frame(0x00, b"").await;
        client.frame(0x89, b"ping").await;
        client.frame(0x00, b"three ").await;
        client.frame(0x80, b"parts").await;
        // The pong comes between or after the frames of the reply.
        let (mut pongs, mut content, mut whole) = (0, Vec::new(), false);
        while !whole || pongs == 0 {
            let (first, payload) = client.next().await.unwrap();
            match first & 0x0f {
                0 | 2 => {
                    assert!(!whole);
                    content.extend(payload);
                    whole = first & 0x80 != 0;
                }
                10 => {
                    assert_eq!(payload, b"ping");
                    pongs += 1;
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!((content.as_slice(), pongs), (&b"in three parts"[..], 1));
    }
}

#[tokio::test]
async fn the_result_streams_while_the_object_still_comes() {
    let mut client = connect(echo).await;
    client.control("{}").await;
    client.raw(&header(0x82, 8)).await;
    client.raw(&[0, 0, 0, 0]).await;
    client.raw(b"half").await;
    assert_eq!(client.next().await.unwrap(), (0x02, b"half".to_vec()));
    client.raw(b"rest").await;
    assert_eq!(client.next().await.unwrap(), (0x00, b"rest".to_vec()));
    assert_eq!(client.next().await.unwrap(), (0x80, Vec::new()));
}

#[tokio::test]
async fn megabytes_go_through_both_ways_at_once() {
    let (ours, theirs) = duplex(64 * 1024);
    let etl = server(echo);
    tokio::spawn(async move { serve_connection(&EtlServer::http(), theirs, etl).await });
    let client = Client::connect(ours).await;
    let object: Vec<u8> = (0..8_000_000_u32).map(|n| (n / 7) as u8).collect();
    let (mut read, mut write) = {
        let (io, seen) = client.into_parts();
        assert!(seen.is_empty());
        tokio::io::split(io)
    };
    let sent = [frame(0x82, b"{}"), frame(0x82, &object)].concat();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut reading = Client::of(tokio::io::join(&mut read, tokio::io::sink()));
    assert!(reading.content().await == object, "arrived altered");
    writing.await.unwrap();
}

#[tokio::test]
async fn a_delivered_object_is_answered_with_its_length_and_leaves_nothing_behind() {
    let (at, stored) = destination(StatusCode::OK).await;
    let mut client = connect(upper()).await;
    client.control(&put_to(at, "first", ",\"etl_args\":\"aa\"")).await;
    client.object(b"to-dest").await;
    assert_eq!(client.text().await, "7");
    // No pipeline and no arguments: those of the object before are not this one's.
    client.control("{\"path\":\"o2\"}").await;
    client.object(b"second").await;
    assert_eq!(client.content().await, b"SECOND");
    let stored = stored.lock().unwrap();
    let [(uri, body)] = stored.as_slice() else { panic!("{stored:?}") };
    assert_eq!(uri, "/v1/etl/_object/etl-x/s3cr3t/ais%2F@%23%2Fdst%2Ffirst?owt=3&etl_args=aa");
    assert_eq!(body, "TO-DEST");
}

#[tokio::test]
async fn a_large_object_is_delivered_as_it_streams() {
    let (at, stored) = destination(StatusCode::OK).await;
    let mut client = connect(echo).await;
    client.control(&put_to(at, "large", "")).await;
    let object = vec![7; 3_000_000];
    client.object(&object).await;
    assert_eq!(client.text().await, "3000000");
    assert!(stored.lock().unwrap()[0].1 == object);
}

#[tokio::test]
async fn a_failure_is_a_text_and_the_connection_goes_on() {
    let (at, _) = destination(StatusCode::INTERNAL_SERVER_ERROR).await;
    let mut client = connect(as_told).await;
    let refused = put_to(at, "x", "");
    for (control, expected) in [
        ("{\"etl_args\":\"fail\"}", "Transform error: wsboom"),
        ("{\"etl_args\":\"refuse\"}", "Transform error: the transform answered 418 I'm a teapot"),
        (
            "{\"pipeline\":\"http://a,,http://b\"}",
            "Invalid pipeline header: Pipeline header contains empty entry",
        ),
        (refused.as_str(), "0"),
    ] {
        // Its bytes are not taken for the next control message.
        client.control(control).await;
        client.frame(0x02, b"some").await;
        client.frame(0x80, &[0; 40_000]).await;
        assert_eq!(client.text().await, expected);
        client.control("{\"path\":\"/dir/obj\",\"etl_args\":\" {1} \"}").await;
        client.object(b"abc").await;
        assert_eq!(client.content().await, b"dir/obj {1} 3");
    }
}

#[tokio::test]
async fn an_object_that_its_transform_did_not_read_is_passed_over() {
    let mut client = connect(as_told).await;
    for _ in 0..3 {
        client.control("{\"etl_args\":\"deaf\"}").await;
        client.frame(0x02, &[1; 10]).await;
        client.frame(0x80, &[1; 300_000]).await;
        assert_eq!(client.content().await, b"done");
    }
}

#[tokio::test]
async fn a_result_that_breaks_off_never_looks_whole() {
    let mut client = connect(as_told).await;
    client.control("{\"etl_args\":\"break\"}").await;
    client.object(b"x").await;
    assert_eq!(client.next().await.unwrap(), (0x02, b"half".to_vec()));
    assert_eq!(client.closed().await, 1011);
}

#[tokio::test]
async fn what_is_no_request_closes_in_order() {
    let not_there = "{\"fqn\":\"/not/there\"}";
    for (control, object, code) in [
        (frame(0x82, not_there.as_bytes()), None, 1000),
        (frame(0x82, b"{\"path\":"), Some(frame(0x82, b"x")), 1000),
        (frame(0x82, b"[]"), Some(frame(0x82, b"x")), 1000),
        (frame(0x82, b"{\"path\":7}"), Some(frame(0x82, b"x")), 1000),
        (frame(0x82, b""), Some(frame(0x82, b"x")), 1000),
        (frame(0x81, b"{\"path\":\"o\"}"), Some(frame(0x82, b"x")), 1000),
        (frame(0x81, b"\xff"), None, 1007),
        (frame(0x82, b"{}"), Some(frame(0x81, b"x")), 1003),
        (frame(0x82, &[b' '; (1 << 20) + 1]), None, 1009),
    ] {
        let mut client = connect(upper()).await;
        let sent = [control, object.unwrap_or_default()].concat();
        client.write_what_is_taken(&sent).await;
        assert_eq!(
            client.closed().await,
            code,
            "{}",
            String::from_utf8_lossy(&sent[..40.min(sent.len())])
        );
    }
}

#[tokio::test]
async fn frames_that_break_the_protocol_close_with_its_code() {
    let begun = frame(0x02, b"some");
    for (attack, code) in [
        (vec![0x82, 0x01, b'x'], 1002),
        (frame(0xc2, b"x"), 1002),
        (frame(0x83, b"x"), 1002),
        (frame(0x8b, b"x"), 1002),
        (frame(0x80, b"x"), 1002),
        (frame(0x09, b"x"), 1002),
        (frame(0x89, &[0; 126]), 1002),
        (frame(0x88, b"\x00"), 1002),
        (frame(0x88, b"\x03\xed"), 1002),
        (frame(0x88, b"\x03\xe8\xff"), 1007),
        ([begun.clone(), frame(0x82, b"x")].concat(), 1002),
        ([frame(0x82, b"{}"), begun.clone(), frame(0x82, b"x")].concat(), 1002),
        ([frame(0x82, b"{}"), header(0x82, 1 << 63)].concat(), 1002),
        ([frame(0x82, b"{}"), header(0x82, (16 << 30) + 1), vec![0; 4]].concat(), 1009),
        ([frame(0x82, b"{}"), begun, header(0x80, 16 << 30), vec![0; 4]].concat(), 1009),
        (vec![0x82, 0xfe, 0x00, 0x01, 0, 0, 0, 0, b'x'], 1002),
    ] {
        let dropped = probe();
        let guard = dropped.clone();
        let mut client = connect(move |call: Call| {
            let guard = guard.on_drop();
            async move {
                let done = echo(call).await;
                drop(guard);
                done
            }
        })
        .await;
        client.raw(&attack).await;
        let mut next = client.next().await.unwrap();
        while next.0 & 0x0f < 8 {
            assert_eq!(next.0 & 0x80, 0, "{attack:?} was taken for whole");
            next = client.next().await.unwrap();
        }
        assert_eq!(next.0, 0x88);
        assert_eq!(u16::from_be_bytes([next.1[0], next.1[1]]), code, "{attack:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused_with_the_reason() {
    let changed = |from: &str, to: &str| HANDSHAKE.replace(from, to);
    for (asked, status) in [
        ("GET /ws HTTP/1.1\r\nhost: t\r\n\r\n".to_owned(), 426),
        (changed("upgrade: websocket", "upgrade: h2c"), 426),
        (changed("keep-alive, Upgrade", "keep-alive"), 426),
        (changed("version: 13", "version: 8"), 426),
        (changed("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
        (changed("dGhlIHNhbXBsZSBub25jZQ==", "not base64"), 400),
        (changed("sec-websocket-key", "x-key"), 400),
        (changed("host: t", "host: t\r\ncontent-length: 2") + "hi", 426),
    ] {
        let (ours, theirs) = duplex(4096);
        let etl = server(upper());
        tokio::spawn(async move { serve_connection(&EtlServer::http(), theirs, etl).await });
        let mut client = Client::of(ours);
        client.raw(asked.as_bytes()).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{asked}: {head}");
        if status == 426 && !asked.contains("content-length") {
            assert!(head.contains("sec-websocket-version: 13\r\n"), "{head}");
        }
    }
}

#[tokio::test]
async fn pings_are_answered_while_the_transform_works() {
    let (entered, gate) = (probe(), gate());
    let handler = {
        let (entered, gate) = (entered.clone(), gate.clone());
        move |call: Call| {
            let (entered, gate) = (entered.clone(), gate.clone());
            async move {
                entered.hit();
                gate.pass().await;
                let (_, _, reply) = call.into_parts();
                Ok::<Finished, Error>(reply.send(StatusCode::OK, "late"))
            }
        }
    };
    let mut client = connect(handler).await;
    client.frame(0x89, b"idle").await;
    assert_eq!(client.next().await.unwrap(), (0x8a, b"idle".to_vec()));
    client.control("{}").await;
    client.object(b"x").await;
    entered.reached(1).await;
    client.frame(0x89, b"busy").await;
    assert_eq!(client.next().await.unwrap(), (0x8a, b"busy".to_vec()));
    // A close comes after what was asked before it.
    client.frame(0x88, b"\x0f\xa0bye").await;
    gate.open();
    assert_eq!(client.content().await, b"late");
    assert_eq!(client.closed().await, 4000);
}

#[tokio::test]
async fn a_close_within_an_object_ends_it() {
    let (at, stored) = destination(StatusCode::OK).await;
    let mut client = connect(echo).await;
    client.control(&put_to(at, "half", "")).await;
    client.frame(0x02, b"half").await;
    client.frame(0x88, b"").await;
    assert_eq!(client.closed().await, 1000);
    assert!(stored.lock().unwrap().is_empty(), "half an object was delivered");
}

#[tokio::test]
async fn who_leaves_takes_the_transform_along_and_delivers_nothing() {
    for whole in [false, true] {
        let (at, stored) = destination(StatusCode::OK).await;
        let (entered, dropped) = (probe(), probe());
        let handler = {
            let (entered, dropped) = (entered.clone(), dropped.clone());
            move |call: Call| {
                let (entered, guard) = (entered.clone(), dropped.on_drop());
                async move {
                    let _guard = guard;
                    let (_, mut body, reply) = call.into_parts();
                    let mut out = reply.start(StatusCode::OK);
                    out.write("begun").await?;
                    entered.hit();
                    while let Some(piece) = body.chunk().await? {
                        out.write(piece).await?;
                    }
                    std::future::pending::<()>().await;
                    Ok::<Finished, Error>(out.finish())
                }
            }
        };
        let mut client = connect(handler).await;
        client.control(&put_to(at, "o", "")).await;
        client.frame(if whole { 0x82 } else { 0x02 }, b"all there is").await;
        entered.reached(1).await;
        drop(client);
        dropped.reached(1).await;
        assert!(stored.lock().unwrap().is_empty(), "delivered without its end");
    }
}

#[tokio::test]
async fn a_transform_that_does_not_read_holds_its_client_back() {
    let entered = probe();
    let seen = entered.clone();
    let mut client = connect(move |call: Call| {
        let seen = seen.clone();
        async move {
            seen.hit();
            let _call = call;
            std::future::pending::<Result<Finished, Error>>().await
        }
    })
    .await;
    client.control("{}").await;
    let taken = client.write_what_is_taken(&frame(0x82, &vec![0; 4 << 20])).await;
    entered.reached(1).await;
    // What the pipe holds, what is read ahead, and a piece or two on their way.
    assert!(taken < 512 * 1024, "{taken} bytes were taken and not read");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_the_transform_back() {
    let written = probe();
    let seen = written.clone();
    let mut client = connect(move |call: Call| {
        let seen = seen.clone();
        async move {
            let (_, _, reply) = call.into_parts();
            let mut out = reply.start(StatusCode::OK);
            for _ in 0..1000 {
                out.write(Bytes::from_static(&[0; 32 * 1024])).await?;
                seen.hit();
            }
            Ok(out.finish())
        }
    })
    .await;
    client.control("{}").await;
    client.object(b"x").await;
    written.reached(3).await;
    // Time goes on only when everything that can happen has happened.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(written.count() < 12, "{} pieces of 32 KiB for nobody", written.count());
}

#[tokio::test(start_paused = true)]
async fn who_owes_bytes_has_60_seconds_and_who_owes_none_has_all_time() {
    let mut client = connect(echo).await;
    tokio::time::sleep(Duration::from_secs(100_000)).await;
    client.control("{}").await;
    client.object(b"x").await;
    assert_eq!(client.content().await, b"x");
    client.control("{}").await;
    client.frame(0x02, b"some").await;
    assert_eq!(client.next().await.unwrap(), (0x02, b"some".to_vec()));
    let before = tokio::time::Instant::now();
    assert_eq!(client.closed().await, 1008);
    assert_eq!(before.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn a_server_that_stops_finishes_the_object_and_says_that_it_goes() {
    let (entered, gate) = (probe(), gate());
    let handler = {
        let (entered, gate) = (entered.clone(), gate.clone());
        move |call: Call| {
            let (entered, gate) = (entered.clone(), gate.clone());
            async move {
                entered.hit();
                gate.pass().await;
                echo(call).await
            }
        }
    };
    let listener = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(EtlServer::http().run(listener, server(handler), async move {
        let _ = stopped.await;
    }));
    let mut idle = Client::connect(TcpStream::connect(address).await.unwrap()).await;
    let mut busy = Client::connect(TcpStream::connect(address).await.unwrap()).await;
    busy.control("{}").await;
    busy.object(b"in flight").await;
    entered.reached(1).await;
    stop.send(()).unwrap();
    assert_eq!(idle.closed().await, 1001);
    gate.open();
    assert_eq!(busy.content().await, b"in flight");
    assert_eq!(busy.closed().await, 1001);
    drop((idle, busy));
    let drained = tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    assert_eq!(drained.dropped, 0);
}

#[tokio::test]
async fn a_connection_that_failed_harms_no_other() {
    let listener = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(EtlServer::http().run(listener, server(upper()), std::future::pending()));
    let mut good = Client::connect(TcpStream::connect(address).await.unwrap()).await;
    let mut bad = TcpStream::connect(address).await.unwrap();
    bad.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    bad.write_all(&[0xff; 100]).await.unwrap();
    let mut rest = Vec::new();
    bad.read_to_end(&mut rest).await.unwrap();
    good.control("{}").await;
    good.object(b"still here").await;
    assert_eq!(good.content().await, b"STILL HERE");
}
