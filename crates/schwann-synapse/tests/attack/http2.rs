//! HTTP/2, written as frames: floods that its framing makes cheap, and heads that only it can write.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use schwann_synapse::keys::Signer as _;

use crate::world::{
    ALICE, BtAuth, Case, Request, SIGNATURE, V10, World, check, connect, play, resident_bytes,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// More than this, and a flood was held in memory.
const GROWTH: u64 = 24 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The client's side of a connection's beginning.
fn opening() -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// HPACK's integer after a prefix of seven bits (RFC 7541 §5.1).
fn hpack_length(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![length as u8];
    }
    let mut bytes = vec![127];
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

/// A field of HPACK that is not to be indexed, or is: RFC 7541 §6.2.1, §6.2.2.
fn field(indexed: bool, name: &[u8], value: &[u8]) -> Vec<u8> {
    let kind = if indexed { 0x40 } else { 0 };
    [&[kind][..], &hpack_length(name.len()), name, &hpack_length(value.len()), value].concat()
}

/// A request's head, its names as HTTP/2 writes them.
fn head(request: &Request) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [
        (":method", request.method.as_str()),
        (":scheme", "http"),
        (":path", &request.target),
        (":authority", "127.0.0.1"),
    ];
    for (name, value) in pseudo {
        block.extend(field(false, name.as_bytes(), value.as_bytes()));
    }
    for (name, value) in request.headers.iter().filter(|(name, _)| name != b"host") {
        block.extend(field(false, &name.to_ascii_lowercase(), value));
    }
    block
}

fn with_body(stream: u32, head: &[u8], body: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, head), frame(DATA, END_STREAM, stream, body)].concat()
}

/// A whole request on a stream.
fn whole(stream: u32, request: &Request) -> Vec<u8> {
    with_body(stream, &head(request), &request.body)
}

/// The frames that the axon sends: kind, flags, stream and payload of each.
struct Frames {
    stream: TcpStream,
    read: Vec<u8>,
}

type Frame = (u8, u8, u32, Vec<u8>);

impl Frames {
    /// The next frame; `None` at the connection's end.
    fn next(&mut self) -> Result<Option<Frame>, String> {
        loop {
            if let Some((length, rest)) = self.read.split_first_chunk::<3>() {
                let length = usize::from(length[0]) << 16
                    | usize::from(length[1]) << 8
                    | usize::from(length[2]);
                if rest.len() >= 6 + length {
                    let stream = u32::from_be_bytes(rest[2..6].try_into().unwrap());
                    let frame = (rest[0], rest[1], stream, rest[6..6 + length].to_vec());
                    self.read.drain(..9 + length);
                    return Ok(Some(frame));
                }
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => self.read.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(format!("nothing more came: {error}")),
            }
        }
    }

