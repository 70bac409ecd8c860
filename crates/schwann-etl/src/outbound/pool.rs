//! Unused connections.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    lock,
    wire::{Place, Wire},
};

/// How long a connection must have been unused to carry a body that can be had only once: by then we know if the other
/// end closed it after its answer.
const RESTED: Duration = Duration::from_millis(20);
/// And for how long at most, since common servers close connections after 5 s.
const FRESH: Duration = Duration::from_secs(4);

/// Unused connections.
pub(super) struct Pool {
    idle: Mutex<Idle>,
    most: usize,
    expiry: Duration,
}

#[derive(Default)]
struct Idle {
    by_place: HashMap<Place, Vec<(Wire, Instant)>>,
    count: usize,
    sweeping: bool,
}

impl Pool {
    /// Keeps so many connections for so long.
    pub(super) fn new(most: usize, expiry: Duration) -> Self {
        Self { idle: Mutex::default(), most, expiry }
    }

    /// An unused connection, if there is one that looks alive. The one used last is the likeliest to be.
    /// `surely` wants one of which that is better known.
    pub(super) fn take(&self, place: &Place, surely: bool) -> Option<Wire> {
        loop {
            let (mut wire, since) = {
                let mut idle = self.lock();
                let stack = idle.by_place.get_mut(place)?;
                let taken = if surely {
                    let good = |since: &Instant| (RESTED..FRESH).contains(&since.elapsed());
                    stack.remove(stack.iter().position(|(_, since)| good(since))?)
                } else {
                    stack.pop()?
                };
                idle.count -= 1;
                taken
            };
            // Notices what the other end has sent or closed meanwhile.
            let _ = wire.drive(&mut Context::from_waker(Waker::noop()));
            if wire.is_usable() && since.elapsed() < self.expiry {
                return Some(wire);
            }
        }
    }

    pub(super) fn keep(self: &Arc<Self>, wire: Wire) {
        let mut idle = self.lock();
        if idle.count >= self.most || self.expiry.is_zero() {
            drop(idle);
            return;
        }
        idle.count += 1;
        let stack = match idle.by_place.get_mut(&wire.place) {
            Some(stack) => stack,
            None => idle.by_place.entry(wire.place.clone()).or_default(),
        };
        stack.push((wire, Instant::now()));
        if !idle.sweeping {
            idle.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.expiry));
        }
    }

    /// Closes what was unused for too long. `false` if nothing is left to watch.
    fn close_stale(&self) -> bool {
        let mut stale = Vec::new();
        let mut idle = self.lock();
        idle.by_place.retain(|_, stack| {
            // Oldest first, since the last used is used first.
            let fresh = stack.partition_point(|(_, since)| since.elapsed() >= self.expiry);
            stale.extend(stack.drain(..fresh));
            !stack.is_empty()
        });
        idle.count -= stale.len();
        idle.sweeping = idle.count > 0;
        let more = idle.sweeping;
        drop(idle);
        drop(stale);
        more
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        lock(&self.idle)
    }
}

/// Runs while there is something to close.
async fn sweep(pool: Weak<Pool>, expiry: Duration) {
    let mut often = tokio::time::interval(expiry.max(Duration::from_millis(100)));
    often.tick().await;
    loop {
        often.tick().await;
        match pool.upgrade() {
            Some(pool) if pool.close_stale() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper_rustls::MaybeHttpsStream;
    use hyper_util::rt::TokioIo;
    use tokio::{
        net::{TcpListener, TcpStream},
        time::{advance, pause, resume},
    };

    use super::*;

    const EXPIRY: Duration = Duration::from_secs(30);

    /// A connection whose other end is open, in a pool from this moment on. The clock stands still.
    async fn kept() -> (Arc<Pool>, Place, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (other, _) = listener.accept().await.unwrap();
        let authority = address.to_string().parse().unwrap();
        let place = Place { secure: false, authority };
        let stream = MaybeHttpsStream::Http(TokioIo::new(stream));
        let wire = Wire::begin(stream, place.clone(), Duration::from_secs(60)).await.unwrap();
        let pool = Arc::new(Pool::new(8, EXPIRY));
        pause();
        pool.keep(wire);
        (pool, place, other)
    }

    #[tokio::test]
    async fn a_body_that_can_be_had_only_once_takes_a_rested_and_fresh_connection() {
        for (millis, once, any) in [
            (0, false, true),
            (19, false, true),
            (20, true, true),
            (3999, true, true),
            (4000, false, true),
            (29_999, false, true),
            (30_000, false, false),
        ] {
            for (surely, expected) in [(true, once), (false, any)] {
                let (pool, place, _other) = kept().await;
                advance(Duration::from_millis(millis)).await;
                let taken = pool.take(&place, surely).is_some();
                assert_eq!(taken, expected, "after {millis} ms, surely: {surely}");
                resume();
            }
        }
    }

    #[tokio::test]
    async fn a_connection_whose_other_end_has_closed_is_offered_to_nobody() {
        let (pool, place, other) = kept().await;
        resume();
        let mut wire = pool.take(&place, false).unwrap();
        drop(other);
        // Until the end has come.
        std::future::poll_fn(|cx| {
            let _ = wire.drive(cx);
            if wire.is_open() { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        })
        .await;
        pool.keep(wire);
        assert!(pool.take(&place, false).is_none());
    }
}
