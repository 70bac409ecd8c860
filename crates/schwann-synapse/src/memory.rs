//! How much memory bodies may take together.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room is counted in these.
const UNIT: u64 = 16 * 1024;

/// Longest wait for room.
const WAIT: Duration = Duration::from_secs(5);

/// More than there is, and few enough for any semaphore.
const MAX_UNITS: u64 = 1 << 30;

/// About how many bytes a value takes, in a list that grew to twice its length.
const VALUE_BYTES: usize = 64;

/// Room for so many bytes, shared by all who take some. What is not larger than 16 KiB takes none.
#[derive(Debug)]
pub(crate) struct Memory {
    room: Arc<Semaphore>,
    units: u32,
}

/// A part of the room, given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    permit: Option<OwnedSemaphorePermit>,
    units: u32,
}

/// There was no room in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Memory {
    pub(crate) fn new(bytes: u64) -> Self {
        let units = bytes.div_ceil(UNIT).clamp(1, MAX_UNITS);
        let units = u32::try_from(units).expect("clamped to less");
        Self { room: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Makes what is taken enough for so many bytes. What is larger than all room has it to itself.
    ///
    /// Whoever has a part and waits for more may wait for others who do the same, so the wait is not long.
    ///
    /// # Cancel safety
    /// If the future is dropped before completing, no more is taken.
    pub(crate) async fn take(&self, bytes: u64, taken: &mut Taken) -> Result<(), Full> {
        let units = (bytes.div_ceil(UNIT)).saturating_sub(1).min(u64::from(self.units));
        let units = u32::try_from(units).expect("at most a number of this type");
        let Some(more) = units.checked_sub(taken.units).filter(|more| *more > 0) else {
            return Ok(());
        };
        let taking = Arc::clone(&self.room).acquire_many_owned(more);
        let permit = tokio::time::timeout(WAIT, taking).await.map_err(|_| Full)?;
        let permit = permit.expect("the semaphore is never closed");
        taken.units = units;
        match &mut taken.permit {
            Some(before) => before.merge(permit),
            None => taken.permit = Some(permit),
        }
        Ok(())
    }
}

/// About how many bytes a JSON text takes once it is values: two bytes of it may become a value of many. Each value and
/// each key begins or ends with one of these marks.
pub(crate) fn weight(json: &[u8]) -> u64 {
    // In pieces whose count fits a byte, so that many bytes are looked at together.
    let marks_in = |piece: &[u8]| {
        piece.iter().fold(0_u8, |marks, byte| {
            marks + u8::from((*byte == b',') | (*byte == b':') | (*byte == b'[') | (*byte == b'{'))
        })
    };
    let marks: usize = json.chunks(192).map(|piece| usize::from(marks_in(piece))).sum();
    (json.len() + marks * VALUE_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_in_time_is_told_and_room_comes_back() {
        let memory = Memory::new(10 * UNIT);
        let (mut first, mut second) = (Taken::default(), Taken::default());
        memory.take(8 * UNIT, &mut first).await.unwrap();
        assert_eq!(memory.take(8 * UNIT, &mut second).await, Err(Full));
        memory.take(UNIT, &mut second).await.unwrap();
        drop(first);
        memory.take(8 * UNIT, &mut second).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_larger_than_all_room_has_it_to_itself() {
        let memory = Memory::new(4 * UNIT);
        let mut taken = Taken::default();
        memory.take(3 * UNIT, &mut taken).await.unwrap();
        memory.take(1000 * UNIT, &mut taken).await.unwrap();
        memory.take(2000 * UNIT, &mut taken).await.unwrap();
        assert_eq!(memory.room.available_permits(), 0);
        drop(taken);
        assert_eq!(memory.room.available_permits(), 4);
    }

    #[test]
    fn small_values_weigh_more_than_their_text() {
        assert_eq!(weight(b"\"aaaa\""), 6);
        assert!(weight(b"[1,1,1,1]") > 4 * 64);
    }
}
