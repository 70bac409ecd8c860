//! RFC 6455 from the server's side: frames out of bytes, and into bytes.
//!
//! Ours, because a frame here may be gigabytes long and its payload must be handed on as it arrives; the libraries there
//! are hand out whole messages.

use std::{borrow::Cow, io};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No more is read while this much waits.
const READ: usize = 64 * 1024;
/// Payloads up to this length are copied behind their header instead of being written by themselves.
const COPIED: usize = 16 * 1024;
/// Longest payload of a control frame (RFC 6455 §5.5).
const CONTROL: u64 = 125;

/// Codes of RFC 6455 §7.4.1.
pub(super) mod code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const GOING_AWAY: u16 = 1001;
    pub(crate) const PROTOCOL: u16 = 1002;
    pub(crate) const UNSUPPORTED: u16 = 1003;
    pub(crate) const NOT_UTF8: u16 = 1007;
    pub(crate) const POLICY: u16 = 1008;
    pub(crate) const TOO_BIG: u16 = 1009;
    pub(crate) const INTERNAL: u16 = 1011;
}

/// Why a connection has to be closed, and what the peer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Close {
    pub(super) code: u16,
    pub(super) reason: Cow<'static, str>,
}

impl Close {
    pub(super) fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }

    fn protocol(reason: &'static str) -> Self {
        Self::new(code::PROTOCOL, reason)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn of(nibble: u8) -> Option<Self> {
        Some(match nibble {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn nibble(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What comes next from the peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A message of text or bytes begins.
    Begin(Opcode),
    /// A piece of it. Never empty.
    Data(Bytes),
    /// It is whole.
    End,
    Ping(Bytes),
    Pong,
    /// The peer will send no more.
    Close(Option<u16>),
}

/// A frame of a message, of which some is still to come.
#[derive(Debug)]
struct Frame {
    last: bool,
    left: u64,
    /// Turned so that it fits the next byte.
    mask: [u8; 4],
}

#[derive(Debug)]
struct Header {
    last: bool,
    opcode: Opcode,
    length: u64,
    mask: [u8; 4],
    /// Its own length.
    bytes: usize,
}

/// The peer's direction.
#[derive(Debug)]
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
    /// Some message has begun, and has come to so many bytes by its headers.
    message: Option<u64>,
    frame: Option<Frame>,
    /// A close frame has come: what follows means nothing.
    closed: bool,
    max_message: u64,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R, max_message: u64) -> Self {
        let buffer = BytesMut::new();
        Self { io, buffer, message: None, frame: None, closed: false, max_message }
    }

    /// Whether more may be read ahead.
    pub(super) fn has_room(&self) -> bool {
        self.closed || self.buffer.len() < READ
    }

    /// Reads some bytes ahead; 0 at the end. Cancel-safe.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        if self.closed {
            self.buffer.clear();
        }
        if self.buffer.capacity() - self.buffer.len() < READ / 8 {
            self.buffer.reserve(READ);
        }
        self.io.read_buf(&mut self.buffer).await
    }

    /// Whether a message has begun and is not whole.
    pub(super) fn in_message(&self) -> bool {
        self.message.is_some()
    }

    /// The next step of what was read ahead; `None` if that takes more bytes.
    pub(super) fn next(&mut self) -> Result<Option<Step>, Close> {
        loop {
            if let Some(frame) = &mut self.frame {
                if frame.left == 0 {
                    let last = frame.last;
                    self.frame = None;
                    if last {
                        self.message = None;
                        return Ok(Some(Step::End));
                    }
                    continue;
                }
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                let n = usize::try_from(frame.left)
                    .map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
                let mut piece = self.buffer.split_to(n);
                unmask(&mut piece, frame.mask);
                frame.mask.rotate_left(n % 4);
                frame.left -= n as u64;
                return Ok(Some(Step::Data(piece.freeze())));
            }
            if self.closed {
                return Ok(None);
            }
            let Some(header) = header(&self.buffer)? else { return Ok(None) };
            if header.opcode.is_control() {
                let whole = header.bytes + header.length as usize;
                if self.buffer.len() < whole {
                    return Ok(None);
                }
                self.buffer.advance(header.bytes);
                let mut payload = self.buffer.split_to(header.length as usize);
                unmask(&mut payload, header.mask);
                return self.control(header.opcode, payload.freeze()).map(Some);
            }
            let begins = header.opcode != Opcode::Continuation;
            let before = match (begins, self.message) {
                (true, None) => 0,
                (false, Some(before)) => before,
                (true, Some(_)) => return Err(Close::protocol("a message begins within another")),
                (false, None) => return Err(Close::protocol("nothing to continue")),
            };
            let total = before.saturating_add(header.length);
            if total > self.max_message {
                return Err(Close::new(code::TOO_BIG, "the message is too big"));
            }
            self.buffer.advance(header.bytes);
            self.message = Some(total);
            self.frame = Some(Frame { last: header.last, left: header.length, mask: header.mask });
            if begins {
                return Ok(Some(Step::Begin(header.opcode)));
            }
        }
    }

    fn control(&mut self, opcode: Opcode, payload: Bytes) -> Result<Step, Close> {
        Ok(match opcode {
            Opcode::Ping => Step::Ping(payload),
            Opcode::Pong => Step::Pong,
            _ => {
                self.closed = true;
                Step::Close(close_code(&payload)?)
            }
        })
    }

    /// The message that has just begun, if all of it was read ahead in one frame.
    pub(super) fn whole(&mut self) -> Option<Bytes> {
        let Frame { last: true, left, mask } = *self.frame.as_ref()? else { return None };
        let length = usize::try_from(left).ok().filter(|length| *length <= self.buffer.len())?;
        let mut payload = self.buffer.split_to(length);
        unmask(&mut payload, mask);
        (self.frame, self.message) = (None, None);
        Some(payload.freeze())
    }
}

