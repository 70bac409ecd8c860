//! The nonce rule of SDK 7.2 to 10.5, to the nanosecond and the rounding (§8).
//!
//! It is weaker than [`super::Freshness`]: unsigned headers turn the window off (W3), there is no upper
//! end (W5), and a nonce that arrives out of order is lost (W12).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use super::NonceError;

/// `version_as_int` of 7.2.0, from which on the reference applies the window.
pub const TIMED_SINCE: i128 = 7_002_000;

const DELTA_NS: i128 = 4_000_000_000;
const SECOND_NS: f64 = 1e9;

/// The newest nonce that is too old: an integer without a timeout, a double with one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Window {
    /// Computed in whole nanoseconds.
    Int(i128),
    /// Computed in doubles, 256 ns apart nowadays; may be NaN or infinite.
    Float(f64),
}

impl Window {
    /// The window at this time for this timeout. Missing and zero timeouts are the same.
    pub fn at(now_ns: i128, timeout: Option<f64>) -> Window {
        let end = now_ns.saturating_sub(DELTA_NS);
        match timeout.filter(|timeout| *timeout != 0.0) {
            None => Window::Int(end),
            Some(timeout) => Window::Float(end as f64 - timeout * SECOND_NS),
        }
    }

    /// Whether the nonce is not above the window. Exact, as Python compares an int with a float.
    pub fn is_too_old(self, nonce: i128) -> bool {
        match self {
            Window::Int(end) => nonce <= end,
            Window::Float(end) if end.is_nan() => false,
            // An integer is at most a number when it is at most its floor; the cast saturates.
            Window::Float(end) => nonce <= end.floor() as i128,
        }
    }
}

/// The age of the nonce and the acceptable delta in seconds, for the reference's message.
pub fn diff_seconds(now_ns: i128, timeout: Option<f64>, nonce: i128) -> (f64, f64) {
    let allowed = match timeout.filter(|timeout| *timeout != 0.0) {
        None => seconds(DELTA_NS),
        Some(timeout) => (DELTA_NS as f64 + timeout * SECOND_NS) / SECOND_NS,
    };
    (seconds(now_ns.saturating_sub(nonce)), allowed)
}

/// Nanoseconds as seconds, rounded once, as Python divides integers.
pub fn seconds(nanoseconds: i128) -> f64 {
    let whole = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    // Reading a decimal rounds once; dividing doubles would round twice.
    format!("{sign}{}.{:09}", whole / 1_000_000_000, whole % 1_000_000_000)
        .parse()
        .unwrap_or(f64::NAN)
}

/// Two decimals as Python's `:.2f` writes them.
pub fn two_decimals(number: f64) -> String {
    if number.is_nan() { "nan".to_owned() } else { format!("{number:.2}") }
}

/// The newest nonce of every caller, as the reference keeps them: by the text of the hotkey and uuid.
///
/// Unlike the reference's map it is bounded (W15): callers are kept as keyed hashes, however long the uuid they chose, and
/// when it is full, nonces of new callers are refused.
#[derive(Debug)]
pub struct ReferenceNonces {
    newest: Mutex<HashMap<Slot, i128>>,
    keys: [RandomState; 2],
    capacity: usize,
}

/// Two keyed hashes of hotkey and uuid. A collision refuses a fresh nonce, never admits a used one.
type Slot = [u64; 2];

impl ReferenceNonces {
    /// How many callers are remembered unless told otherwise.
    pub const DEFAULT_CAPACITY: usize = 1 << 20;

    /// A map for this many callers.
    pub fn new(capacity: usize) -> ReferenceNonces {
        ReferenceNonces { newest: Mutex::default(), keys: Default::default(), capacity }
    }

    /// Checks a nonce as the reference does before it looks at the signature. Remembers nothing.
    ///
    /// # Errors
    ///
    /// [`NonceError::TooOld`] or [`NonceError::Superseded`].
    pub fn check(
        &self,
        hotkey: &str,
        uuid: Option<&str>,
        nonce: i128,
        timeout: Option<f64>,
        version: Option<i128>,
        now_ns: u64,
    ) -> Result<(), NonceError> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.get(&self.slot(hotkey, uuid)) {
            Some(stored) if nonce <= *stored => Err(NonceError::Superseded),
            Some(_) => Ok(()),
            None => {
                let now_ns = i128::from(now_ns);
                let timed = version.is_some_and(|version| version >= TIMED_SINCE);
                if timed && Window::at(now_ns, timeout).is_too_old(nonce) {
                    let (age, acceptable) = diff_seconds(now_ns, timeout, nonce);
                    return Err(NonceError::TooOld { acceptable, age });
                }
                Ok(())
            }
        }
    }

    /// Remembers a nonce whose signature verified.
    ///
    /// # Errors
    ///
    /// [`NonceError::Superseded`] if another thread was faster with this or a newer one, and
    /// [`NonceError::StoreFull`] for a new caller when full.
    pub fn store(&self, hotkey: &str, uuid: Option<&str>, nonce: i128) -> Result<(), NonceError> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let full = newest.len() >= self.capacity;
        match newest.entry(self.slot(hotkey, uuid)) {
            std::collections::hash_map::Entry::Occupied(mut stored) => {
                if nonce <= *stored.get() {
                    return Err(NonceError::Superseded);
                }
                stored.insert(nonce);
            }
            std::collections::hash_map::Entry::Vacant(_) if full => {
                return Err(NonceError::StoreFull);
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(nonce);
            }
        }
        Ok(())
    }

    /// Remembers a nonce that was admitted by another rule, so that it is not admitted by this one.
    ///
    /// # Errors
    ///
    /// [`NonceError::StoreFull`] for a new caller when full.
    pub fn raise(&self, hotkey: &str, uuid: Option<&str>, nonce: i128) -> Result<(), NonceError> {
        match self.store(hotkey, uuid, nonce) {
            Err(NonceError::Superseded) => Ok(()),
            stored => stored,
        }
    }

    /// The newest nonce of a caller.
    pub fn newest(&self, hotkey: &str, uuid: Option<&str>) -> Option<i128> {
        let slot = self.slot(hotkey, uuid);
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).copied()
    }

    /// A missing uuid is the text `None`, as in the signed message.
    fn slot(&self, hotkey: &str, uuid: Option<&str>) -> Slot {
        let caller = (hotkey, uuid.unwrap_or("None"));
        self.keys.each_ref().map(|key| key.hash_one(caller))
    }
}

impl Default for ReferenceNonces {
    fn default() -> ReferenceNonces {
        ReferenceNonces::new(Self::DEFAULT_CAPACITY)
    }
}
