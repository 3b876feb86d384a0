//! Which clients use keys wrongly, by what they did in windows of a minute: a function of what was seen and when.
//!
//! **A key storm.** A healthy client uses a new key for each request, and comes back with a key only if it has to: in most
//! minutes a busy one has many new keys and no replay. So neither says anything by itself, and a storm has a second sign:
//!
//! * *Repeated requests.* A client that makes a new key for each retry has one fingerprint under several keys. An eighth or
//!   more of its requests come under more than one key, or an eighth of its keys repeat a request, and there are twenty times as many keys that repeat one as replays. A client whose retries bear their old keys is no such client, however many they are, and the few replays of a
//!   proxy in between hide none. It is an eighth because a node sees only the keys that it leads: of a request and its one
//!   retry, three nodes see both in a third of the cases. The first requests of a window are remembered, [`FINGERPRINTS`]
//!   of them, and what repeats one of those is found until the window ends. Among requests, one that comes again and again
//!   counts once; among keys, each time. An endpoint whose requests are alike by nature looks the same: what stays like that for three quarters of an hour is no sign any more.
//! * *A surge.* Twenty times as many keys as in an earlier window on average, twice as many as ever in about a week, and
//!   under one replay in a thousand keys. Somebody uses keys up; or it is a new batch of work, which is told once and known
//!   from then on. A new client has nothing to be compared with, and so no surge: after a start, or a change of leaders,
//!   all are new.
//!
//! **Modified payloads.** Known keys come with other requests, [`MODIFIED`] times in a window: a client makes keys of too
//! little, or changes a request before it retries.
//!
//! Each kind is raised once a window, as soon as it is true. Windows are those of each client, a minute each from its first
//! call on. Thresholds are about what one node sees.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::clock::Monotonic;
use crate::ids::{EndpointName, Fingerprint, TenantId};
use crate::region::rates::Who;
use crate::region::storms::{Alarm, Kind, Seen};

/// What is counted together.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// New keys of a window below which nothing is a storm: some 17 a second.
pub(super) const STORM_KEYS: u32 = 1_000;
/// Keys that come back with another request, in a window: more than a few mistakes.
pub(super) const MODIFIED: u32 = 20;
/// Requests of a window that are remembered: a few KiB of a client.
pub(super) const FINGERPRINTS: usize = 256;
/// One request in so many comes under more than one key, or one key in so many repeats a request.
const REPEATED_PART: u64 = 8;
/// So many keys repeat a request for each replay.
const REPEATED_FOR_REPLAY: u32 = 20;
/// A surge has so many times as many keys as usual, and one replay for so many keys.
const SURGE: u64 = 20;
const SURGE_FOR_REPLAY: u32 = 1_000;
/// Windows with keys before there is a usual number.
const KNOWN_AFTER: u64 = 5;
/// Windows that a mean is made of: about an hour of traffic.
const MEAN_OF: u64 = 64;
/// Keys of a window from which on it says something about how many repeat a request.
const TELLING_KEYS: u32 = 100;
/// The largest number is halved each time that so many windows are over: a week.
const PEAK_WINDOWS: u64 = 7 * 24 * 60;
/// Means are kept in parts of this size.
const PART: u64 = 1_024;

/// The clients that were seen last, at most a fixed number.
#[derive(Debug)]
pub(super) struct Storms {
    most: usize,
    hasher: RandomState,
    /// By the hash of their names.
    clients: HashMap<u64, Place>,
    /// How many observations there were.
    observed: u64,
}

/// A client's place: small, since the stalest of all is looked for among them.
#[derive(Debug)]
struct Place {
    /// At which observation it was last seen.
    seen_at: u64,
    /// The hash of the tenant's name.
    tenant: u64,
    client: Box<Client>,
}

/// One client of one endpoint.
#[derive(Debug)]
struct Client {
    tenant: TenantId,
    endpoint: EndpointName,
    name: Box<str>,
    window: Window,
    usual: Usual,
}

