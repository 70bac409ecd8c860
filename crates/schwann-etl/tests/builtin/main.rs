//! The transforms with a name, through a server, at the wire.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};

use schwann::serve_connection;
use schwann_etl::{EtlServer, Target, builtin};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// A connection with `room` bytes each way to a server of the transform `name`.
fn connect(name: &str, room: usize) -> DuplexStream {
    let target = Target::parse("http://127.0.0.1:9/v1/etl/_object/etl-x/s3cr3t").unwrap();
    let server = EtlServer::new(target, builtin::named(name).unwrap()).unwrap();
    let (ours, theirs) = duplex(room);
    tokio::spawn(async move { serve_connection(&EtlServer::http(), theirs, server).await });
    ours
}

/// An answer: its status, its body, and whether that came to its end.
struct Answer {
    status: u16,
    body: Vec<u8>,
    whole: bool,
}

/// Puts `object` in one piece or in chunks, while the answer is read.
async fn put(name: &str, object: &[u8], chunked: bool) -> Answer {
    let (mut read, mut write) = tokio::io::split(connect(name, 64 * 1024));
    let framing = match chunked {
        true => "transfer-encoding: chunked".to_owned(),
        false => format!("content-length: {}", object.len()),
    };
    let head = format!("PUT /b/o HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{framing}\r\n\r\n");
    let object = object.to_vec();
    let writing = tokio::spawn(async move {
        let mut sent = head.into_bytes();
        if chunked {
            for piece in object.chunks(10_000) {
                sent.extend(format!("{:x}\r\n", piece.len()).bytes());
                sent.extend(piece);
                sent.extend(b"\r\n");
            }
            sent.extend(b"0\r\n\r\n");
        } else {
            sent.extend(object);
        }
        // An error may be answered before everything was taken.
        let _ = write.write_all(&sent).await;
        write
    });
    let mut seen = Vec::new();
    let _ = read.read_to_end(&mut seen).await;
    drop(writing.await.unwrap());
    answer(&seen)
}

fn answer(seen: &[u8]) -> Answer {
    let end = seen.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(seen[..end].to_vec()).unwrap();
    let status = head[9..12].parse().unwrap();
    let mut rest = &seen[end + 4..];
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    if let Some(length) = length {
        let whole = rest.len() == length.parse::<usize>().unwrap();
        return Answer { status, body: rest.to_vec(), whole };
    }
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Answer { status, body, whole: false };
        };
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return Answer { status, body, whole: true };
        }
        let piece = &rest[line + 2..];
        if piece.len() < size + 2 {
            return Answer { status, body, whole: false };
        }
        body.extend(&piece[..size]);
        rest = &piece[size + 2..];
    }
}

/// Bytes that compress a little.
fn object(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"abcdefgh\x00\xff\x80zyxwv"[(state >> 28) as usize]
    };
    std::iter::repeat_with(next).take(length).collect()
}

const SIZES: [usize; 5] = [0, 1, 1024, 70_000, 3_000_000];

#[track_caller]
fn whole(answer: Answer) -> Vec<u8> {
    assert_eq!((answer.status, answer.whole), (200, true), "{:?}", answer.body.get(..200));
    answer.body
}

#[tokio::test]
async fn every_name_is_known_and_no_other() {
    for name in builtin::NAMES {
        assert!(builtin::named(name).is_some(), "{name}");
    }
    for name in ["", "Echo", "rot13", "gzip "] {
        assert!(builtin::named(name).is_none(), "{name}");
    }
}

#[tokio::test]
async fn what_goes_in_comes_out_as_the_name_says() {
    for size in SIZES {
        for chunked in [false, true] {
            let object = object(size);
            assert!(whole(put("echo", &object, chunked).await) == object, "echo {size}");
            let upper = whole(put("upper", &object, chunked).await);
            assert!(upper == object.to_ascii_uppercase(), "upper {size}");
            let gzip = whole(put("gzip", &object, chunked).await);
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut plain).unwrap();
            assert!(plain == object, "gzip {size}");
            assert!(whole(put("gunzip", &gzip, chunked).await) == object, "gunzip {size}");
            let zstd = whole(put("zstd", &object, chunked).await);
            assert!(zstd::decode_all(&zstd[..]).unwrap() == object, "zstd {size}");
            assert!(whole(put("unzstd", &zstd, chunked).await) == object, "unzstd {size}");
        }
    }
}

