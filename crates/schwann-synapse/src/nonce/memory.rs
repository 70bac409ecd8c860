//! Admitted nonces in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blake2::Blake2bMac;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};

use super::{NonceError, NonceStore, reference};
use crate::ss58::Hotkey;

/// How much a store may remember.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Nonces in all; 1,048,576, some 50 MB when full.
    pub nonces: usize,
    /// Nonces of one hotkey; 131,072, or 2,000 requests a second over the longest window.
    pub per_hotkey: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { nonces: 1 << 20, per_hotkey: 1 << 17 }
    }
}

/// Nonces in memory, for one process: lost when it ends, so it needs a floor at its start (W4).
///
/// When a hotkey's room is used up, its new nonces are refused until old ones expire. When seven eighths
/// of all room are, only hotkeys below their fair share get more. Nothing remembered is ever evicted.
pub struct MemoryNonceStore {
    shards: Box<[Mutex<Shard>]>,
    /// After the secret, which is a block of its own.
    keyed: Blake2bMac<U16>,
    /// Hotkeys met last and their hashes, by the first byte.
    met: Box<[Mutex<Option<Met>>]>,
    room: Room,
    used: AtomicUsize,
    hotkeys: AtomicUsize,
    swept_ns: AtomicU64,
}

/// What is remembered of a nonce: who, and a keyed hash of lane and nonce. A collision refuses a fresh
/// nonce, never admits a used one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Mark {
    pub(crate) who: u64,
    pub(crate) what: u64,
}

/// A hotkey, and its keyed hash.
struct Met {
    hotkey: Hotkey,
    who: u64,
}

#[derive(Default)]
struct Shard {
    /// By about a second of nonces, so that forgetting is dropping a whole set.
    slices: BTreeMap<u64, HashSet<Mark, Marked>>,
    per_hotkey: HashMap<u64, usize, Marked>,
    /// Nonces below were forgotten.
    floor: u64,
    /// The longest time from a nonce to its expiry.
    longest: u64,
}

/// Marks are keyed hashes already: their bits serve as they are.
#[derive(Clone, Copy, Default)]
struct Marked;

impl std::hash::BuildHasher for Marked {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(0)
    }
}

struct Folded(u64);

impl std::hash::Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.rotate_left(23) ^ word;
    }
}

const SHARDS: usize = 16;
/// 2^30 ns, a little more than a second.
const SLICE_BITS: u32 = 30;
/// How often all shards are searched for what expired, at most, when room is short.
const SWEEP_EVERY_NS: u64 = 50_000_000;

impl MemoryNonceStore {
    /// A store with the default room.
    ///
    /// # Errors
    ///
    /// Fails if the operating system gives no random bytes.
    pub fn new() -> Result<MemoryNonceStore, crate::keys::KeyError> {
        MemoryNonceStore::with_room(Room::default())
    }

