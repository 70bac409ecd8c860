//! A client that writes frames as a test wants them.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long a test waits for what must happen before it fails instead of hanging.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

pub(crate) const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: t\r\nupgrade: websocket\r\n\
     connection: keep-alive, Upgrade\r\nsec-websocket-version: 13\r\n\
     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub(crate) struct Client<I> {
    io: I,
    seen: BytesMut,
}

/// What the server sent: a frame's first byte and its payload.
pub(crate) type Frame = (u8, Vec<u8>);

impl<I: AsyncRead + AsyncWrite + Unpin> Client<I> {
    pub(crate) fn of(io: I) -> Self {
        Self { io, seen: BytesMut::new() }
    }

    pub(crate) fn into_parts(self) -> (I, BytesMut) {
        (self.io, self.seen)
    }

    pub(crate) async fn connect(io: I) -> Self {
        let mut client = Self::of(io);
        client.raw(HANDSHAKE.as_bytes()).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // The example of RFC 6455 §1.3.
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        client
    }

    /// Reads up to the end of an HTTP head.
    pub(crate) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.seen.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.seen.split_to(end + 4);
                return String::from_utf8(head.to_vec()).unwrap();
            }
            assert_ne!(self.more().await, 0, "no head");
        }
    }

    async fn more(&mut self) -> usize {
        let read = tokio::time::timeout(PATIENCE, self.io.read_buf(&mut self.seen)).await;
        read.expect("nothing came").unwrap_or(0)
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// Writes as much as the server takes within 200 ms; how much that was.
    pub(crate) async fn write_what_is_taken(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let patience = std::time::Duration::from_millis(200);
        while taken < bytes.len() {
            match tokio::time::timeout(patience, self.io.write(&bytes[taken..])).await {
                Ok(n) => taken += n.unwrap(),
                Err(_) => break,
            }
        }
        taken
    }

    pub(crate) async fn frame(&mut self, first: u8, payload: &[u8]) {
        self.raw(&frame(first, payload)).await;
    }

    pub(crate) async fn control(&mut self, json: &str) {
        self.frame(0x82, json.as_bytes()).await;
    }

    pub(crate) async fn object(&mut self, payload: &[u8]) {
        self.frame(0x82, payload).await;
    }

    /// The next frame, or `None` once the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((first, payload, whole)) = parse(&self.seen) {
                self.seen.advance(whole);
                return Some((first, payload));
            }
            if self.more().await == 0 {
                assert!(self.seen.is_empty(), "half a frame: {:?}", self.seen);
                return None;
            }
        }
    }

    /// The next message: its opcode and payload, from all its frames.
    pub(crate) async fn message(&mut self) -> (u8, Vec<u8>) {
        let (first, mut payload) = self.next().await.expect("closed");
        let mut last = first & 0x80 != 0;
        while !last {
            let (next, more) = self.next().await.expect("closed within a message");
            assert_eq!(next & 0x0f, 0, "another frame within a message");
            last = next & 0x80 != 0;
            payload.extend(more);
        }
        (first & 0x0f, payload)
    }

    pub(crate) async fn text(&mut self) -> String {
        let (opcode, payload) = self.message().await;
        let payload = String::from_utf8(payload).unwrap();
        assert_eq!(opcode, 1, "{payload}");
        payload
    }

    pub(crate) async fn content(&mut self) -> Vec<u8> {
        let (opcode, payload) = self.message().await;
        assert_eq!(opcode, 2, "{}", String::from_utf8_lossy(&payload));
        payload
    }

    /// The code with which the server closes, after which nothing may come.
    pub(crate) async fn closed(&mut self) -> u16 {
        let (first, payload) = self.next().await.expect("no close frame");
        assert_eq!(first, 0x88, "{}", String::from_utf8_lossy(&payload));
        assert!(std::str::from_utf8(&payload[2..]).is_ok());
        assert!(self.next().await.is_none(), "something after the close");
        u16::from_be_bytes([payload[0], payload[1]])
    }
}

/// A client's frame of a payload.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    let mask = [0xa5, 0x01, 0x00, 0xfe];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The same up to its mask.
pub(crate) fn header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..126 => header.push(0x80 | length as u8),
        126..65536 => {
            header.push(0xfe);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(0xff);
            header.extend(length.to_be_bytes());
        }
    }
    header
}

fn parse(seen: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (&first, rest) = seen.split_first()?;
    let (&short, rest) = rest.split_first()?;
    assert_eq!(short & 0x80, 0, "a server does not mask");
    let (length, at) = match short {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let end = at + length as usize;
    Some((first, seen.get(at..end)?.to_vec(), end))
}