/// The code of a close frame (RFC 6455 §5.5.1, §7.4), if it has one.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Close> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(None),
            _ => Err(Close::protocol("half a close code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Close::protocol("no such close code"));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Close::new(code::NOT_UTF8, "the reason of a close is not UTF-8")),
    }
}

/// RFC 6455 §5.2. What is wrong is said as soon as it can be seen.
fn header(seen: &[u8]) -> Result<Option<Header>, Close> {
    let [first, second, rest @ ..] = seen else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(Close::protocol("a reserved bit is set, and no extension was agreed on"));
    }
    let opcode = Opcode::of(first & 0x0f).ok_or_else(|| Close::protocol("no such opcode"))?;
    let last = first & 0x80 != 0;
    if second & 0x80 == 0 {
        return Err(Close::protocol("a client's frame must be masked"));
    }
    let short = u64::from(second & 0x7f);
    if opcode.is_control() && (!last || short > CONTROL) {
        return Err(Close::protocol("a control frame is one frame of up to 125 bytes"));
    }
    let (length, rest, bytes) = match short {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest, 4),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest, 10),
            None => return Ok(None),
        },
        length => (length, rest, 2),
    };
    let shortest = match short {
        126 => 126,
        127 => 65536,
        _ => 0,
    };
    if length < shortest || length > i64::MAX as u64 {
        return Err(Close::protocol("the length is not written as it should be"));
    }
    let Some(mask) = rest.first_chunk() else { return Ok(None) };
    Ok(Some(Header { last, opcode, length, mask: *mask, bytes: bytes + 4 }))
}

/// Takes the mask off, or puts it on.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Our direction.
#[derive(Debug)]
pub(super) struct Writer<W> {
    io: W,
    /// Frames, or the header of `payload`.
    out: BytesMut,
    /// The rest of a frame, written as it is.
    payload: Bytes,
    /// What the last unanswered ping said. One is enough (RFC 6455 §5.5.3).
    pong: Option<Bytes>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(io: W) -> Self {
        Self { io, out: BytesMut::new(), payload: Bytes::new(), pong: None }
    }

