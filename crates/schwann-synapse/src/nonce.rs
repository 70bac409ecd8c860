//! Which nonces are fresh, and which were seen: v10's rules and hardened ones.
//!
//! [`mod@reference`] is the rule of SDK 7.2 to 10.5 to the nanosecond (§8): a high-water mark per caller and
//! a window that the caller's own headers can widen. It is there for `Verify::LikeReference`.
//!
//! [`Freshness`] and a [`NonceStore`] are the rule to live by: a window that headers cannot widen beyond
//! a limit (W3), closed above (W5) and at the start of the process (W4), in which every nonce is good
//! once and in any order (W12), remembered in bounded memory (W15).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ss58::Hotkey;

mod memory;
pub mod persistent;
pub mod reference;

pub(crate) use memory::Mark;
pub use memory::{MemoryNonceStore, Room};
pub use persistent::{Durability, OpenError, PersistentNonceStore};
pub use reference::ReferenceNonces;

/// The lane in which nonces of `btauth/1` are counted; lanes of v10 are uuids.
pub const BTAUTH_LANE: &str = "btauth/1";

/// Nanoseconds since 1970 by the clock of this machine, as nonces count them.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    nanoseconds(since)
}

pub(crate) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Why a nonce was refused.
///
/// The first four have the texts of SDK 7.2 to 10.5 (§8), hence the capitals.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum NonceError {
    /// The request named no nonce.
    #[error("Missing Nonce")]
    Missing,
    /// Before the window, in seconds as the reference counts them.
    #[error(
        "Nonce is too old: acceptable delta is {} seconds but request was {} seconds old",
        reference::two_decimals(*.acceptable),
        reference::two_decimals(*.age)
    )]
    TooOld {
        /// How old a nonce may be.
        acceptable: f64,
        /// How old this one is.
        age: f64,
    },
    /// Not above the newest one of this caller: the reference's rule only.
    #[error("Nonce is too old, a newer one was last processed")]
    Superseded,
    /// Admitted before, or indistinguishable from one that was.
    #[error("Nonce is too old, a newer one was last processed")]
    Replayed,
    /// Signed before this server started: whether it was admitted then is not known (W4).
    #[error("Nonce is older than the start of this server")]
    BeforeStart,
    /// Too far in the future (W5).
    #[error("Nonce is {} seconds in the future, acceptable are {}", reference::two_decimals(*.ahead), reference::two_decimals(*.acceptable))]
    FromFuture {
        /// How far ahead a clock may be, in seconds.
        acceptable: f64,
        /// How far ahead this one is.
        ahead: f64,
    },
    /// The timeout is `nan` or infinite, which would stop the clock of the reference (W3).
    #[error("Timeout is not a finite number")]
    TimeoutNotFinite,
    /// This hotkey has used all the room one hotkey may have; nonces of others are not touched.
    #[error("Nonce refused: too many requests of this hotkey within the window")]
    HotkeyFull,
    /// All room is used, and this hotkey has its fair share of it.
    #[error("Nonce refused: too many requests within the window")]
    StoreFull,
    /// The store cannot remember: its disk is full, say. Nothing is admitted until it can.
    #[error("Nonce refused: the nonce store cannot write ({0})")]
    Unavailable(std::io::ErrorKind),
}

/// The window in which a nonce is fresh (W3, W4, W5): between the oldest that the caller's timeout, the
/// server's limit and its start allow, and a little after now.
///
/// All four lengths have defaults: 4 s as the reference, timeouts up to 60 s, 2 s ahead, and a floor at
/// the moment of [`Freshness::since`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freshness {
    floor_ns: u64,
    delta: Duration,
    longest_timeout: Duration,
    ahead: Duration,
}

impl Freshness {
    /// Freshness for a server that started at this moment and remembers nothing from before.
    ///
    /// Nonces from before it are refused, because a predecessor may have admitted them. One gap is left:
    /// a caller whose clock is ahead may have used a nonce from after it; a [`PersistentNonceStore`]
    /// closes that, and needs no floor.
    pub fn since(start_ns: u64) -> Freshness {
        Freshness {
            floor_ns: start_ns,
            delta: Duration::from_secs(4),
            longest_timeout: Duration::from_secs(60),
            ahead: Duration::from_secs(2),
        }
    }

