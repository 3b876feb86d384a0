//! Between a decision and what is stored: which rows it reads, and which it changes.
//!
//! A command reads rows by name, those of its home, its streams and the keys that it names, and never walks over others. So
//! applying costs what is in the batch, whatever is in the state.

use std::collections::BTreeMap;

use crate::home::ledger::{Conflict, Entry, Event, Task, TaskId};
use crate::home::merge::Record;
use crate::home::state::{Context, Contract, Group, Home, Stream, StreamId};
use crate::ids::{Digest, EndpointName, RecordKey, RegionName, TenantId};

/// The rows as they are before a command: those of the storage, with what is pending over them.
pub trait Rows {
    /// Why a row cannot be read. No decision comes of it.
    type Error;

    /// What is one for the group; its default before it was ever written.
    ///
    /// # Errors
    /// When it cannot be read.
    fn group(&self) -> Result<Group, Self::Error>;

    /// A home.
    ///
    /// # Errors
    /// When it cannot be read.
    fn home(&self, name: &RegionName) -> Result<Option<Home>, Self::Error>;

    /// A stream.
    ///
    /// # Errors
    /// When it cannot be read.
    fn stream(&self, id: &StreamId) -> Result<Option<Stream>, Self::Error>;

    /// An endpoint's consistency in a home.
    ///
    /// # Errors
    /// When it cannot be read.
    fn contract(&self, home: &RegionName, endpoint: &EndpointName) -> Result<Option<Contract>, Self::Error>;

    /// A key's merged record.
    ///
    /// # Errors
    /// When it cannot be read.
    fn record(&self, key: &RecordKey) -> Result<Option<Record>, Self::Error>;

    /// A compensation task.
    ///
    /// # Errors
    /// When it cannot be read.
    fn task(&self, id: TaskId) -> Result<Option<Task>, Self::Error>;

    /// An entry of the ledger.
    ///
    /// # Errors
    /// When it cannot be read.
    fn entry(&self, sequence: u64) -> Result<Option<Entry>, Self::Error>;

    /// The largest key time that a sweep removed from an endpoint, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// When it cannot be read.
    fn horizon(&self, tenant: &TenantId, endpoint: &EndpointName) -> Result<Option<u64>, Self::Error>;
}

/// A row as it stands from now on; nothing in the place of a row: it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// What is one for the group.
    Group(Group),
    /// A home.
    Home(RegionName, Box<Home>),
    /// A stream.
    Stream(StreamId, Option<Stream>),
    /// An endpoint's consistency in a home.
    Contract(RegionName, EndpointName, Contract),
    /// A key's merged record. Its envelopes go with it. Whoever stores it keeps the index of [`Record::expires_at`].
    Record(RecordKey, Option<Box<Record>>),
    /// The envelope of that digest is one of the key's from now on, if it was not before: its bytes came with the mutation.
    Envelope(RecordKey, Digest),
    /// A task. Whoever stores it keeps the index of open ones.
    Task(TaskId, Option<Box<Task>>),
    /// An entry of the ledger.
    Entry(u64, Option<Box<Entry>>),
    /// The largest key time removed, in milliseconds since the Unix epoch.
    Horizon(TenantId, EndpointName, u64),
}

/// Rows that were read or changed; of those that were changed, what they are from now on.
struct Overlay<K, V>(BTreeMap<K, (Option<V>, bool)>);

impl<K: Ord + Clone, V: Clone + PartialEq> Overlay<K, V> {
    const fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn get<E>(&mut self, key: &K, read: impl FnOnce() -> Result<Option<V>, E>) -> Result<Option<V>, E> {
        if let Some((row, _)) = self.0.get(key) {
            return Ok(row.clone());
        }
        let row = read()?;
        self.0.insert(key.clone(), (row.clone(), false));
        Ok(row)
    }

    /// A row that is as it was is no change.
    fn put(&mut self, key: K, row: Option<V>) {
        if self.0.get(&key).is_none_or(|(known, _)| *known != row) {
            self.0.insert(key, (row, true));
        }
    }

    fn changed(self) -> impl Iterator<Item = (K, Option<V>)> {
        self.0.into_iter().filter(|(_, (_, changed))| *changed).map(|(key, (row, _))| (key, row))
    }
}

/// What a command has come to so far.
pub(super) struct Draft<'a, R> {
    rows: &'a R,
    /// The moment.
    pub(super) context: Context,
    group: Overlay<(), Group>,
    homes: Overlay<RegionName, Home>,
    streams: Overlay<StreamId, Stream>,
    contracts: Overlay<(RegionName, EndpointName), Contract>,
    records: Overlay<RecordKey, Record>,
    tasks: Overlay<TaskId, Task>,
    entries: Overlay<u64, Entry>,
    horizons: Overlay<(TenantId, EndpointName), u64>,
    envelopes: BTreeMap<(RecordKey, Digest), ()>,
}

impl<'a, R: Rows> Draft<'a, R> {
    pub(super) const fn new(rows: &'a R, context: Context) -> Self {
        Self {
            rows,
            context,
            group: Overlay::new(),
            homes: Overlay::new(),
            streams: Overlay::new(),
            contracts: Overlay::new(),
            records: Overlay::new(),
            tasks: Overlay::new(),
            entries: Overlay::new(),
            horizons: Overlay::new(),
            envelopes: BTreeMap::new(),
        }
    }

