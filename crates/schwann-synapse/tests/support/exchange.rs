//! Bytes to an axon and what it answers, read as HTTP by rules of our own: a library would hide what is on the wire.

use std::time::Duration;

use schwann::{Server, serve_connection};
use schwann_synapse::axon::Axon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One answer, taken from the bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// In order, the names in lower case, each value a character for a byte.
    pub(crate) headers: Vec<(String, String)>,
    /// Without the framing.
    pub(crate) body: Vec<u8>,
    /// The chunks, where it came in chunks.
    pub(crate) chunks: Option<Vec<Vec<u8>>>,
    /// Whether it ended as HTTP says that it ends. What is ended by closing has no such end.
    pub(crate) whole: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The media type without parameters.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.header("content-type").map(|value| value.split(';').next().unwrap_or_default().trim())
    }
}

/// A head and what follows it. The head's lines, the first included, have no line ends.
pub(crate) fn split_head(bytes: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head: String = bytes[..end].iter().map(|byte| char::from(*byte)).collect();
    Some((head.split("\r\n").map(str::to_owned).collect(), &bytes[end + 4..]))
}

/// The headers of a head, the names in lower case.
pub(crate) fn headers(head: &[String]) -> Vec<(String, String)> {
    let pairs = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}

/// The answers in the bytes of a connection, to requests with these methods; the last may not be whole. Interim answers
/// are left out.
pub(crate) fn replies(mut bytes: &[u8], methods: &[&str], closed: bool) -> Vec<Reply> {
    let mut found = Vec::new();
    while let Some((head, rest)) = split_head(bytes) {
        let status = head[0].split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no status in {:?}", head[0]));
        if status / 100 == 1 {
            bytes = rest;
            continue;
        }
        let headers = headers(&head);
        let find = |name: &str| {
            headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        let method = methods.get(found.len()).copied().unwrap_or_default();
        let mut reply = Reply {
            status,
            body: Vec::new(),
            chunks: None,
            whole: false,
            headers: headers.clone(),
        };
        if method == "HEAD" || status == 204 || status == 304 {
            reply.whole = true;
            bytes = rest;
        } else if find("transfer-encoding") == Some("chunked") {
            let (chunks, end) = chunked(rest);
            reply.body = chunks.concat();
            reply.chunks = Some(chunks);
            reply.whole = end.is_some();
            bytes = &rest[end.unwrap_or(rest.len())..];
        } else if let Some(length) = find("content-length").and_then(|length| length.parse().ok()) {
            let length: usize = length;
            reply.whole = rest.len() >= length;
            let end = length.min(rest.len());
            reply.body = rest[..end].to_vec();
            bytes = &rest[end..];
        } else {
            reply.whole = closed;
            reply.body = rest.to_vec();
            bytes = &[];
        }
        found.push(reply);
    }
    found
}

/// The chunks, and where they end if they do.
fn chunked(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<usize>) {
    let (mut chunks, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") else {
            return (chunks, None);
        };
        let size = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        let size = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no size: {size:?}"));
        let start = at + line + 2;
        if bytes.len() < start + size + 2 {
            return (chunks, None);
        }
        if size == 0 {
            return (chunks, Some(start + 2));
        }
        chunks.push(bytes[start..start + size].to_vec());
        at = start + size + 2;
    }
}

/// The first methods of a request's bytes; enough to know which answers have no body.
pub(crate) fn method(request: &[u8]) -> String {
    let word = request.split(|byte| *byte == b' ').next().unwrap_or_default();
    String::from_utf8_lossy(word).into_owned()
}

/// Sends bytes over a connection of their own, and reads until `enough`, the axon closes, or `patience` has passed.
/// Says what came, and whether the axon closed.
pub(crate) async fn ask(
    axon: &Axon,
    request: &[u8],
    patience: Duration,
    enough: impl Fn(&[u8]) -> bool,
) -> (Vec<u8>, bool) {
    let (mut client, server) = tokio::io::duplex(256 * 1024);
    let axon = axon.clone();
    let served = tokio::spawn(async move {
        let limits = Server::default();
        // How a connection ends is judged by the client.
        let _ = serve_connection(&limits, server, axon).await;
    });
    let mut seen = Vec::new();
    let talk = async {
        // The axon may refuse before it has read all.
        let _ = client.write_all(request).await;
        let mut buffer = vec![0; 16 * 1024];
        while !enough(&seen) {
            match client.read(&mut buffer).await {
                Ok(0) | Err(_) => return true,
                Ok(n) => seen.extend_from_slice(&buffer[..n]),
            }
        }
        false
    };
    let closed = tokio::time::timeout(patience, talk).await.unwrap_or(false);
    drop(client);
    // A panic of the handler's is one of the test's; a connection that does not end with its client is a leak.
    match tokio::time::timeout(Duration::from_secs(600), served).await {
        Ok(ended) => ended.expect("serving does not panic"),
        Err(_) => panic!("the connection goes on after its client has left"),
    }
    (seen, closed)
}
