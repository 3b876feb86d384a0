//! A global group at work: its rows in memory, and a decision applied to them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use holdfast::home::evidence::{Attempt, Phase, Token};
use holdfast::home::ledger::{Entry, Task, TaskId};
use holdfast::home::state::{Contract, Group, Home, Stream, StreamId};
use holdfast::home::{Command, Context, Decision, Record, Rows, Write, decide};
use holdfast::ids::{Digest, EndpointName, Epoch, FencingToken, IdempotencyKey, RecordKey, RegionName, TenantId};
use holdfast::reservation::record::{OnLapse, Terms};

use crate::world::{endpoint, fingerprint};

/// The function under test, so that a planted bug can take its place.
pub(crate) type Core = fn(&World, &Command, &Context) -> Decision;

/// The core as it is.
pub(crate) fn core(world: &World, command: &Command, context: &Context) -> Decision {
    match decide(world, command, context) {
        Ok(decision) => decision,
        Err(never) => match never {},
    }
}

/// The rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) group: Group,
    pub(crate) homes: BTreeMap<RegionName, Home>,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) contracts: BTreeMap<(RegionName, EndpointName), Contract>,
    pub(crate) records: BTreeMap<RecordKey, Record>,
    pub(crate) envelopes: BTreeSet<(RecordKey, Digest)>,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) horizons: BTreeMap<(TenantId, EndpointName), u64>,
}

impl Rows for World {
    type Error = Infallible;

    fn group(&self) -> Result<Group, Infallible> {
        Ok(self.group)
    }

    fn home(&self, name: &RegionName) -> Result<Option<Home>, Infallible> {
        Ok(self.homes.get(name).cloned())
    }

    fn stream(&self, id: &StreamId) -> Result<Option<Stream>, Infallible> {
        Ok(self.streams.get(id).copied())
    }

    fn contract(&self, home: &RegionName, endpoint: &EndpointName) -> Result<Option<Contract>, Infallible> {
        Ok(self.contracts.get(&(home.clone(), endpoint.clone())).copied())
    }

    fn record(&self, key: &RecordKey) -> Result<Option<Record>, Infallible> {
        Ok(self.records.get(key).cloned())
    }

    fn task(&self, id: TaskId) -> Result<Option<Task>, Infallible> {
        Ok(self.tasks.get(&id).cloned())
    }

    fn entry(&self, sequence: u64) -> Result<Option<Entry>, Infallible> {
        Ok(self.entries.get(&sequence).cloned())
    }

    fn horizon(&self, tenant: &TenantId, endpoint: &EndpointName) -> Result<Option<u64>, Infallible> {
        Ok(self.horizons.get(&(tenant.clone(), endpoint.clone())).copied())
    }
}

/// Puts a row in its place, or takes it away.
fn put<K: Ord, V>(rows: &mut BTreeMap<K, V>, key: K, row: Option<V>) {
    match row {
        Some(row) => drop(rows.insert(key, row)),
        None => drop(rows.remove(&key)),
    }
}

impl World {
    /// Decides a command, and writes what changes.
    pub(crate) fn apply(&mut self, core: Core, command: &Command, context: &Context) -> Decision {
        let decision = core(self, command, context);
        for write in decision.writes.clone() {
            match write {
                Write::Group(group) => self.group = group,
                Write::Home(name, home) => drop(self.homes.insert(name, *home)),
                Write::Stream(id, stream) => put(&mut self.streams, id, stream),
                Write::Contract(home, endpoint, contract) => {
                    self.contracts.insert((home, endpoint), contract);
                }
                Write::Record(key, None) => {
                    self.envelopes.retain(|(owner, _)| *owner != key);
                    self.records.remove(&key);
                }
                Write::Record(key, Some(record)) => drop(self.records.insert(key, *record)),
                Write::Envelope(key, digest) => drop(self.envelopes.insert((key, digest))),
                Write::Task(id, task) => put(&mut self.tasks, id, task.map(|task| *task)),
                Write::Entry(sequence, entry) => put(&mut self.entries, sequence, entry.map(|entry| *entry)),
                Write::Horizon(tenant, endpoint, time) => drop(self.horizons.insert((tenant, endpoint), time)),
            }
        }
        decision
    }
}

pub(crate) fn region(name: &str) -> RegionName {
    RegionName::parse(name).expect("a region's name is 1 to 32 of a-z 0-9 -")
}

pub(crate) fn record_key(name: &str) -> RecordKey {
    RecordKey {
        tenant: TenantId::parse("acme").expect("a tenant's name"),
        key: IdempotencyKey::parse(name).expect("a key is visible ASCII"),
    }
}

pub(crate) fn token(epoch: u64, sequence: u64, name: &str) -> Token {
    Token::new(FencingToken { epoch: Epoch(epoch), sequence }, &region(name))
}

/// A grant as streams tell of it, with what does not matter here filled in.
pub(crate) fn attempt(token: Token, flagged: bool, phase: Phase) -> Attempt {
    Attempt {
        token,
        number: 1,
        endpoint: endpoint("pay"),
        terms: Terms { policy_revision: 0, lease_ms: 500, on_lapse: OnLapse::Hold, retention_ms: 1_000 },
        fingerprint: fingerprint("A"),
        nonce: None,
        flagged,
        phase,
    }
}
