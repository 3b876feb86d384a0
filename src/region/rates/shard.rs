//! The tenants behind one mutex: their buckets, found by name, and when they go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::clock::Monotonic;
use crate::ids::{EndpointName, TenantId};
use crate::region::rates::bucket::{Bucket, Refused};
use crate::region::rates::{Cap, Exceeded, Most, Share, Who};

/// A shard that makes buckets drops those that are full this often at the most: looking at all of the largest number takes some
/// milliseconds, over all shards.
pub(super) const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// Maps that have room for no more than this are not shrunk.
const SMALL: usize = 64;

/// What a node may keep, and what it keeps.
#[derive(Debug)]
pub(super) struct Room {
    most: Most,
    tenants: AtomicUsize,
    names: AtomicUsize,
}

/// Some of the tenants.
#[derive(Debug)]
pub(super) struct Shard {
    tenants: HashMap<TenantId, Tenant>,
    /// The latest time that it was asked at: threads read the clock before they come to the mutex.
    now: Monotonic,
    swept: Monotonic,
}

#[derive(Debug)]
struct Tenant {
    own: Bucket,
    clients: Clients,
    endpoints: HashMap<EndpointName, Endpoint>,
    /// Clients of the tenant and of its endpoints together.
    kept_clients: usize,
}

#[derive(Debug)]
struct Endpoint {
    own: Bucket,
    clients: Clients,
}

type Clients = HashMap<Box<str>, Bucket>;

impl Room {
    pub(super) fn new(most: Most) -> Self {
        Self { most, tenants: AtomicUsize::new(0), names: AtomicUsize::new(0) }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.tenants.load(Ordering::Relaxed).saturating_add(self.names.load(Ordering::Relaxed))
    }

    fn take_tenant(&self) -> bool {
        take(&self.tenants, self.most.tenants)
    }

    fn take_name(&self) -> bool {
        take(&self.names, self.most.names)
    }
}

fn take(used: &AtomicUsize, most: usize) -> bool {
    let room = used.fetch_add(1, Ordering::Relaxed) < most;
    if !room {
        used.fetch_sub(1, Ordering::Relaxed);
    }
    room
}

impl Default for Shard {
    fn default() -> Self {
        let start = Monotonic::at(Duration::ZERO);
        Self { tenants: HashMap::new(), now: start, swept: start }
    }
}

impl Shard {
    /// Takes a key from every bucket that has a cap, or from none. The answer is whether all of that is kept.
    pub(super) fn admit(
        &mut self,
        who: Who<'_>,
        caps: &[(Cap, Option<u64>); 4],
        share: Share,
        now: Monotonic,
        room: &Room,
    ) -> Result<bool, Exceeded> {
        self.now = self.now.max(now);
        let now = self.now;
        let mut found = self.tenants.get_mut(who.tenant).map(|tenant| tenant.buckets(who)).unwrap_or_default();
        let mut taken = [None; 4];
        let mut exceeded: Option<Exceeded> = None;
        for ((bucket, taken), (cap, rate)) in found.iter_mut().zip(&mut taken).zip(caps) {
            let Some(keys_per_second) = *rate else { continue };
            let quota = share.quota(keys_per_second);
            let before = bucket.as_deref_mut().map_or(Bucket::FULL, |bucket| {
                bucket.fit(quota, now);
                *bucket
            });
            match before.take(quota, now) {
                Ok(after) => *taken = Some(after),
                Err(Refused { retry_after, reset }) => {
                    if exceeded.is_none_or(|other| other.retry_after < retry_after) {
                        exceeded = Some(Exceeded { cap: *cap, keys_per_second, retry_after, reset });
                    }
                }
            }
        }
        if let Some(exceeded) = exceeded {
            return Err(exceeded);
        }
        let mut all_known = true;
        for (bucket, taken) in found.into_iter().zip(taken) {
            match (bucket, taken) {
                (Some(bucket), Some(taken)) => *bucket = taken,
                (None, Some(_)) => all_known = false,
                (Some(_) | None, None) => {}
            }
        }
        Ok(all_known || self.make(who, taken, room))
    }

    /// Drops what is full, if that has not been done just now.
    pub(super) fn sweep_if_due(&mut self, now: Monotonic, room: &Room) {
        self.now = self.now.max(now);
        if self.now.since(self.swept) >= SWEEP_EVERY {
            self.sweep(room);
        }
    }

