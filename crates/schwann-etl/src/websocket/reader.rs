//! Messages out of frames, as their bytes arrive.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::frame::{Close, Opcode, READ, code, header, unmask};

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

    /// A message of these fragments, each with pings before it, and what is to be read of it.
    fn message(fragments: &[(Vec<u8>, u8)]) -> (Vec<u8>, Vec<Step>) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        let mut data = Vec::new();
        for (at, (payload, pings)) in fragments.iter().enumerate() {
            let last = if at + 1 == fragments.len() { 0x80 } else { 0 };
            for n in 0..*pings {
                bytes.extend(frame(0x89, &[n]));
                expected.push(Step::Ping(vec![n].into()));
            }
            bytes.extend(frame(last | if at == 0 { 2 } else { 0 }, payload));
            if at == 0 {
                expected.push(Step::Begin(Opcode::Binary));
            }
            data.extend_from_slice(payload);
        }
        expected.extend([Step::Data(data.into()), Step::End]);
        (bytes, expected)
    }

    proptest::proptest! {
        #[test]
        fn any_messages_in_any_fragments_are_read_as_sent(
            messages in proptest::collection::vec(
                proptest::collection::vec(
                    (proptest::collection::vec(proptest::num::u8::ANY, 0..200), 0_u8..3), 1..5),
                1..4),
            at_once in 1_usize..600,
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for message in &messages {
                let (more, steps) = self::message(message);
                bytes.extend(more);
                expected.extend(steps);
            }
            assert_eq!(steps(&bytes, at_once).unwrap(), expected);
        }

        #[test]
        fn any_bytes_mean_the_same_however_they_arrive(
            begins in proptest::option::of(0_usize..4),
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            at_once in 1_usize..300,
        ) {
            // Some begin as something good, so that what follows is looked at as well.
            let good = [frame(0x82, b"whole"), frame(0x02, b"begun"), frame(0x89, b""), vec![0x82, 0x85]];
            let bytes = [begins.map_or_else(Vec::new, |at| good[at].clone()), bytes].concat();
            let whole = steps(&bytes, bytes.len().max(1));
            assert_eq!(whole, steps(&bytes, at_once));
            match whole {
                Ok(steps) => {
                    let data = steps.iter().map(|step| match step {
                        Step::Data(data) | Step::Ping(data) => data.len(),
                        _ => 0,
                    });
                    assert!(data.sum::<usize>() <= bytes.len());
                }
                Err(close) => assert!(matches!(close.code, 1002 | 1007 | 1009), "{close:?}"),
            }
        }
    }
}
