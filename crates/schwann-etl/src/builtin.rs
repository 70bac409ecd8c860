//! Transforms with a name, for those who need no code of their own.
//!
//! Each streams in flat memory and at the pace of whoever takes its result. What computes for long runs on threads of its
//! own, so that an object that is slow to compress holds up nobody else's.

use std::io::{self, BufReader, Read, Write};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use http::{HeaderValue, Response, StatusCode, header};
use md5::{Digest, Md5};
use schwann::{BoxHandler, Call, Error, Finished, Handler as _, Reply};
use sha2::Sha256;

use crate::transform::{self, Input, Output};

/// Every name that [`named`] knows.
pub const NAMES: &[&str] = &["echo", "md5", "sha256", "upper", "gzip", "gunzip", "zstd", "unzstd"];

/// Objects up to this size are answered in one piece, if their size is known.
const SMALL: u64 = 64 * 1024;
/// How much is computed before others have their turn.
const TURN: usize = 256 * 1024;
/// Room for what a decompressor makes.
const PIECE: usize = 64 * 1024;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;
/// Largest window that is kept to undo zstd, as a power of two: 8 MiB, which every decoder should have (RFC 8878
/// §3.1.1.1.2) and which levels up to 19 stay within.
const ZSTD_WINDOW: u32 = 23;

/// The transform of a name:
///
/// | name | result |
/// | --- | --- |
/// | `echo` | the object |
/// | `md5`, `sha256` | its digest, in hexadecimal digits |
/// | `upper` | the object with its ASCII letters in upper case |
/// | `gzip`, `zstd` | the object, compressed |
/// | `gunzip`, `unzstd` | what was compressed; input that is cut or goes on as something else is an error |
pub fn named(name: &str) -> Option<BoxHandler> {
    Some(match name {
        "echo" => echo.boxed(),
        "md5" => digest::<Md5>.boxed(),
        "sha256" => digest::<Sha256>.boxed(),
        "upper" => upper.boxed(),
        "gzip" => transform::streaming(|_, input, output| gzip(input, output)).boxed(),
        "gunzip" => transform::streaming(|_, input, output| gunzip(input, output)).boxed(),
        "zstd" => transform::streaming(|_, input, output| zstd(input, output)).boxed(),
        "unzstd" => transform::streaming(|_, input, output| unzstd(input, output)).boxed(),
        _ => return None,
    })
}

async fn echo(call: Call) -> Result<Finished, Error> {
    each(call, |piece| piece).await
}

async fn upper(call: Call) -> Result<Finished, Error> {
    each(call, |piece| {
        // Most pieces are nobody else's, and need no copy.
        let mut piece = piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        piece.make_ascii_uppercase();
        piece.freeze()
    })
    .await
}

/// Sends every piece of the object as `change` makes it.
async fn each(call: Call, change: fn(Bytes) -> Bytes) -> Result<Finished, Error> {
    let (_, mut body, reply) = call.into_parts();
    if body.announced().is_some_and(|length| length <= SMALL) {
        return Ok(reply.send(StatusCode::OK, change(body.collect().await?)));
    }
    // Nothing is promised before there is something to say.
    let Some(first) = body.chunk().await? else {
        return Ok(reply.start(StatusCode::OK).finish());
    };
    let mut out = reply.start(StatusCode::OK);
    out.write(change(first)).await?;
    while let Some(piece) = body.chunk().await? {
        out.write(change(piece)).await?;
    }
    Ok(out.finish())
}

async fn digest<D: Digest + Send>(call: Call) -> Result<Finished, Error> {
    let (_, mut body, reply) = call.into_parts();
    let mut digest = D::new();
    let mut turn = 0;
    while let Some(piece) = body.chunk().await? {
        // A file that is in memory already is never waited for.
        for part in piece.chunks(TURN) {
            digest.update(part);
            turn += part.len();
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(text(reply, hex(&digest.finalize())))
}

fn text(reply: Reply, text: String) -> Finished {
    let mut head = Response::new(());
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    reply.send(head, text)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("four bits are one digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn gzip(input: &mut Input, output: &mut Output) -> io::Result<()> {
    // No name and no time: the same object makes the same result.
    let mut encoder = GzEncoder::new(output, Compression::default());
    while let Some(piece) = input.chunk()? {
        encoder.write_all(&piece)?;
    }
    encoder.finish().map(drop)
}

fn gunzip(input: &mut Input, output: &mut Output) -> io::Result<()> {
    copy(MultiGzDecoder::new(BufReader::with_capacity(PIECE, input)), output)
}

fn zstd(input: &mut Input, output: &mut Output) -> io::Result<()> {
    let mut encoder = ::zstd::Encoder::new(output, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    while let Some(piece) = input.chunk()? {
        encoder.write_all(&piece)?;
    }
    encoder.finish().map(drop)
}

fn unzstd(input: &mut Input, output: &mut Output) -> io::Result<()> {
    let mut decoder = ::zstd::Decoder::with_buffer(BufReader::with_capacity(PIECE, input))?;
    decoder.window_log_max(ZSTD_WINDOW)?;
    copy(decoder, output)
}

/// However much comes out of how little, one piece of it is there at a time.
fn copy(mut from: impl Read, output: &mut Output) -> io::Result<()> {
    loop {
        let mut piece = vec![0; PIECE];
        let n = from.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        piece.truncate(n);
        output.write_bytes(piece)?;
    }
}
