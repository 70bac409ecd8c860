//! HTTP as far as it is needed here, without an HTTP library, so that reading costs little.

use std::io;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// An answer whose body is read as it comes.
pub(crate) struct Answer {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// How much of the buffer was taken.
    taken: usize,
    head: String,
    framing: Framing,
}

#[derive(Clone, Copy)]
enum Framing {
    /// Bytes that are left of the body.
    Length(u64),
    /// Bytes that are left of a chunk; none before its size was read.
    Chunk(Option<u64>),
    Ended,
}

/// Sends a request on a connection of its own and reads the answer's head.
pub(crate) async fn ask(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: cards\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut whole = head.into_bytes();
    whole.extend_from_slice(body);
    stream.write_all(&whole).await?;
    let framing = Framing::Length(0);
    let mut answer = Answer { stream, buffer: Vec::new(), taken: 0, head: String::new(), framing };
    answer.read_head().await?;
    Ok(answer)
}

impl Answer {
    async fn read_head(&mut self) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            self.head.push_str(&line);
            self.head.push('\n');
        }
        let chunked = self.header("transfer-encoding").is_some_and(|value| value == "chunked");
        let length = self.header("content-length").and_then(|value| value.parse().ok());
        self.framing = match length {
            _ if chunked => Framing::Chunk(None),
            Some(length) => Framing::Length(length),
            None => return Err(io::Error::other(format!("no framing: {}", self.head))),
        };
        Ok(())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub(crate) fn is_good(&self) -> bool {
        self.head.get(9..10) == Some("2")
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
        }
        self.buffer.reserve(256 * 1024);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            let rest = &self.buffer[self.taken..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).trim_end().to_owned();
                self.taken += end + 1;
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    /// Hands the next of the body to `look`; false at its end. Fails if it was cut.
    pub(crate) async fn piece(&mut self, look: impl FnOnce(&[u8])) -> io::Result<bool> {
        loop {
            let left = match self.framing {
                Framing::Ended | Framing::Length(0) => return Ok(false),
                Framing::Length(left) | Framing::Chunk(Some(left)) => left,
                Framing::Chunk(None) => {
                    let line = self.line().await?;
                    match u64::from_str_radix(&line, 16).map_err(io::Error::other)? {
                        0 => {
                            self.line().await?;
                            self.framing = Framing::Ended;
                        }
                        size => self.framing = Framing::Chunk(Some(size)),
                    }
                    continue;
                }
            };
            if self.taken == self.buffer.len() {
                self.fill().await?;
            }
            let there = self.buffer.len() - self.taken;
            let taken = there.min(usize::try_from(left).unwrap_or(there));
            let from = self.taken;
            self.taken += taken;
            let left = left - taken as u64;
            match self.framing {
                Framing::Chunk(_) if left == 0 => {
                    look(&self.buffer[from..from + taken]);
                    self.line().await?;
                    self.framing = Framing::Chunk(None);
                    return Ok(true);
                }
                Framing::Chunk(_) => self.framing = Framing::Chunk(Some(left)),
                _ => self.framing = Framing::Length(left),
            }
            look(&self.buffer[from..from + taken]);
            return Ok(true);
        }
    }

    /// The whole body, of an answer that is good.
    pub(crate) async fn json(mut self) -> io::Result<Value> {
        let mut body = Vec::new();
        while self.piece(|piece| body.extend_from_slice(piece)).await? {}
        if !self.is_good() {
            let body = String::from_utf8_lossy(&body);
            return Err(io::Error::other(format!("{}{body}", self.head)));
        }
        serde_json::from_slice(&body).map_err(io::Error::other)
    }
}