    /// Freshness for a server whose store remembers what was admitted before it started.
    pub fn without_floor() -> Freshness {
        Freshness::since(0)
    }

    /// Admits nonces this much older than the start, for callers whose clocks are behind.
    ///
    /// Whatever a predecessor admitted in that time can be replayed after the restart.
    #[must_use]
    pub fn start_grace(mut self, grace: Duration) -> Freshness {
        self.floor_ns = self.floor_ns.saturating_sub(nanoseconds(grace));
        self
    }

    /// How old a nonce may be beyond the caller's timeout; 4 s as the reference.
    #[must_use]
    pub fn delta(mut self, delta: Duration) -> Freshness {
        self.delta = delta;
        self
    }

    /// The longest timeout that widens the window; longer ones count as this. 60 s.
    #[must_use]
    pub fn longest_timeout(mut self, longest: Duration) -> Freshness {
        self.longest_timeout = longest;
        self
    }

    /// How far a caller's clock may be ahead; 2 s.
    #[must_use]
    pub fn ahead(mut self, ahead: Duration) -> Freshness {
        self.ahead = ahead;
        self
    }

    /// Checks a nonce of v10 against the window, and says until when it must be remembered.
    ///
    /// The limits are those of the reference: a nonce exactly at the lower end is too old. The caller's
    /// version plays no part: the reference skips the window for versions below 7.2, whoever claims one.
    ///
    /// # Errors
    ///
    /// [`NonceError::TimeoutNotFinite`], [`NonceError::TooOld`], [`NonceError::BeforeStart`] or
    /// [`NonceError::FromFuture`]; also for nonces outside 64 bits.
    pub fn check(
        &self,
        nonce: i128,
        timeout: Option<f64>,
        now_ns: u64,
    ) -> Result<Fresh, NonceError> {
        let timeout = timeout.unwrap_or(0.0);
        if !timeout.is_finite() {
            return Err(NonceError::TimeoutNotFinite);
        }
        // A negative timeout would refuse everything in the reference; here it is none.
        let timeout =
            Duration::try_from_secs_f64(timeout.clamp(0.0, self.longest_timeout.as_secs_f64()))
                .unwrap_or(self.longest_timeout);
        self.check_exactly(nonce, self.delta.saturating_add(timeout), now_ns)
    }

    fn check_exactly(
        &self,
        nonce: i128,
        oldest: Duration,
        now_ns: u64,
    ) -> Result<Fresh, NonceError> {
        let age = i128::from(now_ns).saturating_sub(nonce);
        if age >= i128::from(nanoseconds(oldest)) {
            return Err(NonceError::TooOld {
                acceptable: oldest.as_secs_f64(),
                age: reference::seconds(age),
            });
        }
        let ahead = age.saturating_neg();
        if ahead > i128::from(nanoseconds(self.ahead)) {
            return Err(NonceError::FromFuture {
                acceptable: self.ahead.as_secs_f64(),
                ahead: reference::seconds(ahead),
            });
        }
        let nonce = u64::try_from(nonce).map_err(|_| NonceError::BeforeStart)?;
        if nonce < self.floor_ns {
            return Err(NonceError::BeforeStart);
        }
        // The timeout is not signed: a replay may come with the longest.
        let longest = self.delta.saturating_add(self.longest_timeout);
        Ok(Fresh { nonce, expires_ns: nonce.saturating_add(nanoseconds(longest)) })
    }

    /// The oldest nonce that may be admitted at all.
    pub fn floor_ns(&self) -> u64 {
        self.floor_ns
    }
}

/// A nonce within the window, not yet known to be unused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fresh {
    /// The nonce.
    pub nonce: u64,
    /// When no window can contain it any more, and it may be forgotten.
    pub expires_ns: u64,
}

