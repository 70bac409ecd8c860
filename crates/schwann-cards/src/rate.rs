//! How often somebody may ask.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A bucket for each key: it holds a minute's worth, and refills steadily.
///
/// At most [`MAX_KEYS`](Self::MAX_KEYS) are remembered. Beyond that, those that are full again are forgotten, and if none is,
/// the one that was used longest ago: someone with very many addresses can so be let in more often, but takes no memory.
#[derive(Debug)]
pub(crate) struct RateLimit<K> {
    per_minute: u32,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash + Clone> RateLimit<K> {
    const MAX_KEYS: usize = 10_000;

    /// `per_minute` of 0 counts as 1.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.max(1), buckets: Mutex::default() }
    }

    /// Takes one from the bucket.
    ///
    /// # Errors
    ///
    /// If it is empty, fails with the seconds until it is not.
    pub(crate) fn take(&self, key: &K, now: Instant) -> Result<(), u64> {
        let rate = f64::from(self.per_minute) / 60.0;
        let full = f64::from(self.per_minute);
        // Nothing panics while it is held.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= Self::MAX_KEYS && !buckets.contains_key(key) {
            forget(&mut buckets, now);
        }
        let bucket = buckets.entry(key.clone()).or_insert(Bucket { left: full, at: now });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + passed * rate).min(full);
        bucket.at = now;
        if bucket.left < 1.0 {
            return Err(((1.0 - bucket.left) / rate).ceil() as u64);
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

fn forget<K: Eq + Hash + Clone>(buckets: &mut HashMap<K, Bucket>, now: Instant) {
    // After a minute any bucket is full.
    buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < Duration::from_secs(60));
    if buckets.len() < RateLimit::<K>::MAX_KEYS {
        return;
    }
    let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(key, _)| key.clone());
    if let Some(oldest) = oldest {
        buckets.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills_and_is_ones_own() {
        let limit = RateLimit::new(6);
        let start = Instant::now();
        for _ in 0..6 {
            assert_eq!(limit.take(&"a", start), Ok(()));
        }
        assert_eq!(limit.take(&"a", start), Err(10));
        assert_eq!(limit.take(&"b", start), Ok(()));
        assert_eq!(limit.take(&"a", start + Duration::from_secs(10)), Ok(()));
        assert!(limit.take(&"a", start + Duration::from_secs(10)).is_err());
    }

    #[test]
    fn keys_without_end_take_no_memory_without_end() {
        let limit = RateLimit::new(2);
        let start = Instant::now();
        for key in 0..2 * RateLimit::<usize>::MAX_KEYS {
            assert_eq!(limit.take(&key, start + Duration::from_nanos(key as u64)), Ok(()));
        }
        assert!(limit.buckets.lock().unwrap().len() <= RateLimit::<usize>::MAX_KEYS);
    }
}
