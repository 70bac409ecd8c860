//! A caller that speaks bytes over TCP, so that it can leave in the middle of anything.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
        Interest, ReadBuf,
    },
    net::{TcpSocket, TcpStream},
};

/// How long a test waits for an answer before it fails in place of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, as far as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// 0 if none came.
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body came to its proper end.
    pub(crate) complete: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `detail` of an error.
    #[track_caller]
    pub(crate) fn detail(&self) -> String {
        let json: serde_json::Value = match serde_json::from_slice(&self.body) {
            Ok(json) => json,
            Err(error) => panic!("{error}: {} {:?}", self.status, self.text()),
        };
        match json["detail"].as_str() {
            Some(detail) => detail.to_owned(),
            None => panic!("no detail: {json}"),
        }
    }
}

/// A connection, and what came while something was sent.
pub(crate) struct Incoming {
    pub(crate) stream: TcpStream,
    stash: BytesMut,
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stash.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let n = self.stash.len().min(buffer.remaining());
        buffer.put_slice(&self.stash[..n]);
        self.stash.advance(n);
        Poll::Ready(Ok(()))
    }
}

/// One connection.
pub(crate) struct Caller {
    pub(crate) stream: BufReader<Incoming>,
}

impl Caller {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, None).await
    }

    /// With a receive buffer of this size, so that little is on its way when this stops reading.
    pub(crate) async fn connect_with(address: SocketAddr, receive: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(size) = receive {
            socket.set_recv_buffer_size(size).expect("a size");
        }
        let stream = socket.connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream: BufReader::new(Incoming { stream, stash: BytesMut::new() }) }
    }

    /// Sends bytes as they are, and takes what comes meanwhile, so that neither side waits for the other. Says whether the
    /// server took them all.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = tokio::time::timeout(PATIENCE, self.send_all(bytes.as_ref())).await;
        sent.expect("the server takes bytes, or leaves").is_ok()
    }

    async fn send_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        let Incoming { stream, stash } = self.stream.get_mut();
        let mut interest = Interest::READABLE | Interest::WRITABLE;
        while !rest.is_empty() {
            let ready = stream.ready(interest).await?;
            if ready.is_writable() {
                match stream.try_write(rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if interest.is_readable() && ready.is_readable() {
                match stream.try_read_buf(stash) {
                    Ok(0) => interest = Interest::WRITABLE,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Sends a request's head. Header lines end in `\r\n`.
    pub(crate) async fn head(&mut self, method: &str, target: &str, headers: &str) -> bool {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: etl\r\n{headers}\r\n")).await
    }

    /// Sends a request with a body of known length.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> bool {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        self.head(method, target, &headers).await && (body.is_empty() || self.send(body).await)
    }

    /// Says that no more will be sent.
    pub(crate) async fn end(&mut self) {
        // The server may be gone already.
        let _ = self.stream.get_mut().stream.shutdown().await;
    }

    /// Leaves with a reset.
    pub(crate) fn reset(self) {
        let _ = self.stream.get_ref().stream.set_zero_linger();
    }

    /// Reads an answer's head; interim answers are passed over.
    pub(crate) async fn answer_head(&mut self) -> Answer {
        let reading = async {
            loop {
                let mut line = String::new();
                if self.stream.read_line(&mut line).await? == 0 {
                    return Ok(Answer::default());
                }
                let bad = || io::Error::other(format!("not an answer: {line:?}"));
                let status = line.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
                let mut answer = Answer { status, ..Answer::default() };
                loop {
                    let mut line = String::new();
                    self.stream.read_line(&mut line).await?;
                    let Some((name, value)) = line.trim_end().split_once(':') else { break };
                    answer.headers.push((name.to_owned(), value.trim().to_owned()));
                }
                if status >= 200 || status == 101 {
                    return Ok(answer);
                }
            }
        };
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(answer)) => answer,
            // A reset: nothing came.
            Ok(Err::<_, io::Error>(_)) => Answer::default(),
            Err(_) => panic!("no answer came"),
        }
    }

    /// Reads an answer to its end, or until this many bytes of its body have come.
    pub(crate) async fn answer_until(&mut self, count: usize) -> Answer {
        let mut answer = self.answer_head().await;
        if answer.status == 0 {
            return answer;
        }
        let reading = read_body(&mut self.stream, &mut answer, count);
        let read = tokio::time::timeout(PATIENCE, reading).await;
        let read = read.unwrap_or_else(|_| panic!("the answer does not go on"));
        answer.complete = matches!(read, Ok(true));
        answer
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_until(usize::MAX).await
    }
}

/// Says whether the body came to its proper end.
async fn read_body(
    from: &mut BufReader<Incoming>,
    answer: &mut Answer,
    count: usize,
) -> io::Result<bool> {
    if matches!(answer.status, 204 | 304 | 101) {
        return Ok(true);
    }
    let chunked = answer.header("transfer-encoding").is_some_and(|te| te.contains("chunked"));
    let length: Option<usize> = answer.header("content-length").and_then(|l| l.parse().ok());
    let mut left = length.unwrap_or(usize::MAX);
    loop {
        if chunked {
            let mut line = String::new();
            if from.read_line(&mut line).await? == 0 {
                return Ok(false);
            }
            left = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        }
        let last = chunked && left == 0;
        while left > 0 {
            let mut piece = vec![0; left.min(64 * 1024)];
            let n = from.read(&mut piece).await?;
            if n == 0 {
                // The end of the connection is the end of the body only if nothing else says it.
                return Ok(!chunked && length.is_none());
            }
            left -= n;
            answer.body.extend_from_slice(&piece[..n]);
            if answer.body.len() >= count {
                return Ok(false);
            }
        }
        if chunked {
            let mut end = String::new();
            if from.read_line(&mut end).await? == 0 {
                return Ok(false);
            }
        }
        if last || !chunked {
            return Ok(true);
        }
    }
}

/// One exchange on a connection of its own.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let mut caller = Caller::connect(address).await;
    caller.request(method, target, headers, body).await;
    caller.answer().await
}