    /// Whether something waits to be written.
    pub(super) fn is_pending(&self) -> bool {
        !self.out.is_empty() || !self.payload.is_empty() || self.pong.is_some()
    }

    /// Whether it must be written before there is room for another frame.
    pub(super) fn is_full(&self) -> bool {
        !self.payload.is_empty() || self.out.len() >= READ
    }

    /// Puts a frame behind those that wait. There must be room: see [`is_full`](Self::is_full).
    pub(super) fn frame(&mut self, opcode: Opcode, last: bool, payload: Bytes) {
        debug_assert!(!self.is_full(), "a frame within a frame");
        self.header(opcode, last, payload.len());
        if payload.len() <= COPIED {
            self.out.extend_from_slice(&payload);
        } else {
            self.payload = payload;
        }
    }

    fn header(&mut self, opcode: Opcode, last: bool, length: usize) {
        let first = opcode.nibble() | if last { 0x80 } else { 0 };
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..126), _) => self.out.extend_from_slice(&[first, short]),
            (_, Ok(length)) => {
                self.out.extend_from_slice(&[first, 126]);
                self.out.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                self.out.extend_from_slice(&[first, 127]);
                self.out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
    }

    /// Answers a ping as soon as the frame under way is written.
    pub(super) fn pong(&mut self, payload: Bytes) {
        self.pong = Some(payload);
    }

    /// Writes all that waits. Cancel-safe: what was not written still waits.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        loop {
            if self.payload.is_empty()
                && let Some(pong) = self.pong.take()
            {
                self.frame(Opcode::Pong, true, pong);
            }
            if self.out.is_empty() && self.payload.is_empty() {
                return self.io.flush().await;
            }
            let written = if self.payload.is_empty() {
                self.io.write(&self.out).await?
            } else {
                let both = [io::IoSlice::new(&self.out), io::IoSlice::new(&self.payload)];
                self.io.write_vectored(&both).await?
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_out = written.min(self.out.len());
            self.out.advance(of_out);
            self.payload.advance(written - of_out);
            if self.payload.is_empty() {
                // It may be a part of something large.
                self.payload = Bytes::new();
            }
        }
    }

    /// Says goodbye after all that waits, and ends our direction.
    pub(super) async fn close(&mut self, close: &Close) -> io::Result<()> {
        self.flush().await?;
        let reason = &close.reason[..close.reason.floor_char_boundary(CONTROL as usize - 2)];
        let payload = [&close.code.to_be_bytes(), reason.as_bytes()].concat();
        self.frame(Opcode::Close, true, payload.into());
        self.flush().await?;
        self.io.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 0, 255, 9];
        let mut frame = vec![first];
        match payload.len() {
            length @ ..126 => frame.push(0x80 | length as u8),
            length @ ..65536 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, mask);
        frame.extend(payload);
        frame
    }

    /// All steps of `bytes`, which arrive `at_once` at a time; pieces of data are joined.
    fn steps(bytes: &[u8], at_once: usize) -> Result<Vec<Step>, Close> {
        let mut reader = Reader::new(tokio::io::empty(), 1 << 20);
        let mut steps = Vec::new();
        let mut data = Vec::new();
        for piece in bytes.chunks(at_once) {
            reader.buffer.extend_from_slice(piece);
            while let Some(step) = reader.next()? {
                match step {
                    Step::Data(piece) => data.extend_from_slice(&piece),
                    Step::End => {
                        steps.push(Step::Data(std::mem::take(&mut data).into()));
                        steps.push(Step::End);
                    }
                    step => steps.push(step),
                }
            }
        }
        Ok(steps)
    }

    #[test]
    fn messages_are_read_however_their_bytes_arrive() {
        let long: Vec<u8> = (0..70_000_u32).map(|n| n as u8).collect();
        let mut bytes = frame(0x82, b"whole");
        bytes.extend(frame(0x02, b"fir"));
        bytes.extend(frame(0x89, b"are you there"));
        bytes.extend(frame(0x00, &long[..300]));
        bytes.extend(frame(0x8a, b""));
        bytes.extend(frame(0x80, &long));
        bytes.extend(frame(0x81, b""));
        bytes.extend(frame(0x88, b"\x03\xe8bye"));
        bytes.extend(b"whatever");
        let joined = [b"fir", &long[..300], &long].concat();
        for at_once in [1, 2, 3, 7, 1000, bytes.len()] {
            let expected = [
                Step::Begin(Opcode::Binary),
                Step::Data(Bytes::from_static(b"whole")),
                Step::End,
                Step::Begin(Opcode::Binary),
                Step::Ping(Bytes::from_static(b"are you there")),
                Step::Pong,
                Step::Data(joined.clone().into()),
                Step::End,
                Step::Begin(Opcode::Text),
                Step::Data(Bytes::new()),
                Step::End,
                Step::Close(Some(1000)),
            ];
            assert_eq!(steps(&bytes, at_once).unwrap(), expected, "{at_once} at once");
        }
    }

    #[track_caller]
    fn refused(bytes: &[u8], code: u16) {
        for at_once in [1, bytes.len()] {
            let close = steps(bytes, at_once).unwrap_err();
            assert_eq!(close.code, code, "{bytes:?}: {}", close.reason);
        }
    }

    #[test]
    fn what_the_protocol_forbids_has_its_code() {
        refused(&[0x82, 0x01, b'x'], 1002);
        refused(&frame(0xc2, b"x"), 1002);
        refused(&frame(0xa2, b"x"), 1002);
        refused(&frame(0x92, b"x"), 1002);
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            refused(&frame(0x80 | opcode, b""), 1002);
        }
        refused(&frame(0x80, b"continues nothing"), 1002);
        refused(&[frame(0x02, b"a"), frame(0x82, b"b")].concat(), 1002);
        refused(&frame(0x09, b"in pieces"), 1002);
        refused(&frame(0x89, &[0; 126]), 1002);
        refused(&frame(0x88, b"x"), 1002);
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            refused(&frame(0x88, &code.to_be_bytes()), 1002);
        }
        refused(&frame(0x88, b"\x03\xe8\xff"), 1007);
        // A length in more bytes than it needs, and one with its highest bit.
        refused(&[0x82, 0xfe, 0, 125, 1, 2, 3, 4], 1002);
        refused(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4], 1002);
        refused(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1002);
    }

    #[test]
    fn a_message_is_as_long_as_it_may_be_and_no_longer() {
        let most = vec![1; 1 << 20];
        assert_eq!(steps(&frame(0x82, &most), 65536).unwrap().len(), 3);
        let mut over = frame(0x02, &most);
        over.extend(frame(0x80, b"x"));
        assert_eq!(steps(&over, 65536).unwrap_err().code, 1009);
        // By its header alone, before any of it has come.
        refused(&[0x82, 0xff, 0, 0, 0, 16, 0, 0, 0, 1, 1, 2, 3, 4], 1009);
    }

    #[tokio::test]
    async fn frames_are_written_whole_with_a_pong_between() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut writer = Writer::new(ours);
        let large = Bytes::from(vec![5; 70_000]);
        writer.frame(Opcode::Binary, false, Bytes::from_static(b"ab"));
        writer.frame(Opcode::Continuation, true, large.clone());
        writer.pong(Bytes::from_static(b"lost"));
        writer.pong(Bytes::from_static(b"hi"));
        writer.flush().await.unwrap();
        writer.close(&Close::new(1000, "é".repeat(100))).await.unwrap();
        let mut seen = Vec::new();
        theirs.read_to_end(&mut seen).await.unwrap();
        let mut expected = b"\x02\x02ab\x80\x7f\0\0\0\0\0\x01\x11\x70".to_vec();
        expected.extend_from_slice(&large);
        expected.extend_from_slice(b"\x8a\x02hi\x88\x7c\x03\xe8");
        expected.extend_from_slice("é".repeat(61).as_bytes());
        assert_eq!(seen, expected);
    }
}