/// What was counted since `begun`.
#[derive(Debug)]
struct Window {
    begun: Monotonic,
    fresh: u32,
    replays: u32,
    modified: u32,
    /// Hashes of the first requests, and whether another key had the same.
    requests: HashMap<u64, bool>,
    /// How many of them another key had.
    requests_repeated: u32,
    /// How many keys repeat one of them.
    repeated: u32,
    storm_told: bool,
    modified_told: bool,
}

/// What earlier windows were like. Those without a new key are left out.
#[derive(Debug, Default)]
struct Usual {
    windows: u64,
    /// New keys, in [`PART`]s.
    mean: u64,
    /// The part of requests, or of keys, that come again under another key, in [`PART`]s.
    repeated: u64,
    /// The largest number of new keys, and for how many windows it has been that.
    peak: u32,
    peak_age: u64,
}

impl Storms {
    /// At most so many clients, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), hasher: RandomState::new(), clients: HashMap::new(), observed: 0 }
    }

    /// Counts what a client did. An alarm is what it has to be told for.
    pub(super) fn observe(&mut self, who: Who<'_>, what: Seen<'_>, now: Monotonic) -> Option<Alarm> {
        let hash = self.hasher.hash_one((who.tenant, who.endpoint, who.client));
        self.make(hash, who, now);
        self.observed = self.observed.saturating_add(1);
        let Place { seen_at, client, .. } = self.clients.get_mut(&hash)?;
        *seen_at = self.observed;
        let Client { window, usual, .. } = &mut **client;
        window.roll(usual, now);
        let kind = match what {
            Seen::Fresh(Fingerprint { version, selection, digest }) => {
                window.fresh(self.hasher.hash_one((version, selection, digest)));
                window.storm(usual)
            }
            Seen::Replay => {
                window.replays = window.replays.saturating_add(1);
                None
            }
            Seen::ModifiedPayload => window.modified(),
        };
        let Window { fresh, repeated, replays, modified, .. } = *window;
        let usual = u32::try_from(usual.mean / PART).unwrap_or(u32::MAX);
        kind.map(|kind| Alarm { kind, fresh, repeated, replays, modified, usual })
    }

    /// How many clients are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Makes a client, unless it is known. Two whose names have one hash take each other's place: that hardly ever happens.
    fn make(&mut self, hash: u64, who: Who<'_>, now: Monotonic) {
        let tenant = match self.clients.get(&hash) {
            Some(place) if place.client.is(who) => return,
            Some(_) | None => self.hasher.hash_one(who.tenant),
        };
        if self.clients.len() >= self.most {
            self.forget_one(tenant);
        }
        let client = Box::new(Client::new(who, now));
        self.clients.insert(hash, Place { seen_at: self.observed, tenant, client });
    }

    /// The stalest goes: of the tenant that a new client is of, once that has a quarter of the room, else of all. So a tenant
    /// that makes up clients does not take the others' places.
    fn forget_one(&mut self, tenant: u64) {
        let (mut own, mut stalest, mut own_stalest) = (0_usize, (u64::MAX, 0), (u64::MAX, 0));
        for (hash, place) in &self.clients {
            if place.seen_at < stalest.0 {
                stalest = (place.seen_at, *hash);
            }
            if place.tenant == tenant {
                own = own.saturating_add(1);
                if place.seen_at < own_stalest.0 {
                    own_stalest = (place.seen_at, *hash);
                }
            }
        }
        let gone = if own > self.most / 4 { own_stalest } else { stalest };
        self.clients.remove(&gone.1);
    }
}

impl Client {
    fn new(who: Who<'_>, now: Monotonic) -> Self {
        Self {
            tenant: who.tenant.clone(),
            endpoint: who.endpoint.clone(),
            name: who.client.into(),
            window: Window::new(now),
            usual: Usual::default(),
        }
    }

    fn is(&self, who: Who<'_>) -> bool {
        self.tenant == *who.tenant && self.endpoint == *who.endpoint && *self.name == *who.client
    }
}

impl Window {
    fn new(begun: Monotonic) -> Self {
        Self {
            begun,
            fresh: 0,
            replays: 0,
            modified: 0,
            requests: HashMap::new(),
            requests_repeated: 0,
            repeated: 0,
            storm_told: false,
            modified_told: false,
        }
    }

