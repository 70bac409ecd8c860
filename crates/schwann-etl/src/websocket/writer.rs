//! Frames into bytes, with a pong where it may stand.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::frame::{CONTROL, Close, Opcode, READ};

/// Payloads up to this length are copied behind their header instead of being written by themselves.
const COPIED: usize = 16 * 1024;

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
    use tokio::io::AsyncReadExt as _;

    use super::*;

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