/// Remembers admitted nonces.
pub trait NonceStore: Send + Sync + 'static {
    /// Admits a nonce of a hotkey's lane, once: of any number of concurrent calls with the same
    /// arguments exactly one succeeds. Routes play no part, so what was captured on one is used up for
    /// all (W6).
    ///
    /// `expires_ns` must grow with the nonce, by a fixed span per lane. What was forgotten after that
    /// moment is never admitted again, even if the clock goes back.
    ///
    /// # Errors
    ///
    /// [`NonceError::Replayed`]; [`NonceError::TooOld`] below what was forgotten; and when out of room
    /// or unable to remember, another, with nothing admitted.
    fn admit(
        &self,
        hotkey: &Hotkey,
        lane: &str,
        nonce: u64,
        now_ns: u64,
        expires_ns: u64,
    ) -> Result<(), NonceError>;

    /// Whether what was admitted survives this process, so that no floor at its start is needed.
    fn survives_restart(&self) -> bool {
        false
    }
}

impl<S: NonceStore + ?Sized> NonceStore for std::sync::Arc<S> {
    fn admit(
        &self,
        hotkey: &Hotkey,
        lane: &str,
        nonce: u64,
        now_ns: u64,
        expires_ns: u64,
    ) -> Result<(), NonceError> {
        (**self).admit(hotkey, lane, nonce, now_ns, expires_ns)
    }

    fn survives_restart(&self) -> bool {
        (**self).survives_restart()
    }
}

/// Nonces for signing: the time in nanoseconds, but never the same twice and never going back, whatever
/// the clock does and however many threads ask.
#[derive(Debug, Default)]
pub struct NonceClock(AtomicU64);

impl NonceClock {
    /// A clock that has given no nonce yet.
    pub const fn new() -> NonceClock {
        NonceClock(AtomicU64::new(0))
    }

    /// The next nonce.
    pub fn next(&self) -> u64 {
        self.after(now_ns())
    }

