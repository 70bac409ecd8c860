//! RFC 6455 from the server's side: what stands in a frame. `reader` makes steps of them, `writer` makes them.
//!
//! Ours, because a frame here may be gigabytes long and its payload must be handed on as it arrives; the libraries there
//! are hand out whole messages.

use std::borrow::Cow;

/// No more is read, or written ahead, while this much waits.
pub(super) const READ: usize = 64 * 1024;
/// Longest payload of a control frame (RFC 6455 §5.5).
pub(super) const CONTROL: u64 = 125;

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

    pub(super) fn protocol(reason: &'static str) -> Self {
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

    pub(super) fn nibble(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What comes before a payload.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) last: bool,
    pub(super) opcode: Opcode,
    pub(super) length: u64,
    pub(super) mask: [u8; 4],
    /// Its own length.
    pub(super) bytes: usize,
}

/// RFC 6455 §5.2. What is wrong is said as soon as it can be seen.
pub(super) fn header(seen: &[u8]) -> Result<Option<Header>, Close> {
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
pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
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
