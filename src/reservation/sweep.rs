//! When a record may go, and what its going leaves behind.

use crate::reservation::command::KeyFacts;
use crate::reservation::record::Record;
use crate::time::LogTime;

/// What a sweep does with a record whose time in the expiry index has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// It stays: it is held, its outcome is unknown, or its time was moved.
    Keep,
    /// It goes. For a tagged key the endpoint's horizon rises to the key's time, in milliseconds since the Unix epoch.
    Remove {
        /// The key's time, if it has one.
        raise_horizon_ms: Option<u64>,
    },
}

/// Decides whether a record goes at log time `now`.
#[must_use]
pub fn sweep(record: &Record, key: KeyFacts, now: LogTime) -> Sweep {
    match record.expires_at() {
        Some(expires_at) if expires_at < now => Sweep::Remove { raise_horizon_ms: key.time_ms },
        Some(_) | None => Sweep::Keep,
    }
}