    /// Begins a new window if this one is over.
    fn roll(&mut self, usual: &mut Usual, now: Monotonic) {
        let over = now.since(self.begun).as_secs() / WINDOW.as_secs();
        if over == 0 {
            return;
        }
        usual.add(self, over);
        let begun = self.begun.plus(Duration::from_secs(over.saturating_mul(WINDOW.as_secs())));
        *self = Self::new(begun);
    }

    fn fresh(&mut self, request: u64) {
        self.fresh = self.fresh.saturating_add(1);
        let is_room = self.requests.len() < FINGERPRINTS;
        match self.requests.entry(request) {
            Entry::Occupied(mut known) => {
                self.repeated = self.repeated.saturating_add(1);
                if !known.insert(true) {
                    self.requests_repeated = self.requests_repeated.saturating_add(1);
                }
            }
            Entry::Vacant(new) if is_room => drop(new.insert(false)),
            Entry::Vacant(_) => {}
        }
    }

    fn storm(&mut self, usual: &Usual) -> Option<Kind> {
        if self.storm_told || self.fresh < STORM_KEYS {
            return None;
        }
        let kind = if self.repeats(usual) {
            Kind::RepeatedRequests
        } else if self.surges(usual) {
            Kind::Surge
        } else {
            return None;
        };
        self.storm_told = true;
        Some(kind)
    }

    fn repeats(&self, usual: &Usual) -> bool {
        self.repeated_part() >= PART / REPEATED_PART
            && self.replays.saturating_mul(REPEATED_FOR_REPLAY) <= self.repeated
            && self.repeated_part() >= usual.repeated.saturating_mul(2)
    }

    fn surges(&self, usual: &Usual) -> bool {
        usual.windows >= KNOWN_AFTER
            && u64::from(self.fresh).saturating_mul(PART) >= usual.mean.saturating_mul(SURGE)
            && self.fresh >= usual.peak.saturating_mul(2)
            && self.replays.saturating_mul(SURGE_FOR_REPLAY) < self.fresh
    }

    fn modified(&mut self) -> Option<Kind> {
        self.modified = self.modified.saturating_add(1);
        let told = std::mem::replace(&mut self.modified_told, self.modified >= MODIFIED);
        (self.modified_told && !told).then_some(Kind::ModifiedPayloads)
    }

    /// Of the requests that are remembered, the part that came under more than one key; or of all keys, the part that
    /// repeat one of those, if that is more.
    fn repeated_part(&self) -> u64 {
        let remembered = u64::try_from(self.requests.len()).unwrap_or(u64::MAX);
        let part = |of: u32, all: u64| u64::from(of).saturating_mul(PART).checked_div(all).unwrap_or_default();
        part(self.requests_repeated, remembered).max(part(self.repeated, u64::from(self.fresh)))
    }
}

impl Usual {
    /// Adds a window that is over; with it, `over` windows are.
    fn add(&mut self, window: &Window, over: u64) {
        if window.fresh >= self.peak {
            self.peak = window.fresh;
            self.peak_age = 0;
        }
        self.peak_age = self.peak_age.saturating_add(over);
        let halvings = u32::try_from(self.peak_age / PEAK_WINDOWS).unwrap_or(u32::MAX);
        self.peak = self.peak.checked_shr(halvings).unwrap_or_default();
        self.peak_age %= PEAK_WINDOWS;
        if window.fresh > 0 {
            self.windows = self.windows.saturating_add(1);
            let fresh = u64::from(window.fresh).saturating_mul(PART);
            self.mean = mean(self.mean, fresh, self.windows.min(MEAN_OF));
        }
        if window.fresh >= TELLING_KEYS {
            // From nothing on, so that a storm is one until it has been there for some time.
            self.repeated = mean(self.repeated, window.repeated_part(), MEAN_OF);
        }
    }
}

/// The mean of so many values, of which the last one is new.
fn mean(of_others: u64, value: u64, values: u64) -> u64 {
    let others = of_others.saturating_mul(values.saturating_sub(1));
    others.saturating_add(value).checked_div(values).unwrap_or(value)
}