    /// A store with this much room.
    ///
    /// # Errors
    ///
    /// As [`MemoryNonceStore::new`].
    pub fn with_room(room: Room) -> Result<MemoryNonceStore, crate::keys::KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|_| crate::keys::KeyError::NoRandomness)?;
        Ok(MemoryNonceStore::with_secret(room, secret))
    }

    pub(super) fn with_secret(room: Room, secret: [u8; 32]) -> MemoryNonceStore {
        MemoryNonceStore {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            keyed: Blake2bMac::new_from_slice(&secret).expect("32 bytes, and up to 64 are allowed"),
            met: (0..256).map(|_| Mutex::default()).collect(),
            room,
            used: AtomicUsize::new(0),
            hotkeys: AtomicUsize::new(0),
            swept_ns: AtomicU64::new(0),
        }
    }

    /// How many nonces are remembered now.
    pub fn len(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn mark(&self, hotkey: &Hotkey, lane: &str, nonce: u64) -> Mark {
        Mark { who: self.who(hotkey), what: self.hash(&[&nonce.to_le_bytes(), lane.as_bytes()]) }
    }

    /// The hash of a hotkey, of whom mostly few come often.
    fn who(&self, hotkey: &Hotkey) -> u64 {
        let place = &self.met[usize::from(hotkey.as_bytes()[0])];
        let mut met = place.lock().unwrap_or_else(PoisonError::into_inner);
        match &*met {
            Some(met) if met.hotkey == *hotkey => met.who,
            _ => met.insert(Met { hotkey: *hotkey, who: self.hash(&[hotkey.as_bytes()]) }).who,
        }
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.keyed.clone();
        parts.iter().for_each(|part| hasher.update(part));
        let hash = hasher.finalize_fixed();
        u64::from_le_bytes(hash[..8].try_into().expect("8 of 16 bytes"))
    }

    pub(crate) fn admit_mark(
        &self,
        mark: Mark,
        nonce: u64,
        now_ns: u64,
        expires_ns: u64,
    ) -> Result<(), NonceError> {
        if self.len() >= self.crowded() {
            self.sweep(now_ns);
        }
        let mut shard = self.shard(mark);
        self.forget_expired(&mut shard, now_ns);
        if nonce < shard.floor {
            return Err(NonceError::TooOld {
                acceptable: reference::seconds(i128::from(now_ns) - i128::from(shard.floor)),
                age: reference::seconds(i128::from(now_ns) - i128::from(nonce)),
            });
        }
        let slice = nonce >> SLICE_BITS;
        if shard.slices.get(&slice).is_some_and(|seen| seen.contains(&mark)) {
            return Err(NonceError::Replayed);
        }
        self.make_room(&shard, mark)?;
        shard.longest = shard.longest.max(expires_ns.saturating_sub(nonce));
        shard.slices.entry(slice).or_default().insert(mark);
        let count = shard.per_hotkey.entry(mark.who).or_insert(0);
        if *count == 0 {
            self.hotkeys.fetch_add(1, Ordering::Relaxed);
        }
        *count += 1;
        Ok(())
    }

    /// Takes one place, or says who is the one to wait.
    fn make_room(&self, shard: &Shard, mark: Mark) -> Result<(), NonceError> {
        let own = shard.per_hotkey.get(&mark.who).copied().unwrap_or(0);
        if own >= self.room.per_hotkey {
            return Err(NonceError::HotkeyFull);
        }
        let used = self.used.fetch_add(1, Ordering::Relaxed);
        let fair = self.room.nonces / (self.hotkeys.load(Ordering::Relaxed) + 1);
        if used >= self.room.nonces || (used >= self.crowded() && own > 0 && own >= fair) {
            self.used.fetch_sub(1, Ordering::Relaxed);
            return Err(NonceError::StoreFull);
        }
        Ok(())
    }

    /// Takes back an admission that could not be kept.
    pub(crate) fn retract(&self, mark: Mark, nonce: u64) {
        let mut shard = self.shard(mark);
        let removed =
            shard.slices.get_mut(&(nonce >> SLICE_BITS)).is_some_and(|seen| seen.remove(&mark));
        if removed {
            self.release(&mut shard, mark);
        }
    }

    /// Refuses every nonce below this from now on.
    pub(crate) fn raise_floor(&self, floor: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.floor = shard.floor.max(floor);
        }
    }

    pub(crate) fn highest_floor(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).floor)
            .max()
            .unwrap_or(0)
    }

    fn crowded(&self) -> usize {
        self.room.nonces - self.room.nonces / 8
    }

    fn shard(&self, mark: Mark) -> MutexGuard<'_, Shard> {
        self.shards[(mark.who >> 32) as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self, now_ns: u64) {
        let last = self.swept_ns.load(Ordering::Relaxed);
        if now_ns < last.saturating_add(SWEEP_EVERY_NS)
            || self
                .swept_ns
                .compare_exchange(last, now_ns, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            self.forget_expired(&mut shard, now_ns);
        }
    }

    fn forget_expired(&self, shard: &mut Shard, now_ns: u64) {
        while let Some(oldest) = shard.slices.first_entry() {
            let end = (oldest.key() + 1).checked_shl(SLICE_BITS).unwrap_or(u64::MAX);
            if end.saturating_add(shard.longest) > now_ns {
                break;
            }
            let forgotten = oldest.remove();
            // Never again: without this floor a clock set back would let them in a second time.
            shard.floor = shard.floor.max(end);
            for mark in forgotten {
                self.release(shard, mark);
            }
        }
    }

    fn release(&self, shard: &mut Shard, mark: Mark) {
        self.used.fetch_sub(1, Ordering::Relaxed);
        if let std::collections::hash_map::Entry::Occupied(mut count) =
            shard.per_hotkey.entry(mark.who)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
                self.hotkeys.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl NonceStore for MemoryNonceStore {
    fn admit(
        &self,
        hotkey: &Hotkey,
        lane: &str,
        nonce: u64,
        now_ns: u64,
        expires_ns: u64,
    ) -> Result<(), NonceError> {
        self.admit_mark(self.mark(hotkey, lane, nonce), nonce, now_ns, expires_ns)
    }
}

impl fmt::Debug for MemoryNonceStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MemoryNonceStore")
            .field("room", &self.room)
            .field("used", &self.len())
            .finish_non_exhaustive()
    }
}
