//! Room for the bodies that a layer holds: so many bytes for all of its requests together, of which each takes as much as has come
//! of it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that are held at a time, unless it is set otherwise: a thousand requests of the largest size that is held by default.
pub(super) const DEFAULT_BYTES: usize = 256 * 1024 * 1024;

/// The room of one layer.
#[derive(Clone, Debug)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    bytes: usize,
}

/// What one request has of it. Dropped, it is free.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// Bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.bytes.saturating_sub(self.free.available_permits())
    }

    /// The beginning of a request: nothing yet.
    pub(super) fn enter(&self) -> Taken {
        Taken { room: self.clone(), permit: None }
    }
}

impl Taken {
    /// Takes room for so many bytes more; false if there is none. It is not waited for: requests that all wait for the end of one
    /// another would never end.
    pub(super) fn more(&mut self, bytes: usize) -> bool {
        let permit =
            u32::try_from(bytes).ok().and_then(|count| Arc::clone(&self.room.free).try_acquire_many_owned(count).ok());
        let Some(permit) = permit else { return false };
        match &mut self.permit {
            Some(taken) => taken.merge(permit),
            None => self.permit = Some(permit),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_as_bytes_come_and_given_back_at_once() {
        let room = Room::new(10);
        let (mut one, mut other) = (room.enter(), room.enter());
        assert!(one.more(4) && one.more(2) && other.more(4));
        assert_eq!(room.held(), 10);
        assert!(!other.more(1) && other.more(0), "there is none");
        drop(one);
        assert_eq!(room.held(), 4);
        assert!(other.more(6) && !other.more(usize::MAX));
    }
}
