//! A partition at work, without logs or disks: applies commands to records, counts positions, keeps horizons, and
//! remembers which envelopes it was told to store.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::ids::{Digest, EndpointName, Epoch, Fingerprint, Nonce};
use holdfast::reservation::command::KeyFacts;
use holdfast::reservation::sweep::{Sweep, sweep};
use holdfast::reservation::{Command, Context, Decision, Record, decide};
use holdfast::time::LogTime;

/// The functions under test, so that a planted bug can take their place.
#[derive(Clone, Copy)]
pub(crate) struct Core {
    pub(crate) decide: fn(Option<&Record>, &Command, &Context) -> Decision,
    pub(crate) sweep: fn(&Record, KeyFacts, LogTime) -> Sweep,
}

/// The core as it is.
pub(crate) const CORE: Core = Core { decide, sweep };

/// The key facts of an opaque key.
pub(crate) const OPAQUE: KeyFacts = KeyFacts { mint_epoch: Epoch::FIRST, time_ms: None };

/// One command as it was applied.
pub(crate) struct Applied {
    pub(crate) before: Option<Record>,
    pub(crate) context: Context,
    pub(crate) decision: Decision,
    pub(crate) after: Option<Record>,
}

/// The state of a partition.
pub(crate) struct World {
    core: Core,
    pub(crate) records: BTreeMap<String, Record>,
    pub(crate) facts: BTreeMap<String, KeyFacts>,
    pub(crate) open: Option<Epoch>,
    pub(crate) now: LogTime,
    horizons: BTreeMap<EndpointName, u64>,
    positions: BTreeMap<Epoch, u64>,
    stored: BTreeSet<(String, Digest)>,
}

impl World {
    pub(crate) fn new(core: Core) -> Self {
        Self {
            core,
            records: BTreeMap::new(),
            facts: BTreeMap::new(),
            open: Some(Epoch::FIRST),
            now: LogTime::default(),
            horizons: BTreeMap::new(),
            positions: BTreeMap::new(),
            stored: BTreeSet::new(),
        }
    }

    pub(crate) fn facts_of(&self, key: &str) -> KeyFacts {
        self.facts.get(key).copied().unwrap_or(OPAQUE)
    }

    /// The largest key time that a sweep removed from the endpoint.
    pub(crate) fn horizon(&self, endpoint: &EndpointName) -> Option<u64> {
        self.horizons.get(endpoint).copied()
    }

    /// What the next entry would say of the moment.
    pub(crate) fn context(&self, key: &str, endpoint: &EndpointName) -> Context {
        let position = self.open.and_then(|epoch| self.positions.get(&epoch).copied()).unwrap_or(1);
        Context {
            open_epoch: self.open,
            next_position: position,
            now: self.now,
            key: self.facts_of(key),
            horizon_ms: self.horizon(endpoint),
        }
    }

    /// Applies one command, as a state machine does.
    pub(crate) fn apply(&mut self, key: &str, endpoint: &EndpointName, command: &Command) -> Applied {
        let context = self.context(key, endpoint);
        let before = self.records.get(key).cloned();
        let decision = (self.core.decide)(before.as_ref(), command, &context);
        if let Some(digest) = decision.envelope {
            self.stored.insert((key.to_owned(), digest));
        }
        if let Some(record) = &decision.record {
            self.records.insert(key.to_owned(), record.clone());
            if let Some(epoch) = context.open_epoch {
                self.positions.insert(epoch, context.next_position + 1);
            }
        }
        Applied { before, context, decision, after: self.records.get(key).cloned() }
    }

    /// Sweeps one record, whether its time has come or not. Nothing if there is none.
    pub(crate) fn sweep(&mut self, key: &str) -> Option<Sweep> {
        let record = self.records.get(key)?;
        let swept = (self.core.sweep)(record, self.facts_of(key), self.now);
        match swept {
            Sweep::Keep => {}
            Sweep::Remove { raise_horizon_ms } => {
                if let Some(time) = raise_horizon_ms {
                    let horizon = self.horizons.entry(record.endpoint.clone()).or_insert(time);
                    *horizon = time.max(*horizon);
                }
                self.records.remove(key);
                self.stored.retain(|(owner, _)| owner != key);
            }
        }
        Some(swept)
    }

    /// Whether the key's envelope was given to the store and not removed since.
    pub(crate) fn is_stored(&self, key: &str, digest: Digest) -> bool {
        self.stored.contains(&(key.to_owned(), digest))
    }
}

/// The digest that stands for an envelope with this name, of at most 32 bytes.
pub(crate) fn envelope(name: &str) -> Digest {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    Digest(bytes)
}

/// The fingerprint that stands for a request with this name; with `@2` at its end, as selection 2 takes it.
pub(crate) fn fingerprint(name: &str) -> Fingerprint {
    let selection = name.split_once('@').map_or(0, |(_, number)| number.parse().expect("a selection's number"));
    Fingerprint { version: 1, selection, digest: name.as_bytes().into() }
}

pub(crate) fn nonce(name: &str) -> Nonce {
    Nonce::parse(name.as_bytes()).expect("a nonce's name has 1 to 64 bytes")
}

pub(crate) fn endpoint(name: &str) -> EndpointName {
    EndpointName::parse(name).expect("an endpoint's name is printable ASCII")
}