    /// Reads until each of these streams has ended, by an answer or by a reset, or the connection has. Tells each
    /// stream's first header block; an empty one stands for a reset.
    fn answers(&mut self, streams: &[u32]) -> Result<Vec<Vec<u8>>, String> {
        let mut answers = vec![None; streams.len()];
        let mut ended = vec![false; streams.len()];
        while ended.contains(&false) {
            let Some((kind, flags, stream, payload)) = self.next()? else { break };
            let Some(at) = streams.iter().position(|known| *known == stream) else { continue };
            match kind {
                HEADERS => {
                    answers[at].get_or_insert(payload);
                    ended[at] |= flags & END_STREAM != 0;
                }
                DATA => ended[at] |= flags & END_STREAM != 0,
                RST_STREAM => ended[at] = true,
                _ => {}
            }
        }
        Ok(answers.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Reads to the end of the connection. Whether the axon said goodbye.
    fn goodbye(&mut self) -> Result<bool, String> {
        let mut said = false;
        while let Some((kind, ..)) = self.next()? {
            said |= kind == GOAWAY;
        }
        Ok(said)
    }
}

/// Sends bytes as far as the axon takes them, and hands out what it answers.
fn begin(world: &World, bytes: &[u8]) -> Frames {
    let mut stream = connect(world.axon.at);
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    // An axon that has had enough does not read the rest.
    let _ = stream.write_all(&[&opening(), bytes].concat());
    Frames { stream, read: Vec::new() }
}

/// `:status: 200` by its index in HPACK's static table (RFC 7541 appendix A).
fn is_ok(block: &[u8]) -> bool {
    block.first() == Some(&0x88)
}

/// Requests on one connection: how many are answered with 200, and that so many runs were begun.
fn runs(
    name: &str,
    tries: &str,
    expected: usize,
    requests: impl Fn(&World) -> Vec<Vec<u8>> + 'static,
) -> Case {
    play(format!("HTTP/2: {name}"), tries, move |world| {
        let before = world.seen.runs();
        let requests = requests(world);
        let streams: Vec<u32> = (0..requests.len() as u32).map(|at| 2 * at + 1).collect();
        let mut frames = begin(world, &requests.concat());
        let answers = frames.answers(&streams)?;
        let ran = world.seen.runs() - before;
        let good = answers.iter().filter(|block| is_ok(block)).count();
        check(ran == expected, format!("{ran} runs, not {expected}: {answers:?}"))?;
        check(good == expected, format!("{good} of {expected} were answered: {answers:?}"))?;
        if expected > 0 {
            let (caller, _) = world.seen.last();
            check(caller.hotkey == ALICE.hotkey() && caller.verified, format!("{caller:?}"))?;
        }
        Ok(())
    })
}

/// One request whose head has this field besides.
fn with_field(
    name: &'static str,
    tries: &'static str,
    field_name: &'static str,
    value: &'static str,
) -> Case {
    runs(name, tries, 0, move |world| {
        let good = world.good();
        let head = [head(&good), field(false, field_name.as_bytes(), value.as_bytes())].concat();
        vec![with_body(1, &head, &good.body)]
    })
}

/// Bytes without end on one connection: whatever the axon does with them, it holds none of them, and serves others.
fn flood(name: &str, tries: &str, bytes: impl Fn(&World) -> Vec<u8> + 'static, ends: bool) -> Case {
    play(format!("HTTP/2: {name}"), tries, move |world| {
        let runs = world.seen.runs();
        let bytes = bytes(world);
        let before = resident_bytes();
        let mut frames = begin(world, &bytes);
        world.serves_an_honest_caller()?;
        let grown = resident_bytes().saturating_sub(before);
        check(grown < GROWTH, format!("grew by {grown} for {} bytes", bytes.len()))?;
        if ends {
            frames.goodbye()?;
        }
        check(world.seen.runs() == runs + 1, "FALSE ACCEPT")
    })
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        runs("an honest caller", "the same request in frames", 1, |world| {
            vec![whole(1, &world.good())]
        }),
        runs("an honest caller of btauth", "the other protocol in frames", 1, |world| {
            vec![whole(1, &BtAuth::new(&world.axon, "Echo").request())]
        }),
        runs("one nonce on a hundred streams", "a race that costs one packet", 1, |world| {
            let good = world.good();
            (0..100).map(|at| whole(2 * at + 1, &good)).collect()
        }),
        runs("a body longer than its length", "a request in what is left over", 0, |world| {
            let good = world.good();
            let short = good.clone().add("content-length", "5");
            vec![whole(1, &short)]
        }),
        runs("a body shorter than its length", "a body that is cut", 0, |world| {
            let good = world.good();
            let long = good.clone().add("content-length", (good.body.len() + 5).to_string());
            vec![whole(1, &long)]
        }),
        with_field("transfer-encoding", "H2.TE smuggling", "transfer-encoding", "chunked"),
        with_field("connection", "a header of HTTP/1.1", "connection", "close"),
        with_field("upgrade", "a header of HTTP/1.1", "upgrade", "websocket"),
        with_field("a name in upper case", "a name that only some compare", "X-Name", "x"),
        with_field("a line end in a value", "H2.CRLF smuggling", "x", "a\r\nbt_header: b"),
        with_field("a line end in a name", "H2.CRLF smuggling", "x: a\r\ny", "b"),
        with_field("a second path", "two routes", ":path", "/Free"),
        with_field("a status", "a field of answers", ":status", "200"),
        with_field("a second signature", "the first or the last", SIGNATURE, "0x00"),
        runs("no path", "a request for nothing", 0, |world| {
            let good = world.good();
            let head: Vec<u8> = [(":method", "POST"), (":scheme", "http")]
                .iter()
                .flat_map(|(name, value)| field(false, name.as_bytes(), value.as_bytes()))
                .collect();
            vec![with_body(1, &head, &good.body)]
        }),
        runs("a head of 100,000 bytes", "more than the limit, in frames of 16 KiB", 0, |world| {
            let good = world.good();
            let mut block = head(&good);
            for _ in 0..10 {
                block.extend(field(false, b"x", &[b'x'; 10_000]));
            }
            let mut pieces = block.chunks(16_000);
            let mut bytes = frame(HEADERS, 0, 1, pieces.next().unwrap());
            for piece in pieces {
                bytes.extend(frame(CONTINUATION, 0, 1, piece));
            }
            bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &[]));
            bytes.extend(frame(DATA, END_STREAM, 1, &good.body));
            vec![bytes]
        }),
        runs("a head that unpacks", "one field of 4,000 bytes, named 10,000 times", 0, |world| {
            let good = world.good();
            let mut block = head(&good);
            block.extend(field(true, b"x", &[b'x'; 3900]));
            // The newest entry of the dynamic table is number 62.
            block.extend(std::iter::repeat_n(0x80 | 62, 10_000));
            vec![with_body(1, &block, &good.body)]
        }),
        flood(
            "rapid reset",
            "streams that are opened and given up (CVE-2023-44487)",
            |world| {
                let unsigned = world.good().without(SIGNATURE);
                let block = head(&unsigned);
                (0..20_000)
                    .flat_map(|at| {
                        let stream = 2 * at + 1;
                        let open = frame(HEADERS, END_HEADERS, stream, &block);
                        [open, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
                    })
                    .collect()
            },
            true,
        ),
        flood(
            "streams that are made to be reset",
            "requests that the server itself must reset",
            |world| {
                let unsigned = world.good().without(SIGNATURE);
                let block = [head(&unsigned), field(false, b"connection", b"close")].concat();
                (0..20_000)
                    .flat_map(|at| frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &block))
                    .collect()
            },
            true,
        ),
        flood(
            "a head that never ends",
            "CONTINUATION frames without end (CVE-2024-27316)",
            |world| {
                let block = head(&world.good());
                let more = frame(CONTINUATION, 0, 1, &field(false, b"x", &[b'x'; 1000]));
                [frame(HEADERS, 0, 1, &block), more.repeat(50_000)].concat()
            },
            true,
        ),
        flood(
            "a head that never ends, of nothing",
            "empty CONTINUATION frames",
            |world| {
                let block = head(&world.good());
                let more = frame(CONTINUATION, 0, 1, &[]);
                [frame(HEADERS, 0, 1, &block), more.repeat(500_000)].concat()
            },
            true,
        ),
        flood(
            "pings",
            "answers that nobody reads",
            |_| frame(PING, 0, 0, &[7; 8]).repeat(1_000_000),
            false,
        ),
        flood(
            "settings",
            "settings that must each be acknowledged",
            |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(1_000_000),
            false,
        ),
        flood(
            "acknowledgements of nothing",
            "settings that were never sent",
            |_| frame(SETTINGS, ACK, 0, &[]).repeat(100_000),
            false,
        ),
        flood(
            "empty data",
            "frames that are no bytes",
            |world| {
                let unsigned = world.good().without(SIGNATURE);
                let open = frame(HEADERS, END_HEADERS, 1, &head(&unsigned));
                [open, frame(DATA, 0, 1, &[]).repeat(500_000)].concat()
            },
            false,
        ),
        flood(
            "windows of every size",
            "window updates for a stream that never was",
            |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(500_000),
            false,
        ),
        play("HTTP/2: more streams than are allowed", "1,000 bodies that never come", |world| {
            let before = world.seen.runs();
            let head = head(&V10::new(&world.axon, "Echo").request());
            let open: Vec<u8> =
                (0..1000).flat_map(|at| frame(HEADERS, END_HEADERS, 2 * at + 1, &head)).collect();
            let frames = begin(world, &open);
            world.serves_an_honest_caller()?;
            drop(frames);
            check(world.seen.runs() == before + 1, "FALSE ACCEPT")
        }),
    ]
}
