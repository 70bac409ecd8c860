//! Paths, methods, and requests whose length is a matter of opinion.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use crate::world::{
    BODY, BtAuth, Case, MALFORMED, Must, Request, Running, UNVERIFIED, V10, case, check, connect,
    impatient, play, read, send,
};

const NOT_FOUND: Must = Must::Refuse(&[404]);

/// A request for another target, signed as ever: v10 does not sign it.
fn target(name: &str, target: &'static str, must: Must) -> Case {
    case(name, "a way around the routes", must, move |world| world.good().target(target))
}

fn method(name: &'static str, must: Must) -> Case {
    case(format!("method {name}"), "a method that means something else", must, move |world| {
        world.good().method(name)
    })
}

/// A request framed in this way; every one of its answers must be among `statuses`, and only as many may be served.
fn framed(
    name: &str,
    tries: &str,
    served: usize,
    frame: impl Fn(&Request, &Request) -> Vec<u8> + 'static,
) -> Case {
    play(name, tries, move |world| {
        let (first, second) = (world.good(), world.good());
        let before = world.seen.runs();
        let answer = send(world.axon.at, &frame(&first, &second));
        let ran = world.seen.runs() - before;
        let ok = answer.statuses().iter().filter(|status| **status == 200).count();
        let text = answer.text();
        check(ran == served && ok == served, format!("{ran} ran, {ok} were told so: {text}"))?;
        check(!text.contains("and then nothing"), format!("left hanging: {text}"))
    })
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

fn length() -> String {
    format!("content-length: {}\r\n", BODY.len())
}

/// Sends these bytes and then one more now and then, until the axon has had enough. Tells what it answers first.
fn trickle(axon: &Running, begin: &[u8]) -> Result<String, String> {
    let mut stream = connect(axon.at);
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    stream.write_all(begin).unwrap();
    let begun = Instant::now();
    let mut answer = [0; 64];
    while begun.elapsed() < Duration::from_secs(10) {
        let sent = stream.write_all(b"x");
        match stream.read(&mut answer) {
            Ok(n) => return Ok(String::from_utf8_lossy(&answer[..n]).into_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return Ok(String::new()),
        }
        if sent.is_err() {
            return Ok(String::new());
        }
    }
    Err("kept waiting".into())
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        target("no path", "/", NOT_FOUND),
        target("unknown route", "/Nothing", NOT_FOUND),
        target("name in lower case", "/echo", NOT_FOUND),
        target("two slashes", "//Echo", NOT_FOUND),
        target("slash at the end", "/Echo/", NOT_FOUND),
        target("more segments", "/Echo/extra", NOT_FOUND),
        target("dots", "/x/../Echo", NOT_FOUND),
        target("a dot", "/./Echo", NOT_FOUND),
        target("encoded slash", "/Echo%2f", NOT_FOUND),
        target("encoded slash before", "/%2fEcho", NOT_FOUND),
        target("encoded twice", "/%2545cho", NOT_FOUND),
        target("encoded NUL", "/Echo%00", NOT_FOUND),
        target("encoded newline", "/Echo%0d%0aset-cookie:x", NOT_FOUND),
        target("half an encoding", "/Echo%", NOT_FOUND),
        target("encoded bytes that are no text", "/Echo%ff", NOT_FOUND),
        target("a parameter", "/Echo;x=1", NOT_FOUND),
        target("a fragment", "/Echo#x", Must::Serve),
        target("a backslash", "/\\Echo", Must::Refuse(&[400, 404])),
        target("documentation", "/docs", NOT_FOUND),
        target("schema", "/openapi.json", NOT_FOUND),
        target("metrics", "/metrics", NOT_FOUND),
        target("asterisk", "*", Must::Refuse(&[400, 404])),
        target("encoded name", "/Ec%68o", Must::Serve),
        target("a query", "/Echo?x=9&name=Other", Must::Serve),
        // RFC 9112 §3.2.2: a server must take it; the reference answers 404.
        target("absolute form", "http://elsewhere/Echo", Must::Serve),
        target("absolute form of another scheme", "ftp://elsewhere/Nothing", NOT_FOUND),
        target("no slash", "Echo", Must::Refuse(&[400, 404])),
        method("GET", Must::Serve),
        method("PUT", Must::Refuse(&[405])),
        method("DELETE", Must::Refuse(&[405])),
        method("PATCH", Must::Refuse(&[405])),
        method("OPTIONS", Must::Refuse(&[405])),
        method("TRACE", Must::Refuse(&[405])),
        method("post", Must::Refuse(&[405])),
        method("POSTPOST", Must::Refuse(&[405])),
        method("P\u{d6}ST", Must::Refuse(&[400])),
        play("HEAD", "an answer without a body", |world| {
            world.expect(Must::Refuse(&[405]), &world.good().method("HEAD"))
        }),
        play("CONNECT", "to be a proxy", |world| {
            let request = world.good().method("CONNECT").target("127.0.0.1:22");
            world.expect(Must::Refuse(&[400, 404, 405]), &request)
        }),
        case("upgrade to HTTP/2", "h2c by upgrade", Must::Serve, |world| {
            world.good().add("upgrade", "h2c").add("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA")
        }),
        case("upgrade to a websocket", "another protocol", Must::Serve, |world| {
            world.good().add("upgrade", "websocket").add("sec-websocket-key", "AAAA")
        }),
        case("host twice", "two hosts", MALFORMED, |world| world.good().add("host", "other")),
        case("host of garbage", "a host that is none", Must::Serve, |world| {
            world.good().set("host", "a b@c\\d:99999")
        }),
        case("no host", "HTTP/1.1 without a host", MALFORMED, |world| world.good().without("host")),
        play("X-Forwarded-For", "to choose one's own address (W16)", |world| {
            let forged = world
                .good()
                .add("x-forwarded-for", "203.0.113.9")
                .add("forwarded", "for=203.0.113.9");
            world.expect(Must::Serve, &forged.add("x-real-ip", "203.0.113.9"))?;
            let (caller, _) = world.seen.last();
            check(caller.ip.is_loopback() && caller.port != 0, format!("{}", caller.ip))
        }),
        framed("chunked", "a body in chunks is a body", 1, |first, _| {
            first.framed("connection: close\r\ntransfer-encoding: chunked\r\n", chunked(BODY))
        }),
        framed("chunked by a thousand", "one byte at a time", 1, |first, _| {
            let body: String = BODY.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect();
            let lines = "connection: close\r\ntransfer-encoding: chunked\r\n";
            first.framed(lines, format!("{body}0\r\n\r\n"))
        }),
        // RFC 9112 §6.3: taken by its chunks, and then the connection is closed, so that what follows is nobody's request.
        framed(
            "length and chunks",
            "two lengths, of which proxies choose another",
            1,
            |first, second| {
                let lines = format!("{}transfer-encoding: chunked\r\n", length());
                [first.framed(&lines, chunked(BODY)), second.bytes()].concat()
            },
        ),
        framed("chunks and length", "the same, the other way round", 1, |first, second| {
            let lines = format!("transfer-encoding: chunked\r\n{}", length());
            [first.framed(&lines, chunked(BODY)), second.bytes()].concat()
        }),
        framed("a request inside of a chunked body", "CL.TE smuggling", 0, |first, second| {
            let inner = [b"0\r\n\r\n".to_vec(), second.bytes()].concat();
            let lines =
                format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", inner.len());
            first.framed(&lines, inner)
        }),
        framed("two lengths", "the first or the last", 0, |first, second| {
            let lines = format!("{}content-length: 5\r\n", length());
            [first.framed(&lines, BODY), second.bytes()].concat()
        }),
        framed("a list of lengths", "one header, two numbers", 0, |first, second| {
            let lines = format!("content-length: {}, 5\r\n", BODY.len());
            [first.framed(&lines, BODY), second.bytes()].concat()
        }),
        framed("length with a plus", "a number that some parsers take", 0, |first, second| {
            let lines = format!("content-length: +{}\r\n", BODY.len());
            [first.framed(&lines, BODY), second.bytes()].concat()
        }),
        framed("negative length", "a number below zero", 0, |first, second| {
            [first.framed("content-length: -1\r\n", BODY), second.bytes()].concat()
        }),
        framed("length of 2^64 + 17", "a number that wraps", 0, |first, second| {
            let lines = "content-length: 18446744073709551633\r\n";
            [first.framed(lines, BODY), second.bytes()].concat()
        }),
        framed("length in hexadecimal", "another base", 0, |first, second| {
            [first.framed("content-length: 0x11\r\n", BODY), second.bytes()].concat()
        }),
        framed("another transfer coding", "chunked, but not last", 0, |first, second| {
            let lines = "transfer-encoding: chunked, gzip\r\n";
            [first.framed(lines, chunked(BODY)), second.bytes()].concat()
        }),
        framed(
            "transfer coding with a tab",
            "a name that some parsers trim",
            0,
            |first, second| {
                let lines = format!("transfer-encoding\t: chunked\r\n{}", length());
                [first.framed(&lines, BODY), second.bytes()].concat()
            },
        ),
        framed("transfer coding xchunked", "a coding that does not exist", 0, |first, second| {
            let lines = format!("transfer-encoding: xchunked\r\n{}", length());
            [first.framed(&lines, BODY), second.bytes()].concat()
        }),
        framed("a chunk's size of garbage", "no number", 0, |first, second| {
            let body = format!("zz\r\n{BODY}\r\n0\r\n\r\n");
            [first.framed("transfer-encoding: chunked\r\n", body), second.bytes()].concat()
        }),
        framed("a chunk's size of 2^64 + 17", "a number that wraps", 0, |first, second| {
            let body = format!("10000000000000011\r\n{BODY}\r\n0\r\n\r\n");
            [first.framed("transfer-encoding: chunked\r\n", body), second.bytes()].concat()
        }),
        framed("a chunk longer than it says", "bytes between chunks", 0, |first, second| {
            let body = format!("5\r\n{BODY}\r\n0\r\n\r\n");
            [first.framed("transfer-encoding: chunked\r\n", body), second.bytes()].concat()
        }),
        framed("an endless chunk extension", "bytes that count as nothing", 0, |first, _| {
            let body = format!("11;{}\r\n{BODY}\r\n0\r\n\r\n", "x".repeat(100_000));
            first.framed("transfer-encoding: chunked\r\n", body)
        }),
        framed("endless trailers", "headers after the body", 0, |first, _| {
            let body = format!("11\r\n{BODY}\r\n0\r\n{}\r\n", "x: y\r\n".repeat(50_000));
            first.framed("transfer-encoding: chunked\r\n", body)
        }),
        framed("a trailer that is a protocol header", "a hotkey after the body", 1, |first, _| {
            let body = format!("11\r\n{BODY}\r\n0\r\nbt_header_dendrite_hotkey: x\r\n\r\n");
            first.framed("connection: close\r\ntransfer-encoding: chunked\r\n", body)
        }),
        framed("lines that end without CR", "another idea of a line", 1, |first, _| {
            // RFC 9112 §2.2 lets a recipient take a lone LF; what counts is that it is one request.
            let text = String::from_utf8(first.bytes()).unwrap();
            text.replace("\r\n", "\n").into_bytes()
        }),
        framed("a lone CR in a value", "a line that some parsers see", 0, |first, _| {
            first.clone().add("x", "a\rcontent-length: 5").bytes()
        }),
        framed("a header without a colon", "a line that is none", 0, |first, _| {
            first.framed(&format!("{}nonsense\r\n", length()), BODY)
        }),
        framed("a header without a name", "a line that begins with a colon", 0, |first, _| {
            first.framed(&format!("{}: x\r\n", length()), BODY)
        }),
        framed("version 1.2", "a version that does not exist", 0, |first, _| {
            let text = String::from_utf8(first.bytes()).unwrap();
            text.replacen("HTTP/1.1", "HTTP/1.2", 1).into_bytes()
        }),
        framed("version 0.9", "a request of one line", 0, |_, _| b"GET /Echo\r\n".to_vec()),
        framed("version 1.0", "an old client", 1, |first, _| {
            let text = String::from_utf8(first.bytes()).unwrap();
            text.replacen("HTTP/1.1", "HTTP/1.0", 1).into_bytes()
        }),
        framed("garbage", "bytes that are no request", 0, |_, _| {
            (0..=255).cycle().take(5000).collect()
        }),
        framed("TLS", "a client that speaks TLS", 0, |_, _| {
            [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), vec![7; 600]].concat()
        }),
        framed("half of an HTTP/2 preface", "a protocol that is never begun", 0, |_, _| {
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()
        }),
        framed("an HTTP/2 preface and garbage", "frames that are none", 0, |_, _| {
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![0xff; 5000]].concat()
        }),
        framed("two good ones in a pipe", "two requests in one write", 2, |first, second| {
            [first.framed(&length(), BODY), second.bytes()].concat()
        }),
        framed("a good one after a bad one", "what comes after a refusal", 1, |first, second| {
            let bad = first.clone().without(crate::world::SIGNATURE);
            [bad.framed(&length(), BODY), second.bytes()].concat()
        }),
        framed("a bad one after a good one", "to inherit a verified caller", 1, |first, second| {
            let bad = second.clone().without(crate::world::SIGNATURE);
            [first.framed(&length(), BODY), bad.bytes()].concat()
        }),
        framed("the same one twice in a pipe", "a replay in one write", 1, |first, _| {
            [first.framed(&length(), BODY), first.bytes()].concat()
        }),
        framed(
            "a longer body than announced",
            "a request in what is left over",
            1,
            |first, second| {
                // What is left over is a request of its own, and no good one: it begins in the middle of a word.
                let body = format!("{BODY}x");
                [first.framed(&length(), body), second.bytes()].concat()
            },
        ),
        play("a shorter body than announced", "a body that is cut", |world| {
            let good = world.good();
            let lines = format!("content-length: {}\r\n", BODY.len() + 5);
            let before = world.seen.runs();
            let mut stream = connect(world.axon.at);
            stream.write_all(&good.framed(&lines, BODY)).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let answer = read(stream);
            check(world.seen.runs() == before, "FALSE ACCEPT")?;
            check(answer.status != 200, answer.text())
        }),
        play("a length of 10 GB", "memory for a promise", |world| {
            let before = crate::world::resident_bytes();
            let good = world.good();
            let bytes = good.framed("connection: close\r\ncontent-length: 10000000000\r\n", "{");
            world.expect_bytes(&world.axon, Must::Refuse(&[413]), &bytes)?;
            let grown = crate::world::resident_bytes().saturating_sub(before);
            check(grown < 32 << 20, format!("grew by {grown}"))
        }),
        play("a chunk of 10 GB", "memory for a promise", |world| {
            let before = crate::world::resident_bytes();
            let mut stream = connect(world.axon.at);
            let good = world.good();
            let lines = "connection: close\r\ntransfer-encoding: chunked\r\n";
            stream.write_all(&good.framed(lines, "2540be400\r\n{")).unwrap();
            let grown = crate::world::resident_bytes().saturating_sub(before);
            drop(stream);
            check(grown < 32 << 20, format!("grew by {grown}"))
        }),
        play("expect: 100-continue, unsigned", "to be asked for a body", |world| {
            let bad = world.good().without(crate::world::SIGNATURE);
            let lines = format!("expect: 100-continue\r\nconnection: close\r\n{}", length());
            let answer = world.expect_bytes(&world.axon, UNVERIFIED, &bad.framed(&lines, ""))?;
            check(!answer.statuses().contains(&100), answer.text())
        }),
        play("a slow head", "one byte, and then silence", |world| {
            let axon = world.serve(crate::world::World::routes(&world.seen), impatient());
            let mut stream = connect(axon.at);
            let begun = Instant::now();
            stream.write_all(b"POST /Echo HTTP/1.1\r\nhost: x\r\n").unwrap();
            read(stream);
            check(begun.elapsed().as_secs() < 5, "kept waiting")
        }),
        play("a slow body", "a head, one byte, and then silence", |world| {
            let axon = world.serve(crate::world::World::routes(&world.seen), impatient());
            let good = V10::new(&axon, "Echo").request();
            let mut stream = connect(axon.at);
            let begun = Instant::now();
            stream.write_all(&good.framed(&length(), "{")).unwrap();
            let answer = read(stream);
            check(answer.status == 408, answer.text())?;
            check(begun.elapsed().as_secs() < 5, "kept waiting")
        }),
        play(
            "a body that outlasts its own timeout",
            "bytes that come in time, one by one",
            |world| {
                // The stall limit is far off: it is the caller's timeout that ends this.
                let good = world.good().set(crate::world::TIMEOUT, "0.2");
                let mut stream = connect(world.axon.at);
                stream.write_all(&good.framed(&length(), "{")).unwrap();
                let answer = read(stream);
                check(answer.status == 408, answer.text())
            },
        ),
        play("a head that trickles", "a byte now and then, for ever", |world| {
            let axon = world.serve(crate::world::World::routes(&world.seen), impatient());
            trickle(&axon, b"POST /Echo HTTP/1.1\r\nhost: x\r\nx: ").map(drop)
        }),
        play("a body that trickles", "a byte before each stall, for ever", |world| {
            let axon = world.serve(crate::world::World::routes(&world.seen), impatient());
            let good = V10::new(&axon, "Echo").request().set(crate::world::TIMEOUT, "0.5");
            let answer = trickle(&axon, &good.framed("content-length: 100000\r\n", "{\"x\": \""))?;
            check(answer.contains(" 408 "), answer)
        }),
        play("a bound body that trickles", "the same, where the body proves its caller", |world| {
            let axon = world.serve(crate::world::World::routes(&world.seen), impatient());
            let good = BtAuth::new(&axon, "Echo").request().add("timeout", "0.5");
            let answer = trickle(&axon, &good.framed("content-length: 100000\r\n", "{\"x\": \""))?;
            check(answer.contains(" 408 "), answer)
        }),
        play(
            "a client that leaves in the middle of its head",
            "a connection that is cut",
            |world| {
                let mut stream = connect(world.axon.at);
                stream.write_all(&world.good().head()).unwrap();
                drop(stream);
                Ok(())
            },
        ),
        play("a client that does not read", "an answer that nobody takes", |world| {
            let body = format!("{{\"x\": \"{}\"}}", "x".repeat(4 << 20));
            let request = V10::new(&world.axon, "Free").body(body).request();
            let mut stream = connect(world.axon.at);
            stream.write_all(&request.bytes()).unwrap();
            let mut few = [0; 100];
            stream.read_exact(&mut few).unwrap();
            drop(stream);
            Ok(())
        }),
    ];
    cases.push(play(
        "an unknown route of 20,000 letters",
        "an error that quotes the path",
        |world| {
            let request = world.good().target(&format!("/{}", "n".repeat(20_000)));
            world.expect(NOT_FOUND, &request)
        },
    ));
    cases.push(play("an unknown route of a megabyte", "a path that fills the memory", |world| {
        let request = world.good().target(&format!("/{}", "n".repeat(1 << 20)));
        // hyper has a limit of its own for targets, and answers 414.
        world.expect(Must::Refuse(&[400, 414, 431]), &request)
    }));
    cases.push(play("a megabyte of encoded letters", "a name that shrinks", |world| {
        let request = world.good().target(&format!("/{}", "%41".repeat(1 << 18)));
        world.expect(Must::Refuse(&[400, 414, 431]), &request)
    }));
    cases
}
