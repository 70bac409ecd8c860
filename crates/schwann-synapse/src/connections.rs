//! HTTP/1.1 connections to axons: dialled, kept for a while, used again.
//!
//! A pool of our own over hyper's connections, not hyper-util's client: a call
//! owns its connection (given up, it closes it at once), and gets the request
//! back if nothing of it was sent (so that repeating it is safe).

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, lookup_host},
    runtime,
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use crate::target::Target;

/// What bounds the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    /// How long an unused connection is kept.
    pub(crate) idle: Duration,
    pub(crate) idle_per_target: usize,
    pub(crate) idle_in_all: usize,
    /// Status line and headers of an answer.
    pub(crate) max_head_bytes: usize,
    pub(crate) max_headers: usize,
    pub(crate) dial_unspecified: bool,
}

/// Unused connections of one dendrite.
#[derive(Debug)]
pub(crate) struct Pool {
    limits: PoolLimits,
    idle: Mutex<Idle>,
    closed: watch::Receiver<bool>,
    open: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Idle {
    // A connection lives on the runtime that made it: handed to another one it
    // would stand still whenever its own does.
    by_place: HashMap<(runtime::Id, Place), Vec<Kept>>,
    count: usize,
    sweeping: bool,
    closed: bool,
}

type Place = (Arc<str>, u16);

struct Kept {
    connection: Connection,
    since: Instant,
}

/// A connection in use. Dropping it closes it.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
    place: Place,
    reused: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum DialError {
    /// The name has no address.
    Lookup(io::Error),
    /// Nobody answers there, or it is no address to dial.
    Connect(io::Error),
    /// It is no address to dial, so it was not tried.
    Refused(&'static str),
}

impl Pool {
    /// An empty pool, whose connections close when `closed` turns true.
    pub(crate) fn new(limits: PoolLimits, closed: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self { limits, idle: Mutex::default(), closed, open: watch::Sender::new(0) })
    }

    /// How many connections are open, in use or kept.
    pub(crate) fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_closed(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// An unused connection to `target`, if there is one that looks alive.
    pub(crate) fn kept(&self, target: &Target) -> Option<Connection> {
        let key = (runtime::Handle::current().id(), target.place());
        let mut dead = Vec::new();
        let found = {
            let mut idle = self.lock();
            let stack = idle.by_place.get_mut(&key)?;
            let mut found = None;
            while let Some(kept) = stack.pop() {
                let alive =
                    !kept.connection.sender.is_closed() && kept.since.elapsed() < self.limits.idle;
                if alive {
                    found = Some(kept.connection);
                    break;
                }
                dead.push(kept);
            }
            if stack.is_empty() {
                idle.by_place.remove(&key);
            }
            idle.count -= dead.len() + usize::from(found.is_some());
            found
        };
        // Outside the lock: closing wakes tasks.
        drop(dead);
        found.map(|mut connection| {
            connection.reused = true;
            connection
        })
    }

    /// A new connection.
    ///
    /// Cancel-safe: a connection half made is closed.
    pub(crate) async fn dial(&self, target: &Target) -> Result<Connection, DialError> {
        if target.port() == 0 {
            return Err(DialError::Refused("port 0"));
        }
        let addresses: Vec<SocketAddr> = match target.ip() {
            Some(ip) => vec![SocketAddr::new(ip, target.port())],
            None => lookup_host((target.host(), target.port()))
                .await
                .map_err(DialError::Lookup)?
                .collect(),
        };
        let mut last = None;
        for address in addresses {
            // Linux dials itself there. A neuron that does not serve is written so on the chain.
            if !self.limits.dial_unspecified && is_unspecified(address.ip()) {
                last = Some(DialError::Refused("the unspecified address"));
                continue;
            }
            match self.connect(target, address).await {
                Ok(connection) => return Ok(connection),
                Err(source) => last = Some(DialError::Connect(source)),
            }
        }
        Err(last.unwrap_or_else(|| DialError::Lookup(io::Error::other("the name has no address"))))
    }

    async fn connect(&self, target: &Target, address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        // A request is one write; waiting to fill a packet only delays it.
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(self.limits.max_head_bytes.max(8192))
            .max_header_size(self.limits.max_head_bytes)
            .max_headers(self.limits.max_headers)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let open = Open::new(&self.open);
        let mut closed = self.closed.clone();
        let task = tokio::spawn(async move {
            // Also while its call is not polled, as a stream nobody reads.
            tokio::select! {
                // Its failure reaches the call through the answer.
                _ = driver => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
            drop(open);
        });
        Ok(Connection { sender, task, place: target.place(), reused: false })
    }

    /// Takes back a connection whose answer was read to its end.
    pub(crate) fn keep(self: &Arc<Self>, connection: Connection) {
        if connection.sender.is_closed() || self.limits.idle.is_zero() {
            return;
        }
        let key = (runtime::Handle::current().id(), connection.place.clone());
        let mut idle = self.lock();
        if idle.closed || idle.count >= self.limits.idle_in_all {
            return;
        }
        let stack = idle.by_place.entry(key).or_default();
        if stack.len() >= self.limits.idle_per_target {
            return;
        }
        stack.push(Kept { connection, since: Instant::now() });
        idle.count += 1;
        if !idle.sweeping {
            idle.sweeping = true;
            tokio::spawn(sweep(Sweeping(Arc::downgrade(self)), self.limits.idle));
        }
    }

    /// Closes unused connections and keeps none from now on.
    pub(crate) fn close(&self) {
        let dropped = {
            let mut idle = self.lock();
            idle.closed = true;
            idle.count = 0;
            std::mem::take(&mut idle.by_place)
        };
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Counts are changed together with what they count, without a panic between.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what was unused for too long. `false` if nothing is left to watch.
    fn close_stale(&self) -> bool {
        let mut stale = Vec::new();
        let more = {
            let mut idle = self.lock();
            idle.by_place.retain(|_, stack| {
                // Oldest first, since the last used is used first.
                let fresh = stack.partition_point(|kept| kept.since.elapsed() >= self.limits.idle);
                stale.extend(stack.drain(..fresh));
                !stack.is_empty()
            });
            idle.count -= stale.len();
            idle.sweeping = idle.count > 0;
            idle.sweeping
        };
        drop(stale);
        more
    }
}

/// Counts one open connection while it lives.
struct Open(watch::Sender<usize>);

impl Open {
    fn new(open: &watch::Sender<usize>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// The one task that closes stale connections; it ends when there are none.
struct Sweeping(Weak<Pool>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        // Its runtime was shut down: let the next one start another.
        if let Some(pool) = self.0.upgrade() {
            pool.lock().sweeping = false;
        }
    }
}

async fn sweep(mut pool: Sweeping, every: Duration) {
    loop {
        tokio::time::sleep(every.max(Duration::from_millis(10))).await;
        let more = pool.0.upgrade().is_some_and(|pool| pool.close_stale());
        if !more {
            // The flag was lowered with the count, and may be up again for the next one.
            pool.0 = Weak::new();
            return;
        }
    }
}

impl Connection {
    /// Whether it carried a request before.
    pub(crate) fn reused(&self) -> bool {
        self.reused
    }

    /// Sends a request and waits for the head of its answer. A request of which
    /// nothing was sent comes back with the error.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        if self.reused {
            // Lets the runtime look at its sockets: an end that came while nothing ran here is
            // seen before the request is written into it, and so is no loss.
            tokio::task::yield_now().await;
        }
        // Right after an answer its connection may not have noticed that it is free. If it
        // was closed meanwhile, sending says so and gives the request back.
        let _ = self.sender.ready().await;
        self.sender.try_send_request(request).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({}:{})", self.place.0, self.place.1)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connection.fmt(f)
    }
}

fn is_unspecified(ip: IpAddr) -> bool {
    ip.to_canonical().is_unspecified()
}
