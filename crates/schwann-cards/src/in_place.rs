//! Which writes the runtime's own threads may do.
//!
//! A small write and its `fdatasync` take some 150 µs on a disk that is well. Having them done by a thread for blocking
//! work, and being told of it, takes nearly as long again, for two threads have to be woken. So one write at a time is
//! done in place, as long as the disk is quick, and all others are not.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::{Handle, RuntimeFlavor};

/// A write that took longer was not quick.
const QUICK: Duration = Duration::from_millis(1);
/// After one that was not, none is done in place for so many times as long: slow writes hold a thread of the runtime for a
/// fiftieth of its time at most. A disk that is well has one such write in a hundred.
const PENANCE: u32 = 50;
/// No longer than this.
const LONGEST: Duration = Duration::from_secs(10);

/// The one place.
#[derive(Debug, Default)]
pub(crate) struct InPlace {
    taken: AtomicBool,
    /// Until when the disk counts as slow.
    slow: Mutex<Option<Instant>>,
}

/// The right to write in place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    of: &'a InPlace,
    began: Instant,
}

impl InPlace {
    /// The place, if it is free, the disk is quick, and another thread of the
    /// runtime is there for everything else meanwhile.
    pub(crate) fn take(&self) -> Option<Place<'_>> {
        let handle = Handle::try_current().ok()?;
        let alone = handle.runtime_flavor() == RuntimeFlavor::CurrentThread
            || handle.metrics().num_workers() < 2;
        if alone || self.is_slow() || self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(Place { of: self, began: Instant::now() })
    }

    fn is_slow(&self) -> bool {
        let slow = *self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        slow.is_some_and(|until| Instant::now() < until)
    }

    /// Notes how long a write took, wherever it was done.
    pub(crate) fn note(&self, took: Duration) {
        if took > QUICK {
            let until = Instant::now() + took.saturating_mul(PENANCE).min(LONGEST);
            let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
            *slow = (*slow).max(Some(until));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.of.note(self.began.elapsed());
        self.of.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_place_and_only_beside_another_thread() {
        let place = InPlace::default();
        assert!(place.take().is_none(), "without a runtime");
        let alone = tokio::runtime::Builder::new_current_thread().build().unwrap();
        alone.block_on(async { assert!(place.take().is_none(), "with one thread") });
        let two = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        two.block_on(async {
            let first = place.take().expect("it is free");
            assert!(place.take().is_none(), "it is taken");
            drop(first);
            assert!(place.take().is_some(), "it is free again");
        });
    }

    #[test]
    fn a_slow_disk_is_not_waited_for_in_place() {
        let place = InPlace::default();
        let two = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        two.block_on(async {
            place.note(Duration::from_micros(200));
            assert!(place.take().is_some());
            place.note(Duration::from_secs(3600));
            assert!(place.take().is_none());
            let until = place.slow.lock().unwrap().unwrap();
            let left = until.saturating_duration_since(Instant::now());
            assert!(left <= LONGEST && left > LONGEST / 2, "{left:?}");
            // A quick one beside it does not end that; time does.
            place.note(Duration::from_micros(200));
            assert!(place.take().is_none());
            *place.slow.lock().unwrap() = Some(Instant::now());
            assert!(place.take().is_some());
        });
    }
}
