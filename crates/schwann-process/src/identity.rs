//! Users that nobody is, for programs of a server that is root.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Users that systemd and Debian leave unused (systemd's UIDS-GIDS.md), below
/// 65,536 so that they are there in a container as well.
const FIRST: u32 = 60_578;
const LAST: u32 = 61_183;

/// A user that one run has for itself. Given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Identity {
    id: u32,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    ids: Vec<u32>,
    next: u32,
}

impl Identity {
    /// A user that no other run of this process has; None if there are 606 runs.
    pub(crate) fn take() -> Option<Self> {
        static TAKEN: OnceLock<Arc<Mutex<Taken>>> = OnceLock::new();
        let taken = TAKEN.get_or_init(|| {
            // Two servers on one machine seldom have the same at once.
            let next = std::process::id() * 37 % (LAST - FIRST + 1);
            Arc::new(Mutex::new(Taken { ids: Vec::new(), next }))
        });
        let mut guard = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = LAST - FIRST + 1;
        for _ in 0..count {
            let id = FIRST + guard.next % count;
            guard.next = (guard.next + 1) % count;
            if !guard.ids.contains(&id) {
                guard.ids.push(id);
                return Some(Self { id, taken: Arc::clone(taken) });
            }
        }
        None
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let mut guard = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        guard.ids.retain(|id| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_and_all_are_given_back() {
        let all: Vec<_> = std::iter::from_fn(Identity::take).collect();
        let mut ids: Vec<_> = all.iter().map(Identity::id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
        assert!(ids.len() > 500 && ids.iter().all(|id| (FIRST..=LAST).contains(id)));
        assert!(Identity::take().is_none());
        drop(all);
        assert!(Identity::take().is_some());
    }
}
