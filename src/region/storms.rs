//! Clients that use keys wrongly: those that make a new key for each retry, those that make keys as nobody needs them, and
//! those that come back with a key and another request. Nothing is refused for it: an operator is told.
//!
//! `detect` is the detection, over values. Here is what many tasks use: [`Watch`], which counts and logs the alarms.
//!
//! Deliberately absent: limits (`rates`), and anything that outlives the process.

mod detect;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::clock::Monotonic;
use crate::ids::Fingerprint;
use crate::limits;
use crate::region::calls::ReserveOutcome;
use crate::region::rates::Who;
use crate::region::storms::detect::Storms;
use crate::telemetry::metrics;

/// Clients are spread over this many mutexes. Each is held for well under a microsecond.
const SHARDS: usize = 64;

/// What a Reserve call came to, as far as it says how a client uses keys.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'a> {
    /// The first grant of a key, for this request.
    Fresh(&'a Fingerprint),
    /// A known key with the request that it was granted for, whatever the answer was.
    Replay,
    /// A known key with another request.
    ModifiedPayload,
}

/// What is alarming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Requests come again under new keys, and hardly any under their old ones: a new key for each retry, or a fingerprint
    /// that says nothing. Each such request runs again.
    RepeatedRequests,
    /// Many more keys than this client ever used here, and no retry among them.
    Surge,
    /// Keys that come back with other requests.
    ModifiedPayloads,
}

impl<'a> Seen<'a> {
    /// What a Reserve call for a request came to, if it says anything.
    pub(super) fn of(request: &'a Fingerprint, outcome: &ReserveOutcome) -> Option<Self> {
        match outcome {
            ReserveOutcome::Granted(grant) if grant.attempt == 1 && !grant.repeated => Some(Self::Fresh(request)),
            ReserveOutcome::Granted(_)
            | ReserveOutcome::Replay(_)
            | ReserveOutcome::InProgress { .. }
            | ReserveOutcome::OutcomeUnknown { .. } => Some(Self::Replay),
            ReserveOutcome::Mismatch => Some(Self::ModifiedPayload),
            ReserveOutcome::InDoubt { .. }
            | ReserveOutcome::Superseded { .. }
            | ReserveOutcome::Expired
            | ReserveOutcome::Limited { .. } => None,
        }
    }
}

impl Kind {
    /// As logs have it.
    const fn name(self) -> &'static str {
        match self {
            Self::RepeatedRequests => "repeated_requests",
            Self::Surge => "surge",
            Self::ModifiedPayloads => "modified_payloads",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One alarm about one client of an endpoint, and what was counted in its window up to then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alarm {
    /// What is alarming.
    pub kind: Kind,
    /// New keys.
    pub fresh: u32,
    /// Of those, how many had a request that another key of the window had, of the requests that are remembered.
    pub repeated: u32,
    /// Known keys with their request.
    pub replays: u32,
    /// Known keys with another request.
    pub modified: u32,
    /// New keys in an earlier window, on average.
    pub usual: u32,
}

/// What this node's clients do with their keys: what it answers for the partitions that it leads, and replays of others.
#[derive(Debug)]
pub(super) struct Watch {
    hasher: RandomState,
    shards: [Mutex<Storms>; SHARDS],
}

impl Default for Watch {
    fn default() -> Self {
        let most = limits::MAX_WATCHED_CLIENTS / SHARDS;
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::new(Storms::new(most))) }
    }
}

impl Watch {
    /// Counts what a client did, and tells an alarm if it is one: each kind once a window.
    pub(super) fn observe(&self, who: Who<'_>, what: Seen<'_>, now: Monotonic) -> Option<Alarm> {
        let hash = self.hasher.hash_one((who.tenant, who.endpoint, who.client));
        let at = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        let shard = self.shards.get(at)?;
        let alarm = shard.lock().unwrap_or_else(PoisonError::into_inner).observe(who, what, now)?;
        tell(who, alarm);
        Some(alarm)
    }
}

fn tell(who: Who<'_>, alarm: Alarm) {
    let Who { tenant, endpoint, client } = who;
    let Alarm { kind, fresh, repeated, replays, modified, usual } = alarm;
    match kind {
        Kind::RepeatedRequests | Kind::Surge => {
            metrics::key_storm(tenant, endpoint);
            tracing::warn!(
                %tenant, %endpoint, ?client, %kind, fresh, repeated, replays, usual,
                "a key storm: look whether this client makes a new key for each retry"
            );
        }
        Kind::ModifiedPayloads => {
            metrics::modified_replays(tenant, endpoint);
            tracing::warn!(
                %tenant, %endpoint, ?client, modified, fresh, replays,
                "a client comes back with keys and other requests: look how it makes its keys"
            );
        }
    }
}