    pub(super) fn group(&mut self) -> Result<Group, R::Error> {
        Ok(self.group.get(&(), || self.rows.group().map(Some))?.unwrap_or_default())
    }

    pub(super) fn put_group(&mut self, group: Group) {
        self.group.put((), Some(group));
    }

    pub(super) fn home(&mut self, name: &RegionName) -> Result<Option<Home>, R::Error> {
        self.homes.get(name, || self.rows.home(name))
    }

    pub(super) fn put_home(&mut self, name: &RegionName, home: Home) {
        self.homes.put(name.clone(), Some(home));
    }

    /// A stream that nothing was shipped of is empty.
    pub(super) fn stream(&mut self, id: &StreamId) -> Result<Stream, R::Error> {
        Ok(self.streams.get(id, || self.rows.stream(id))?.unwrap_or_else(|| id.empty()))
    }

    pub(super) fn put_stream(&mut self, id: StreamId, stream: Option<Stream>) {
        self.streams.put(id, stream);
    }

    pub(super) fn contract(
        &mut self,
        home: &RegionName,
        endpoint: &EndpointName,
    ) -> Result<Option<Contract>, R::Error> {
        self.contracts.get(&(home.clone(), endpoint.clone()), || self.rows.contract(home, endpoint))
    }

    pub(super) fn put_contract(&mut self, home: &RegionName, endpoint: &EndpointName, contract: Contract) {
        self.contracts.put((home.clone(), endpoint.clone()), Some(contract));
    }

    pub(super) fn record(&mut self, key: &RecordKey) -> Result<Option<Record>, R::Error> {
        self.records.get(key, || self.rows.record(key))
    }

    pub(super) fn put_record(&mut self, key: &RecordKey, record: Option<Record>) {
        self.records.put(key.clone(), record);
    }

    pub(super) fn put_envelope(&mut self, key: &RecordKey, digest: Digest) {
        self.envelopes.insert((key.clone(), digest), ());
    }

    pub(super) fn task(&mut self, id: TaskId) -> Result<Option<Task>, R::Error> {
        self.tasks.get(&id, || self.rows.task(id))
    }

    pub(super) fn put_task(&mut self, id: TaskId, task: Option<Task>) {
        self.tasks.put(id, task);
    }

    pub(super) fn entry(&mut self, sequence: u64) -> Result<Option<Entry>, R::Error> {
        self.entries.get(&sequence, || self.rows.entry(sequence))
    }

    pub(super) fn forget_entry(&mut self, sequence: u64) {
        self.entries.put(sequence, None);
    }

    /// Adds a line to the ledger.
    pub(super) fn enter(&mut self, key: &RecordKey, conflict: &Conflict, event: Event) -> Result<(), R::Error> {
        let group = self.group()?;
        let sequence = group.ledger_next;
        let (task, subject) = (conflict.task, conflict.subject.clone());
        let entry = Entry { sequence, at: self.context.now, key: key.clone(), task, subject, event };
        self.entries.put(sequence, Some(entry));
        self.put_group(Group { ledger_next: sequence.saturating_add(1), ..group });
        Ok(())
    }

    /// Raises a horizon; one that is higher stays.
    pub(super) fn raise_horizon(
        &mut self,
        tenant: &TenantId,
        endpoint: &EndpointName,
        time_ms: u64,
    ) -> Result<(), R::Error> {
        let place = (tenant.clone(), endpoint.clone());
        let known = self.horizons.get(&place, || self.rows.horizon(tenant, endpoint))?;
        if known.is_none_or(|known| known < time_ms) {
            self.horizons.put(place, Some(time_ms));
        }
        Ok(())
    }

    /// The rows that change, each kind in the order of its names.
    pub(super) fn writes(self) -> Vec<Write> {
        let mut writes = Vec::new();
        writes.extend(self.group.changed().filter_map(|((), group)| group.map(Write::Group)));
        let homes = self.homes.changed().filter_map(|(name, home)| home.map(|home| (name, Box::new(home))));
        writes.extend(homes.map(|(name, home)| Write::Home(name, home)));
        writes.extend(self.streams.changed().map(|(id, stream)| Write::Stream(id, stream)));
        let contracts = self.contracts.changed().filter_map(|(place, contract)| contract.map(|row| (place, row)));
        writes.extend(contracts.map(|((home, endpoint), row)| Write::Contract(home, endpoint, row)));
        writes.extend(self.records.changed().map(|(key, record)| Write::Record(key, record.map(Box::new))));
        writes.extend(self.envelopes.into_keys().map(|(key, digest)| Write::Envelope(key, digest)));
        writes.extend(self.tasks.changed().map(|(id, task)| Write::Task(id, task.map(Box::new))));
        writes.extend(self.entries.changed().map(|(sequence, entry)| Write::Entry(sequence, entry.map(Box::new))));
        let horizons = self.horizons.changed().filter_map(|(place, time)| time.map(|time| (place, time)));
        writes.extend(horizons.map(|((tenant, endpoint), time)| Write::Horizon(tenant, endpoint, time)));
        writes
    }
}
