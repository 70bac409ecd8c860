//! HTTP messages, read without an HTTP library, so that reading costs little.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// A message whose body was read and dropped.
pub(crate) struct Message {
    /// The first line.
    pub(crate) line: String,
    /// Bytes of its body.
    pub(crate) body: u64,
    /// Another may follow on this connection.
    pub(crate) kept: bool,
}

impl Message {
    pub(crate) fn status(&self) -> Option<u16> {
        self.line.get(9..12)?.parse().ok()
    }
}

/// Reads a message to its end; `None` if the connection ended before it began.
pub(crate) async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Message>> {
    let mut line = String::new();
    if from.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let is_answer = line.starts_with("HTTP/");
    let mut kept = !line.starts_with("HTTP/1.0");
    let (mut length, mut chunked) = (None, false);
    let mut header = String::new();
    loop {
        header.clear();
        if from.read_line(&mut header).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            kept &= !value.eq_ignore_ascii_case("close");
        }
    }
    let bodiless = line.get(9..12) == Some("204") && is_answer;
    let body = match (chunked, length) {
        _ if bodiless => 0,
        (true, _) => {
            let mut all = 0;
            loop {
                header.clear();
                from.read_line(&mut header).await?;
                let size = u64::from_str_radix(header.trim_end(), 16).map_err(io::Error::other)?;
                skip(from, size + 2).await?;
                if size == 0 {
                    break all;
                }
                all += size;
            }
        }
        (false, Some(length)) => {
            skip(from, length).await?;
            length
        }
        (false, None) if is_answer => {
            kept = false;
            to_the_end(from).await?
        }
        (false, None) => 0,
    };
    Ok(Some(Message { line, body, kept }))
}

/// Reads so many bytes and drops them.
pub(crate) async fn skip(from: &mut (impl AsyncBufRead + Unpin), mut count: u64) -> io::Result<()> {
    while count > 0 {
        let there = from.fill_buf().await?.len();
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = (there as u64).min(count);
        from.consume(usize::try_from(taken).unwrap_or(there));
        count -= taken;
    }
    Ok(())
}

async fn to_the_end(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<u64> {
    let mut all = 0;
    loop {
        let there = from.fill_buf().await?.len();
        if there == 0 {
            return Ok(all);
        }
        from.consume(there);
        all += there as u64;
    }
}