/// A message or an end of a WebSocket.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    /// The code of a close frame, 1005 if it had none.
    Close(u16),
    /// The connection ended, in the middle of a message or not.
    Gone,
}

/// A WebSocket that has been opened.
pub(crate) struct Socket {
    pub(crate) caller: Caller,
}

pub(crate) const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

impl Socket {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut caller = Caller::connect(address).await;
        caller.head("GET", "/ws", UPGRADE).await;
        let answer = caller.answer_head().await;
        assert_eq!(answer.status, 101, "{answer:?}");
        // RFC 6455 §1.3 has this very key.
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        Self { caller }
    }

    /// A frame of a client, with `first` as its first byte.
    pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Self::frame_head(first, payload.len() as u64);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// The head of a frame that claims this length.
    pub(crate) fn frame_head(first: u8, length: u64) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame
    }

    pub(crate) async fn binary(&mut self, payload: &[u8]) -> bool {
        self.caller.send(Self::frame(0x82, payload)).await
    }

    /// Control message of an object.
    pub(crate) async fn control(&mut self, control: serde_json::Value) -> bool {
        self.binary(control.to_string().as_bytes()).await
    }

    /// The next message, put together of its fragments.
    pub(crate) async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(PATIENCE, self.read()).await;
        next.expect("a message comes, or the end").unwrap_or(Message::Gone)
    }

    async fn read(&mut self) -> io::Result<Message> {
        let from = &mut self.caller.stream;
        let (mut kind, mut data) = (0, Vec::new());
        loop {
            let first = from.read_u8().await?;
            let length = match from.read_u8().await? {
                126 => u64::from(from.read_u16().await?),
                127 => from.read_u64().await?,
                length => u64::from(length),
            };
            let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            from.read_exact(&mut payload).await?;
            match first & 0xF {
                8 => {
                    let code = payload.get(..2).map_or(1005, |c| u16::from_be_bytes([c[0], c[1]]));
                    return Ok(Message::Close(code));
                }
                10 => return Ok(Message::Pong(payload)),
                0 => {}
                opcode => kind = opcode,
            }
            data.extend(payload);
            if first & 0x80 != 0 {
                return Ok(match kind {
                    1 => Message::Text(String::from_utf8(data).map_err(io::Error::other)?),
                    _ => Message::Binary(data),
                });
            }
        }
    }
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