#[tokio::test]
async fn digests_are_the_known_ones() {
    // RFC 1321 §A.5 and FIPS 180-2 §B.1, and both of nothing.
    for (name, object, expected) in [
        ("md5", "abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("md5", "", "d41d8cd98f00b204e9800998ecf8427e"),
        ("sha256", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("sha256", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ] {
        for chunked in [false, true] {
            let said = whole(put(name, object.as_bytes(), chunked).await);
            assert_eq!(String::from_utf8(said).unwrap(), expected, "{name} of {object:?}");
        }
    }
    let million = vec![b'a'; 1_000_000];
    let said = whole(put("sha256", &million, true).await);
    assert_eq!(said, b"cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

fn gzipped(object: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(object).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn several_members_are_one_object() {
    let (one, two) = (object(100_000), object(5));
    let members = [gzipped(&one), gzipped(b""), gzipped(&two)].concat();
    assert!(whole(put("gunzip", &members, true).await) == [one.clone(), two.clone()].concat());
    let frames = [zstd::encode_all(&one[..], 1).unwrap(), zstd::encode_all(&two[..], 1).unwrap()];
    assert!(whole(put("unzstd", &frames.concat(), true).await) == [one, two].concat());
}

/// Neither a short success nor garbage taken for an object.
#[track_caller]
fn refused(answer: &Answer, what: &str) {
    match answer.status {
        500 => assert!(answer.body.starts_with(b"{\"detail\":\"Processing error: "), "{what}"),
        200 => assert!(!answer.whole, "{what}: looks whole"),
        status => panic!("{what}: {status}"),
    }
}

#[tokio::test]
async fn what_is_cut_altered_or_goes_on_is_no_object() {
    for size in [10, 400_000] {
        let object = object(size);
        for (name, packed) in [
            ("gunzip", gzipped(&object)),
            ("unzstd", {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all(&object).unwrap();
                encoder.finish().unwrap()
            }),
        ] {
            for cut in [1, 5, packed.len() / 2, packed.len() - 4, packed.len() - 1] {
                let what = format!("{name}: {cut} of {} bytes", packed.len());
                refused(&put(name, &packed[..cut], true).await, &what);
            }
            let mut altered = packed.clone();
            *altered.last_mut().unwrap() ^= 1;
            refused(&put(name, &altered, true).await, &format!("{name}: altered"));
            let more = [&packed[..], b"trailing"].concat();
            refused(&put(name, &more, true).await, &format!("{name}: goes on"));
            refused(&put(name, b"plain text", false).await, &format!("{name}: plain"));
        }
    }
}

#[tokio::test]
async fn a_bomb_goes_off_at_the_pace_of_who_takes_it() {
    // 1 GiB of zeros in a megabyte, of which a client takes 1 MiB and leaves.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    let member = encoder.finish().unwrap();
    let bomb: Vec<u8> = std::iter::repeat_n(member, 16).flatten().collect();
    let mut io = connect("gunzip", 16 * 1024);
    let head = format!("PUT /b/o HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", bomb.len());
    let (mut read, mut write) = tokio::io::split(&mut io);
    let writing = async {
        write.write_all(head.as_bytes()).await.unwrap();
        let mut sent = 0;
        while sent < bomb.len() {
            sent += write.write(&bomb[sent..]).await.unwrap();
        }
    };
    let reading = async {
        let mut taken = vec![0; 1 << 20];
        read.read_exact(&mut taken).await.unwrap();
    };
    tokio::select! {
        () = writing => panic!("all of the bomb was taken before its client had read a thousandth"),
        () = reading => {}
    }
}
