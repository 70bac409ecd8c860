//! Functions as transforms. Any [`Handler`] is one; these save the handling.

use std::{
    fmt,
    io::{self, Read, Write},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Response, StatusCode, header};
use schwann::{
    BlockingPool, BlockingReader, BlockingReply, BlockingStream, Call, Error, Finished, Handler,
};

use crate::Object;

/// Threads that transforms may hold at a time. Many, because one that waits for its input holds its thread, too.
const THREADS: usize = 256;
/// Transforms that may wait for one. Further ones are refused with 503.
const QUEUE: usize = 1024;

/// A transform of whole objects: `f` gets all bytes and returns all of the result.
///
/// It runs on a thread where it may block or compute. The object is read to its end before, so that one that was cut
/// never gets there.
pub fn buffered<F, R>(f: F) -> Buffered<F>
where
    F: Fn(&Object, Bytes) -> Result<R, Error> + Send + Sync + 'static,
    R: Into<Bytes> + Send + 'static,
{
    Buffered { f: Arc::new(f), pool: BlockingPool::new(THREADS, QUEUE), content_type: None }
}

/// A transform of objects of any size: `f` reads and writes as it likes, in flat memory.
///
/// It runs on a thread of its own. The answer begins with the first bytes that it writes; an error before them is a 500
/// with its text, an error after them cuts the answer visibly. Once the caller is gone, reading and writing fail with
/// [`io::ErrorKind::BrokenPipe`].
pub fn streaming<F>(f: F) -> Streaming<F>
where
    F: Fn(&Object, &mut Input, &mut Output) -> io::Result<()> + Send + Sync + 'static,
{
    Streaming { f: Arc::new(f), pool: BlockingPool::new(THREADS, QUEUE), content_type: None }
}

/// Made by [`buffered`].
pub struct Buffered<F> {
    f: Arc<F>,
    pool: BlockingPool,
    content_type: Option<HeaderValue>,
}

/// Made by [`streaming`].
pub struct Streaming<F> {
    f: Arc<F>,
    pool: BlockingPool,
    content_type: Option<HeaderValue>,
}

macro_rules! settings {
    ($of:ident) => {
        impl<F> $of<F> {
            /// What results are; `application/octet-stream` if not told.
            #[must_use]
            pub fn content_type(mut self, value: HeaderValue) -> Self {
                self.content_type = Some(value);
                self
            }

            /// Runs on these threads instead of 256 of its own with 1,024 waiting.
            #[must_use]
            pub fn on(mut self, pool: BlockingPool) -> Self {
                self.pool = pool;
                self
            }
        }

        impl<F> fmt::Debug for $of<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($of)).field("pool", &self.pool).finish_non_exhaustive()
            }
        }
    };
}

settings!(Buffered);
settings!(Streaming);

impl<F, R> Handler for Buffered<F>
where
    F: Fn(&Object, Bytes) -> Result<R, Error> + Send + Sync + 'static,
    R: Into<Bytes> + Send + 'static,
{
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let (head, body, reply) = call.into_parts();
        let data = body.collect().await?;
        let f = Arc::clone(&self.f);
        let object = Object::of(&head).clone();
        let result = self.pool.run(move || f(&object, data).map(Into::into)).await??;
        Ok(reply.send(ok(self.content_type.as_ref()), result))
    }
}

impl<F> Handler for Streaming<F>
where
    F: Fn(&Object, &mut Input, &mut Output) -> io::Result<()> + Send + Sync + 'static,
{
    async fn call(&self, call: Call) -> Result<Finished, Error> {
        let (head, mut body, reply) = call.into_parts();
        // No thread is taken for an upload that has not begun.
        let first = body.chunk().await?;
        let watch = body.watch();
        let f = Arc::clone(&self.f);
        let object = Object::of(&head).clone();
        let head = ok(self.content_type.as_ref());
        let run = move || {
            let ended = first.is_none();
            let first = first.unwrap_or_default();
            let mut input = Input { first, ended, rest: BlockingReader::new(body) };
            let mut output = Output { head, state: State::Waiting(BlockingReply::new(reply)) };
            f(&object, &mut input, &mut output)?;
            if let Some(failure) = watch.failed() {
                // It took a failed read for the end.
                let text = failure.public_message.clone();
                return Err(Error::busy(text).with_status(failure.status));
            }
            Ok(output.finish())
        };
        self.pool.run(run).await?
    }
}

fn ok(content_type: Option<&HeaderValue>) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::OK;
    if let Some(value) = content_type {
        head.headers_mut().insert(header::CONTENT_TYPE, value.clone());
    }
    head
}

/// The object's bytes, as they arrive.
#[derive(Debug)]
pub struct Input {
    first: Bytes,
    ended: bool,
    rest: BlockingReader,
}

impl Input {
    /// The next bytes as they came, without a copy, or `None` at the end.
    ///
    /// # Errors
    ///
    /// Fails if the object breaks off.
    pub fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if !self.first.is_empty() {
            return Ok(Some(std::mem::take(&mut self.first)));
        }
        if self.ended { Ok(None) } else { Ok(self.rest.chunk()?) }
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.first.is_empty() {
            let n = self.first.len().min(buf.len());
            self.first.copy_to_slice(&mut buf[..n]);
            return Ok(n);
        }
        if self.ended { Ok(0) } else { self.rest.read(buf) }
    }
}

/// Where the result goes. What is written leaves at once: for many small pieces, put an [`io::BufWriter`] around it.
#[derive(Debug)]
pub struct Output {
    head: Response<()>,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(BlockingReply),
    Started(BlockingStream),
    /// Only while it is started.
    Between,
}

impl Output {
    /// Writes a piece without copying it.
    ///
    /// # Errors
    ///
    /// Fails if the caller or the destination is gone.
    pub fn write_bytes(&mut self, piece: impl Into<Bytes>) -> io::Result<()> {
        let piece = piece.into();
        if piece.is_empty() {
            return Ok(());
        }
        Ok(self.started().write_bytes(piece)?)
    }

    fn started(&mut self) -> &mut BlockingStream {
        if let State::Waiting(_) = self.state {
            let State::Waiting(reply) = std::mem::replace(&mut self.state, State::Between) else {
                unreachable!("looked at above");
            };
            self.state = State::Started(reply.start(std::mem::take(&mut self.head)));
        }
        match &mut self.state {
            State::Started(stream) => stream,
            State::Waiting(_) | State::Between => unreachable!("started above"),
        }
    }

    fn finish(mut self) -> Finished {
        self.started();
        match self.state {
            State::Started(stream) => stream.finish(),
            State::Waiting(_) | State::Between => unreachable!("started above"),
        }
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.started().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
