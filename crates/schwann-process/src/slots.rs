//! How many may run at once, and how long the next one waits for its turn.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// Room for so many at once.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    room: Arc<Semaphore>,
    most: u32,
    wait: Duration,
}

/// There was no room in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy {
    /// How many were running.
    pub(crate) most: u32,
}

impl Slots {
    pub(crate) fn new(most: u32, wait: Duration) -> Self {
        Self { room: Arc::new(Semaphore::new(most as usize)), most, wait }
    }

    /// Waits for room, but not past `deadline`. Whoever holds the permit is in.
    pub(crate) async fn take(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Busy> {
        let room = Arc::clone(&self.room);
        let until = deadline.min(Instant::now() + self.wait);
        match timeout_at(until, room.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed, so this is the time running out.
            Ok(Err(_)) | Err(_) => Err(Busy { most: self.most }),
        }
    }
}
