//! The keys whose last call here ended without an answer to its caller: what becomes of their retries is what the gateway is
//! for. As many as fit; the oldest go.

use std::collections::{HashSet, VecDeque};

use sha2::{Digest as _, Sha256};

/// Keys that are remembered.
const MOST: usize = 16_384;

/// A key, as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Gone([u8; 16]);

/// The last keys.
#[derive(Debug, Default)]
pub(super) struct Recent {
    known: HashSet<Gone>,
    order: VecDeque<Gone>,
}

impl Gone {
    pub(super) fn of(tenant: &str, key: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(tenant).chain_update([0]).chain_update(key).finalize();
        let mut short = [0; 16];
        short.iter_mut().zip(digest).for_each(|(byte, from)| *byte = from);
        Self(short)
    }
}

impl Recent {
    pub(super) fn insert(&mut self, key: &Gone) {
        if !self.known.insert(*key) {
            return;
        }
        self.order.push_back(*key);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Forgets a key. Whether it was known.
    pub(super) fn remove(&mut self, key: &Gone) -> bool {
        let known = self.known.remove(key);
        if known {
            self.order.retain(|other| other != key);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Gone {
        Gone::of("t", &number.to_be_bytes())
    }

    #[test]
    fn a_key_is_known_once() {
        let mut recent = Recent::default();
        recent.insert(&key(1));
        recent.insert(&key(1));
        assert!(recent.remove(&key(1)) && !recent.remove(&key(1)) && recent.order.is_empty());
        assert_ne!(Gone::of("a", b"b"), Gone::of("ab", b""));
    }

    #[test]
    fn the_oldest_go() {
        let mut recent = Recent::default();
        (0..=MOST).for_each(|number| recent.insert(&key(number)));
        assert_eq!((recent.known.len(), recent.order.len()), (MOST, MOST));
        assert!(!recent.remove(&key(0)) && recent.remove(&key(1)) && recent.remove(&key(MOST)));
    }
}
