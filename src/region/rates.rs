//! How many new keys a second a tenant, an endpoint and a client may have: asked by the leader of a key before it proposes
//! a first grant. Replays, completions and grants of known keys are never limited.
//!
//! **What is exact.** All caps of a key belong to one tenant, and a tenant's state is behind one mutex. A key is looked at
//! under every cap first, and is taken from all of them or from none: nothing is ever given back. However many threads ask,
//! a node grants no key more than [`Share`] allows it. A key that was admitted stays counted, whatever becomes of its
//! proposal.
//!
//! **What is not.** The caps are a region's, and nodes do not ask each other. Keys are spread over partitions by hash, so a
//! node that leads 5 of 16 gives 5/16 of the rate, in whole keys: one key each 1/rate × 16/5 seconds. On average as many
//! keys come, but not in each second, so a node lets some more through at a time than 5/16 of a second's keys: two standard
//! deviations of what the hash does, which makes it two keys at once for a rate of one a second. Over any time t, a region
//! admits at most rate × t + the [bursts](Share::burst) of its nodes:
//!
//! | rate, keys a second | bursts of one node that leads all | of three that lead 6, 5 and 5 of 16 |
//! |---|---|---|
//! | 1 | 1 | 6 |
//! | 10 | 10 | 19 |
//! | 100 | 100 | 130 |
//! | 1,000 | 1,000 | 1,090 |
//!
//! A node that begins to lead, and one that was started, has its whole burst. When the share or a cap changes, the next key
//! is counted under the new one: what was used up stays used up, at most until one burst of the new cap has come in.
//! Periods are rounded up to nanoseconds, so the largest rates come out up to 0.1 % lower.
//!
//! **What is kept.** A rate that has its whole burst again is as good as one that was never used, and is dropped. How many
//! others are kept is limited. A client or endpoint beyond that is held by the caps that have room, in the end its tenant's
//! own; it never costs another tenant a key. A tenant beyond [`limits::MAX_RATED_TENANTS`] is not held at all: whoever can
//! make up tenants has the whole burst of each anyhow.
//!
//! Deliberately absent: quotas of records and bytes, which are counted from what is stored; which caps apply to whom.

mod bucket;
mod shard;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Monotonic;
use crate::ids::{EndpointName, PartitionCount, TenantId};
use crate::limits;
use crate::region::rates::shard::{Room, Shard};
use crate::reservation::reply::Limit;

/// Tenants are spread over this many mutexes. Each is held for under a microsecond, but while it is swept.
const SHARDS: usize = 64;

/// A lack of room is logged this often at the most.
const LOG_WINDOW: Duration = Duration::from_secs(60);

/// Whose key it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The endpoint contract.
    pub endpoint: &'a EndpointName,
    /// The client. All that have no name are one client. The caller has bounded its length.
    pub client: &'a str,
}

/// New keys a second, over the region; nothing is no limit. A rate below or above [`limits::KEYS_PER_SECOND`] is its nearest
/// bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rate {
    /// Of all clients together.
    pub keys_per_second: Option<u64>,
    /// Of each client.
    pub per_client: Option<u64>,
}

/// What holds for a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Caps {
    /// Over all endpoints of the tenant.
    pub tenant: Rate,
    /// Over the endpoint, of this tenant.
    pub endpoint: Rate,
}

/// The part of a region's keys that comes to this node: it leads `led` of `of` partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Partitions that this node leads. None is as one: a node that is asked leads the key's partition, or did so just now.
    pub led: u16,
    /// Partitions of the cluster.
    pub of: PartitionCount,
}

/// Which of the four caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cap {
    /// Keys of the tenant.
    Tenant,
    /// Keys of one client of the tenant.
    TenantClient,
    /// Keys of the endpoint, of one tenant.
    Endpoint,
    /// Keys of one client of the endpoint, of one tenant.
    EndpointClient,
}

/// A refusal: no key was counted. If several caps refuse, it is the one that refuses for longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    /// Which cap. Nothing remains of it.
    pub cap: Cap,
    /// The cap in keys a second, over the region.
    pub keys_per_second: u64,
    /// How long until this node admits one key more, if nobody else takes it.
    pub retry_after: Duration,
    /// How long until this node's whole burst is there again, if no key comes.
    pub reset: Duration,
}

/// As a caller is told.
pub(super) const fn limit(cap: Cap) -> Limit {
    match cap {
        Cap::Tenant => Limit::TenantRate,
        Cap::TenantClient => Limit::ClientRate,
        Cap::Endpoint => Limit::EndpointRate,
        Cap::EndpointClient => Limit::EndpointClientRate,
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Most {
    tenants: usize,
    /// Endpoints and clients, of all tenants.
    names: usize,
    endpoints_per_tenant: usize,
    clients_per_tenant: usize,
}

const MOST: Most = Most {
    tenants: limits::MAX_RATED_TENANTS,
    names: limits::MAX_RATES,
    endpoints_per_tenant: limits::MAX_RATED_ENDPOINTS_PER_TENANT,
    clients_per_tenant: limits::MAX_RATED_CLIENTS_PER_TENANT,
};

/// The rates of new keys that this node counts.
#[derive(Debug)]
pub(super) struct Rates {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    room: Room,
    /// The shard that is swept next for room.
    hand: AtomicUsize,
    unkept: AtomicU64,
    told: Mutex<Option<Monotonic>>,
}

impl Default for Rates {
    fn default() -> Self {
        Self::with(MOST)
    }
}

impl Rates {
    fn with(most: Most) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            room: Room::new(most),
            hand: AtomicUsize::new(0),
            unkept: AtomicU64::new(0),
            told: Mutex::new(None),
        }
    }

    /// Counts one new key, if every cap allows it. `now` is [`crate::clock::monotonic`]'s reading; one that is behind another
    /// thread's counts as that.
    ///
    /// # Errors
    /// The cap that refuses. Then no cap has counted the key.
    pub(super) fn admit(&self, who: Who<'_>, caps: &Caps, share: Share, now: Monotonic) -> Result<(), Exceeded> {
        let caps = caps.each();
        if caps.iter().all(|(_, rate)| rate.is_none()) {
            return Ok(());
        }
        let kept = self.shard(who.tenant).admit(who, &caps, share, now, &self.room)?;
        if !kept {
            self.make_room(who.tenant, now);
        }
        Ok(())
    }

    /// How many rates are kept now.
    #[must_use]
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.room.used()
    }

    fn shard(&self, tenant: &TenantId) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(self.hasher.hash_one(tenant) % SHARDS as u64).unwrap_or_default();
        let shard = self.shards.get(at).expect("the remainder is less than the number of shards");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A rate was not kept: sweeps a shard for the next one. Shards take turns, and one that is in use is passed over.
    fn make_room(&self, tenant: &TenantId, now: Monotonic) {
        let unkept = self.unkept.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let turn = self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS;
        if let Some(Ok(mut shard)) = self.shards.get(turn).map(Mutex::try_lock) {
            shard.sweep_if_due(now, &self.room);
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| now.since(at) >= LOG_WINDOW) {
            *told = Some(now);
            tracing::warn!(%tenant, unkept, "a rate of new keys is not counted: as many are as may be");
        }
    }
}

impl Caps {
    fn each(&self) -> [(Cap, Option<u64>); 4] {
        let Self { tenant, endpoint } = *self;
        [
            (Cap::Tenant, tenant.keys_per_second),
            (Cap::TenantClient, tenant.per_client),
            (Cap::Endpoint, endpoint.keys_per_second),
            (Cap::EndpointClient, endpoint.per_client),
        ]
    }
}