    fn after(&self, now_ns: u64) -> u64 {
        let next = |last: u64| now_ns.max(last.saturating_add(1));
        let last =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_else(|last| last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::{Arc, Barrier};

    use super::*;

    const NOW: u64 = 1_795_219_399_075_121_210;
    const SECOND: u64 = 1_000_000_000;
    const WINDOW: u64 = 64 * SECOND;

    fn hotkey(number: u8) -> Hotkey {
        Hotkey::from_bytes([number; 32])
    }

    fn admit(store: &dyn NonceStore, who: u8, nonce: u64, now: u64) -> Result<(), NonceError> {
        store.admit(&hotkey(who), "lane", nonce, now, nonce + WINDOW)
    }

    fn small(nonces: usize, per_hotkey: usize) -> MemoryNonceStore {
        MemoryNonceStore::with_room(Room { nonces, per_hotkey }).unwrap()
    }

    #[test]
    fn nonces_are_good_once_and_in_any_order() {
        let store = MemoryNonceStore::new().unwrap();
        for nonce in [NOW, NOW - 5, NOW + 3, NOW - 30 * SECOND] {
            assert_eq!(admit(&store, 1, nonce, NOW), Ok(()));
            assert_eq!(admit(&store, 1, nonce, NOW), Err(NonceError::Replayed));
        }
        assert_eq!(admit(&store, 2, NOW, NOW), Ok(()), "another hotkey");
        assert_eq!(store.admit(&hotkey(1), "other lane", NOW, NOW, NOW + WINDOW), Ok(()));
    }

    #[test]
    fn hotkeys_that_begin_alike_are_told_apart() {
        let store = MemoryNonceStore::new().unwrap();
        let hotkeys: Vec<_> = (0..5)
            .map(|end| {
                let mut bytes = [7; 32];
                bytes[31] = end;
                Hotkey::from_bytes(bytes)
            })
            .collect();
        let whole = |who: &Hotkey| store.mark(who, "lane", NOW);
        let marks: Vec<_> = hotkeys.iter().map(whole).collect();
        // Each of them forgets the one before, and is the same again all the same.
        assert_eq!(hotkeys.iter().rev().map(whole).rev().collect::<Vec<_>>(), marks);
        assert_eq!(marks.iter().map(|mark| mark.who).collect::<HashSet<_>>().len(), 5);
        for hotkey in &hotkeys {
            assert_eq!(store.admit(hotkey, "lane", NOW, NOW, NOW + WINDOW), Ok(()));
        }
        for hotkey in &hotkeys {
            let again = store.admit(hotkey, "lane", NOW, NOW, NOW + WINDOW);
            assert_eq!(again, Err(NonceError::Replayed));
        }
    }

    #[test]
    fn of_64_threads_with_one_nonce_exactly_one_is_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let stores: [Arc<dyn NonceStore>; 2] = [
            Arc::new(MemoryNonceStore::new().unwrap()),
            Arc::new(
                PersistentNonceStore::open_at(
                    folder.path(),
                    Durability::Process,
                    Room::default(),
                    NOW,
                )
                .unwrap(),
            ),
        ];
        for store in stores {
            for round in 0..50 {
                let gate = Arc::new(Barrier::new(64));
                let threads: Vec<_> = (0..64)
                    .map(|_| {
                        let (store, gate) = (Arc::clone(&store), Arc::clone(&gate));
                        std::thread::spawn(move || {
                            gate.wait();
                            admit(&store, 1, NOW + round, NOW).is_ok()
                        })
                    })
                    .collect();
                let admitted = threads.into_iter().map(|thread| thread.join().unwrap());
                assert_eq!(admitted.filter(|admitted| *admitted).count(), 1);
            }
        }
    }

    #[test]
    fn what_was_forgotten_is_never_admitted_again() {
        let store = MemoryNonceStore::new().unwrap();
        assert_eq!(admit(&store, 1, NOW, NOW), Ok(()));
        let later = NOW + 66 * SECOND;
        assert_eq!(admit(&store, 1, later, later), Ok(()));
        assert_eq!(store.len(), 1, "the first was not forgotten");
        // The clock goes back, and the window would take the first again.
        assert!(matches!(admit(&store, 1, NOW, NOW), Err(NonceError::TooOld { .. })));
    }

    #[test]
    fn a_full_hotkey_harms_nobody_else() {
        let store = small(1000, 10);
        for nonce in 0..10 {
            assert_eq!(admit(&store, 1, NOW + nonce, NOW), Ok(()));
        }
        assert_eq!(admit(&store, 1, NOW + 10, NOW), Err(NonceError::HotkeyFull));
        assert_eq!(
            admit(&store, 1, NOW + 3, NOW),
            Err(NonceError::Replayed),
            "remembered all the same"
        );
        assert_eq!(admit(&store, 2, NOW, NOW), Ok(()));
        let later = NOW + 66 * SECOND;
        assert_eq!(admit(&store, 1, later, later), Ok(()), "room again when the old ones expired");
    }

    #[test]
    fn a_crowded_store_refuses_those_who_crowd_it() {
        let store = small(800, 800);
        let mut taken = 0;
        let refused = loop {
            match admit(&store, 1, NOW + taken, NOW) {
                Ok(()) => taken += 1,
                Err(why) => break why,
            }
        };
        assert_eq!((refused, taken), (NonceError::StoreFull, 700));
        for newcomer in 2..=40 {
            assert_eq!(admit(&store, newcomer, NOW, NOW), Ok(()), "hotkey {newcomer}");
        }
        // Nothing was pushed out for them.
        for nonce in 0..taken {
            assert_eq!(admit(&store, 1, NOW + nonce, NOW), Err(NonceError::Replayed));
        }
        // And there is an end.
        let full = (0..u8::MAX).flat_map(|who| (1..4).map(move |nonce| (who, nonce)));
        let admitted =
            full.filter(|(who, nonce)| admit(&store, *who, NOW + nonce, NOW).is_ok()).count();
        assert!(store.len() <= 800, "{} after {admitted} more", store.len());
    }

    #[test]
    fn room_comes_back_when_nonces_of_silent_hotkeys_expire() {
        let store = small(800, 800);
        for who in 0..200 {
            for nonce in 0..4 {
                let _ = admit(&store, who, NOW + nonce, NOW);
            }
        }
        assert!(store.len() >= 700);
        let later = NOW + 66 * SECOND;
        assert_eq!(admit(&store, 255, later, later), Ok(()));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn nothing_expires_while_it_could_be_fresh() {
        let store = MemoryNonceStore::new().unwrap();
        let rule = Freshness::since(NOW - 100 * SECOND);
        let nonce = NOW - 3 * SECOND;
        let fresh = rule.check(i128::from(nonce), None, NOW).unwrap();
        assert_eq!(store.admit(&hotkey(1), "lane", nonce, NOW, fresh.expires_ns), Ok(()));
        // Replayed later under the longest timeout a header can claim.
        let mut now = NOW;
        while let Ok(fresh) = rule.check(i128::from(nonce), Some(1e6), now) {
            let again = store.admit(&hotkey(1), "lane", nonce, now, fresh.expires_ns);
            assert_eq!(again, Err(NonceError::Replayed), "{} s later", (now - NOW) / SECOND);
            now += SECOND / 4;
        }
        assert!(now >= NOW + 61 * SECOND);
    }

    #[track_caller]
    fn fresh(nonce: i128, timeout: Option<f64>) -> Result<(), String> {
        let rule = Freshness::since(NOW - 3600 * SECOND);
        rule.check(nonce, timeout, NOW).map(drop).map_err(|why| why.to_string())
    }

    #[test]
    fn the_window_has_two_ends_and_headers_cannot_move_them_far() {
        let now = i128::from(NOW);
        let second = i128::from(SECOND);
        let too_old = |delta: &str, age: &str| {
            Err(format!(
                "Nonce is too old: acceptable delta is {delta} seconds but request was {age} seconds old"
            ))
        };
        assert_eq!(fresh(now, None), Ok(()));
        assert_eq!(fresh(now - 4 * second + 1, None), Ok(()));
        assert_eq!(fresh(now - 4 * second, None), too_old("4.00", "4.00"));
        assert_eq!(fresh(now - 15 * second, Some(12.0)), Ok(()));
        assert_eq!(fresh(now - 17 * second, Some(12.0)), too_old("16.00", "17.00"));
        assert_eq!(fresh(now - 63 * second, Some(4000.0)), Ok(()), "clamped, not refused");
        assert_eq!(fresh(now - 65 * second, Some(4000.0)), too_old("64.00", "65.00"));
        assert_eq!(fresh(now - second, Some(-10.0)), Ok(()), "negative is none");
        for stopped in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(fresh(now, Some(stopped)), Err("Timeout is not a finite number".to_owned()));
        }
        assert_eq!(fresh(now + 2 * second, None), Ok(()));
        assert!(fresh(now + 2 * second + 1, None).unwrap_err().contains("in the future"));
        for far in [i128::MAX, i128::MIN, -5, 0] {
            assert!(fresh(far, Some(60.0)).is_err());
        }
    }

    #[test]
    fn nothing_from_before_the_start_is_admitted() {
        let rule = Freshness::since(NOW);
        assert_eq!(rule.check(i128::from(NOW) - 1, Some(12.0), NOW), Err(NonceError::BeforeStart));
        assert!(rule.check(i128::from(NOW), Some(12.0), NOW).is_ok());
        let lenient = rule.start_grace(Duration::from_secs(2));
        assert!(lenient.check(i128::from(NOW - SECOND), Some(12.0), NOW).is_ok());
    }

    #[test]
    fn a_clock_that_stands_still_gives_growing_nonces() {
        let clock = NonceClock::new();
        assert_eq!([clock.after(5), clock.after(5), clock.after(3), clock.after(9)], [5, 6, 7, 9]);
        let first = clock.next();
        assert!(clock.next() > first && first > NOW / 2);
    }
}