    /// Makes the buckets that are not there yet, as far as there is room: says whether there was.
    fn make(&mut self, who: Who<'_>, taken: [Option<Bucket>; 4], room: &Room) -> bool {
        self.sweep_if_due(self.now, room);
        if !self.tenants.contains_key(who.tenant) && !room.take_tenant() {
            return false;
        }
        let tenant = self.tenants.entry(who.tenant.clone()).or_insert_with(Tenant::new);
        let [own, client, of_endpoint, of_endpoint_client] = taken;
        tenant.own = own.unwrap_or(tenant.own);
        let client = keep(&mut tenant.clients, &mut tenant.kept_clients, who.client, client, room);
        if of_endpoint.is_none() && of_endpoint_client.is_none() {
            return client;
        }
        if !tenant.endpoints.contains_key(who.endpoint) {
            if tenant.endpoints.len() >= room.most.endpoints_per_tenant || !room.take_name() {
                return false;
            }
            tenant.endpoints.insert(who.endpoint.clone(), Endpoint { own: Bucket::FULL, clients: Clients::new() });
        }
        let Some(endpoint) = tenant.endpoints.get_mut(who.endpoint) else { return false };
        endpoint.own = of_endpoint.unwrap_or(endpoint.own);
        let kept = &mut tenant.kept_clients;
        keep(&mut endpoint.clients, kept, who.client, of_endpoint_client, room) && client
    }

    fn sweep(&mut self, room: &Room) {
        let now = self.now;
        self.swept = now;
        let (tenants, mut names) = (self.tenants.len(), 0_usize);
        self.tenants.retain(|_, tenant| {
            names = names.saturating_add(tenant.sweep(now));
            !(tenant.own.is_full(now) && tenant.clients.is_empty() && tenant.endpoints.is_empty())
        });
        room.tenants.fetch_sub(tenants.saturating_sub(self.tenants.len()), Ordering::Relaxed);
        room.names.fetch_sub(names, Ordering::Relaxed);
        shrink(&mut self.tenants);
    }
}

impl Tenant {
    fn new() -> Self {
        Self { own: Bucket::FULL, clients: Clients::new(), endpoints: HashMap::new(), kept_clients: 0 }
    }

    /// The buckets of the four caps, in their order.
    fn buckets(&mut self, who: Who<'_>) -> [Option<&mut Bucket>; 4] {
        let endpoint = self.endpoints.get_mut(who.endpoint);
        let (endpoint, endpoint_client) = match endpoint {
            Some(Endpoint { own, clients }) => (Some(own), clients.get_mut(who.client)),
            None => (None, None),
        };
        [Some(&mut self.own), self.clients.get_mut(who.client), endpoint, endpoint_client]
    }

    /// Drops what is full, but for its own bucket, and says how much that was.
    fn sweep(&mut self, now: Monotonic) -> usize {
        let endpoints = self.endpoints.len();
        let mut clients = drop_full(&mut self.clients, now);
        self.endpoints.retain(|_, endpoint| {
            clients = clients.saturating_add(drop_full(&mut endpoint.clients, now));
            !(endpoint.own.is_full(now) && endpoint.clients.is_empty())
        });
        shrink(&mut self.endpoints);
        self.kept_clients = self.kept_clients.saturating_sub(clients);
        clients.saturating_add(endpoints.saturating_sub(self.endpoints.len()))
    }
}

/// Keeps a client's bucket, if there is one, and room.
fn keep(clients: &mut Clients, kept: &mut usize, client: &str, bucket: Option<Bucket>, room: &Room) -> bool {
    let Some(bucket) = bucket else { return true };
    if let Some(known) = clients.get_mut(client) {
        *known = bucket;
        return true;
    }
    let may = *kept < room.most.clients_per_tenant && room.take_name();
    if may {
        clients.insert(client.into(), bucket);
        *kept = kept.saturating_add(1);
    }
    may
}

fn drop_full(clients: &mut Clients, now: Monotonic) -> usize {
    let before = clients.len();
    clients.retain(|_, bucket| !bucket.is_full(now));
    shrink(clients);
    before.saturating_sub(clients.len())
}

/// Gives memory back once a map is mostly empty.
fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > SMALL && map.capacity() / 4 > map.len() {
        map.shrink_to(map.len().saturating_mul(2));
    }
}
