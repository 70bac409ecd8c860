//! Uuid lanes: how one caller has several requests in flight at one axon.
//!
//! A v10 axon remembers one nonce per `hotkey:uuid` and refuses any that is not
//! newer, so of two concurrent requests under one uuid the one that arrives late
//! is refused (weakness W12). A lane is a uuid with at most one request in
//! flight. Lanes are kept per target and reused, last used first, because an
//! axon remembers every uuid it ever saw.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// The lanes of one dendrite, per target.
#[derive(Debug)]
pub(crate) struct Lanes<K> {
    per_target: usize,
    max_targets: usize,
    targets: Mutex<Known<K>>,
}

#[derive(Debug)]
struct Known<K> {
    lanes: HashMap<K, Arc<TargetLanes>>,
    turn: u64,
}

#[derive(Debug)]
struct TargetLanes {
    free: Mutex<Vec<Arc<str>>>,
    permits: Arc<Semaphore>,
    last_used: AtomicU64,
}

/// A uuid that nobody else uses at this target until it is dropped.
pub(crate) struct Lane {
    uuid: Arc<str>,
    target: Arc<TargetLanes>,
    // After `drop` has put the uuid back, so that whoever gets the permit finds it.
    _permit: OwnedSemaphorePermit,
}

impl<K: Eq + Hash + Clone> Lanes<K> {
    /// `per_target` requests at a time to one target; lanes of up to about
    /// `max_targets` targets are remembered.
    pub(crate) fn new(per_target: usize, max_targets: usize) -> Self {
        let known = Known { lanes: HashMap::new(), turn: 0 };
        Self {
            per_target: per_target.max(1),
            max_targets: max_targets.max(1),
            targets: Mutex::new(known),
        }
    }

    /// Waits for a free lane to `key`.
    ///
    /// Cancel-safe: nothing is taken if the future is dropped.
    pub(crate) async fn take(&self, key: &K) -> Lane {
        let target = self.target(key);
        let permits = Arc::clone(&target.permits);
        let permit = permits.acquire_owned().await.expect("never closed");
        let uuid = locked(&target.free).pop().unwrap_or_else(|| Uuid::new_v4().to_string().into());
        Lane { uuid, target, _permit: permit }
    }

    fn target(&self, key: &K) -> Arc<TargetLanes> {
        let mut known = locked(&self.targets);
        known.turn += 1;
        let turn = known.turn;
        if let Some(target) = known.lanes.get(key) {
            target.last_used.store(turn, Ordering::Relaxed);
            return Arc::clone(target);
        }
        if known.lanes.len() >= self.max_targets {
            known.forget_half();
        }
        let target = Arc::new(TargetLanes {
            free: Mutex::default(),
            permits: Arc::new(Semaphore::new(self.per_target)),
            last_used: AtomicU64::new(turn),
        });
        known.lanes.insert(key.clone(), Arc::clone(&target));
        target
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        locked(&self.targets).lanes.len()
    }
}

impl<K: Eq + Hash + Clone> Known<K> {
    /// Forgets the half not used for longest, but never one in use: a second
    /// set of lanes beside it would break the bound.
    fn forget_half(&mut self) {
        let mut turns: Vec<u64> =
            self.lanes.values().map(|t| t.last_used.load(Ordering::Relaxed)).collect();
        let middle = turns.len() / 2;
        let (_, &mut median, _) = turns.select_nth_unstable(middle);
        self.lanes.retain(|_, t| {
            Arc::strong_count(t) > 1 || t.last_used.load(Ordering::Relaxed) > median
        });
    }
}

impl Lane {
    pub(crate) fn uuid(&self) -> &str {
        &self.uuid
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        locked(&self.target.free).push(Arc::clone(&self.uuid));
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lane").field(&self.uuid).finish()
    }
}

/// Nanoseconds since 1970 that only grow, over all lanes of one dendrite: so
/// they grow in each lane, and no two `btauth/1` requests share one.
#[derive(Debug, Default)]
pub(crate) struct NonceClock(AtomicU64);

impl NonceClock {
    /// The time now, or one more than the last nonce if the clock stood or went back.
    pub(crate) fn next(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.next_at(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    fn next_at(&self, now: u64) -> u64 {
        let next = |last: u64| now.max(last + 1);
        let last =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.expect("the update never declines"))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that runs under these locks can leave them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[tokio::test]
    async fn a_lane_is_never_shared_and_is_reused() {
        let lanes = Lanes::new(2, 10);
        let (a, b) = (lanes.take(&"axon").await, lanes.take(&"axon").await);
        assert_ne!(a.uuid(), b.uuid());
        let uuids = HashSet::from([a.uuid().to_owned(), b.uuid().to_owned()]);
        {
            let mut third = std::pin::pin!(lanes.take(&"axon"));
            let waiting = tokio::time::timeout(std::time::Duration::ZERO, &mut third).await;
            assert!(waiting.is_err(), "a third request must wait");
            drop(a);
            assert!(uuids.contains(third.await.uuid()));
        }
        drop(b);
        for _ in 0..10 {
            assert!(
                uuids.contains(lanes.take(&"axon").await.uuid()),
                "a new uuid although one was free"
            );
        }
    }

    #[tokio::test]
    async fn one_caller_at_a_time_needs_one_uuid() {
        let lanes = Lanes::new(64, 10);
        let mut seen = HashSet::new();
        for _ in 0..100 {
            seen.insert(lanes.take(&"axon").await.uuid().to_owned());
        }
        assert_eq!(seen.len(), 1);
        assert!(!seen.contains(lanes.take(&"other").await.uuid()), "targets share a uuid");
    }

    #[tokio::test]
    async fn memory_of_targets_is_bounded_and_those_in_use_stay() {
        let lanes = Lanes::new(4, 100);
        let held = lanes.take(&0).await;
        let waiting_at_zero = held.uuid().to_owned();
        for key in 1..1000 {
            drop(lanes.take(&key).await);
        }
        assert!(lanes.remembered() <= 100, "{} remembered", lanes.remembered());
        drop(held);
        assert_eq!(lanes.take(&0).await.uuid(), waiting_at_zero);
    }

    #[test]
    fn nonces_grow_even_if_the_clock_does_not() {
        let clock = NonceClock::default();
        assert_eq!(
            [clock.next_at(10), clock.next_at(10), clock.next_at(5), clock.next_at(50)],
            [10, 11, 12, 50]
        );
    }

    #[test]
    fn no_nonce_is_given_twice() {
        let clock = NonceClock::default();
        let all: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1000).map(|_| clock.next()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
