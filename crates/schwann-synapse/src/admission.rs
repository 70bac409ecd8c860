//! Who runs next when the axon is busy.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Room for calls: so many run, so many wait, and who waits with the highest priority runs next.
///
/// The reference orders nothing: its priorities are computed and then dropped (specification §14, W23). Here they order
/// admission. Among equals the first to come is the first to run. When the queue is full, a newcomer of higher priority
/// takes the place of whoever waits with the lowest.
///
/// Cheap to clone; clones share the room.
#[derive(Clone)]
pub struct Admission(Arc<Room>);

struct Room {
    max_running: usize,
    max_waiting: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    arrivals: u64,
    waiting: BTreeMap<Turn, oneshot::Sender<Pass>>,
}

/// Orders the queue: the highest priority first, and the earliest among equals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// The bits of the priority, arranged so that higher priorities are smaller numbers.
    rank: u64,
    arrival: u64,
}

/// A place among the running calls, until dropped.
pub struct Pass(Arc<Room>);

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Busy {
    /// The queue is full of calls of no lower priority.
    #[error("the queue is full")]
    Full,
    /// A call of higher priority took this one's place in the queue.
    #[error("calls of higher priority took all places")]
    Outranked,
}

impl Admission {
    /// Room for `max_running` calls at a time and `max_waiting` in the queue.
    ///
    /// # Panics
    /// Panics if `max_running` is 0: nothing would ever run.
    pub fn new(max_running: usize, max_waiting: usize) -> Self {
        assert!(max_running > 0, "an axon that may run nothing serves nobody");
        Self(Arc::new(Room { max_running, max_waiting, state: Mutex::default() }))
    }

    /// Waits for this call's turn. Higher `priority` goes first; NaN counts as the lowest.
    ///
    /// # Errors
    /// Fails at once if the queue is full, and later if a higher priority needs this place.
    ///
    /// # Cancel safety
    /// If the future is dropped, the place in the queue is given up.
    pub async fn enter(&self, priority: f64) -> Result<Pass, Busy> {
        let (turn, waiting) = {
            let mut state = self.0.lock();
            if state.running < self.0.max_running {
                state.running += 1;
                return Ok(Pass(Arc::clone(&self.0)));
            }
            state.arrivals += 1;
            let turn = Turn { rank: rank(priority), arrival: state.arrivals };
            if state.waiting.len() >= self.0.max_waiting {
                // The newcomer arrived last, so it loses to equals.
                match state.waiting.last_entry() {
                    Some(last) if turn.rank < last.key().rank => drop(last.remove()),
                    _ => return Err(Busy::Full),
                }
            }
            let (admit, admitted) = oneshot::channel();
            state.waiting.insert(turn, admit);
            (turn, admitted)
        };
        let _place = Place { room: &self.0, turn };
        waiting.await.map_err(|_| Busy::Outranked)
    }

    /// How many calls run now.
    pub fn running(&self) -> usize {
        self.0.lock().running
    }

    /// How many calls wait now.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    room: &'a Room,
    turn: Turn,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.room.lock().waiting.remove(&self.turn);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let Some((_, next)) = state.waiting.pop_first() else {
            state.running -= 1;
            return;
        };
        drop(state);
        // If whoever waited left at this very moment, the pass comes back and is dropped here, which gives it to the
        // next one. Those who left earlier have taken themselves out of the queue.
        drop(next.send(Self(Arc::clone(&self.0))));
    }
}

/// Maps priorities to numbers that sort the other way round.
fn rank(priority: f64) -> u64 {
    let priority = if priority.is_nan() { f64::NEG_INFINITY } else { priority };
    // IEEE 754 doubles sort as integers once negative ones are flipped.
    let bits = priority.to_bits();
    let ascending = if bits >> 63 == 0 { bits | 1 << 63 } else { !bits };
    !ascending
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Admission")
            .field("running", &state.running)
            .field("waiting", &state.waiting.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin, task::Poll};

    use super::*;

    type Entering<'a> = Pin<Box<dyn Future<Output = Result<Pass, Busy>> + Send + 'a>>;

    fn enter(admission: &Admission, priority: f64) -> Entering<'_> {
        Box::pin(admission.enter(priority))
    }

    async fn poll(future: &mut Entering<'_>) -> Poll<Result<Pass, Busy>> {
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }

    #[tokio::test]
    async fn the_highest_priority_runs_next_and_the_earliest_among_equals() {
        let admission = Admission::new(1, 10);
        let mut pass = admission.enter(0.0).await.unwrap();
        let mut waiting = Vec::new();
        for priority in [1.0, 5.0, -3.0, f64::NAN, 5.0, 1000.0, 0.0, f64::INFINITY] {
            let mut entering = enter(&admission, priority);
            assert!(poll(&mut entering).await.is_pending());
            waiting.push(Some(entering));
        }
        let mut order = Vec::new();
        while order.len() < waiting.len() {
            drop(pass);
            let mut found = None;
            for (index, slot) in waiting.iter_mut().enumerate() {
                if let Some(entering) = slot
                    && let Poll::Ready(passed) = poll(entering).await
                {
                    *slot = None;
                    assert!(found.replace((index, passed.unwrap())).is_none(), "two ran at once");
                }
            }
            let (index, next) = found.expect("somebody runs");
            order.push(index);
            pass = next;
        }
        assert_eq!(order, [7, 5, 1, 4, 0, 6, 2, 3]);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_equals_and_gives_way_to_higher_ones() {
        let admission = Admission::new(1, 2);
        let pass = admission.enter(0.0).await.unwrap();
        let mut low = enter(&admission, 1.0);
        let mut middle = enter(&admission, 2.0);
        assert!(poll(&mut low).await.is_pending() && poll(&mut middle).await.is_pending());
        assert_eq!(admission.enter(1.0).await.unwrap_err(), Busy::Full);
        let mut high = enter(&admission, 3.0);
        assert!(poll(&mut high).await.is_pending());
        assert_eq!(low.await.unwrap_err(), Busy::Outranked);
        drop(pass);
        drop(high.await.unwrap());
        drop(middle.await.unwrap());
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn whoever_stops_waiting_frees_the_place() {
        let admission = Admission::new(1, 1);
        let pass = admission.enter(0.0).await.unwrap();
        let mut gone = enter(&admission, 9.0);
        assert!(poll(&mut gone).await.is_pending());
        drop(gone);
        assert_eq!(admission.waiting(), 0);
        let mut next = enter(&admission, 0.0);
        assert!(poll(&mut next).await.is_pending());
        drop(pass);
        drop(next.await.unwrap());
        assert_eq!(admission.running(), 0);
    }

    #[tokio::test]
    async fn a_pass_given_to_whoever_leaves_at_that_moment_is_not_lost() {
        let admission = Admission::new(1, 1);
        let pass = admission.enter(0.0).await.unwrap();
        let mut next = enter(&admission, 0.0);
        assert!(poll(&mut next).await.is_pending());
        drop(pass);
        // Handed over, never looked at.
        drop(next);
        assert_eq!(admission.running(), 0);
        drop(admission.enter(0.0).await.unwrap());
    }
}
