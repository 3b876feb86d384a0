//! Who waits for a key to change. Keys share a fixed number of bells: a bell that rings for another key costs a look.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use tokio::sync::Notify;

use crate::ids::RecordKey;

const BELLS: usize = 256;

/// The bells of one partition.
pub(super) struct Wakers {
    bells: Vec<Notify>,
    spare: Notify,
    /// Rings whenever something was applied.
    pub(super) applied: Notify,
}

impl Default for Wakers {
    fn default() -> Self {
        Self { bells: (0..BELLS).map(|_| Notify::new()).collect(), spare: Notify::new(), applied: Notify::new() }
    }
}

impl Wakers {
    /// The bell that rings when a key changes.
    pub(super) fn bell(&self, key: &RecordKey) -> &Notify {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let at = usize::try_from(hash).unwrap_or_default() % BELLS;
        self.bells.get(at).unwrap_or(&self.spare)
    }

    /// Rings for a key.
    pub(super) fn ring(&self, key: &RecordKey) {
        self.bell(key).notify_waiters();
    }

    /// Rings for every key: whoever waits looks again.
    pub(super) fn ring_all(&self) {
        for bell in self.bells.iter().chain([&self.spare]) {
            bell.notify_waiters();
        }
    }
}
