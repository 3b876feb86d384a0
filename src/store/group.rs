//! One group's state, in a column family of its own.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{BoundColumnFamily, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};

use super::families::Current;
use super::{Inner, StoreError};
use crate::codec::{self, keys, pb};
use crate::control::audit::Entry;
use crate::control::command::Source;
use crate::control::state::{Revision, State, Tenant};
use crate::control::usage::{Size, Usage, Usages};
use crate::ids::{Digest, EndpointName, PartitionId, RecordKey, TenantId};
use crate::limits;
use crate::reservation::Record;
use crate::time::LogTime;

/// One group's state, in the column family of its current generation. Cheap to clone.
#[derive(Clone)]
pub struct GroupFamily {
    pub(super) inner: Arc<Inner>,
    pub(super) current: Arc<Current>,
}

/// How much there is of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupSizes {
    /// About how many keys there are: of records, of envelopes, and of indexes.
    pub keys: u64,
    /// About how many bytes of live data are in tables.
    pub live_bytes: u64,
    /// Bytes of table files.
    pub table_bytes: u64,
    /// Bytes of files of large envelopes.
    pub blob_bytes: u64,
    /// Bytes of writes that are not in tables yet.
    pub memory_bytes: u64,
}

/// Changes of one group that become visible together.
#[derive(Default)]
pub struct GroupBatch {
    changes: Vec<(Vec<u8>, Option<Bytes>)>,
    bytes: usize,
}

impl GroupBatch {
    fn put(&mut self, key: Vec<u8>, value: impl Into<Bytes>) {
        let value = value.into();
        self.bytes = self.bytes.saturating_add(key.len()).saturating_add(value.len());
        self.changes.push((key, Some(value)));
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(key.len());
        self.changes.push((key, None));
    }

    /// Writes a record and what its state asks of the indexes, given the record it replaces. Returns what it takes up.
    pub fn put_record(&mut self, key: &RecordKey, before: Option<&Record>, after: &Record) -> Size {
        let encoded = codec::record::encode(after);
        let size = size(key, after, encoded.len());
        self.put(keys::record(key), encoded);
        self.index_expiry(key, before.and_then(Record::expires_at), after.expires_at());
        match (before.is_some_and(|record| record.holding().is_some()), after.holding().is_some()) {
            (false, true) => self.put(keys::held(key), Bytes::new()),
            (true, false) => self.delete(keys::held(key)),
            (true, true) | (false, false) => {}
        }
        size
    }

    fn index_expiry(&mut self, key: &RecordKey, before: Option<LogTime>, after: Option<LogTime>) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.delete(keys::expiry(before, key));
        }
        if let Some(after) = after {
            self.put(keys::expiry(after, key), Bytes::new());
        }
    }

    /// Writes an envelope under its digest.
    pub fn put_envelope(&mut self, key: &RecordKey, digest: &Digest, bytes: Bytes) {
        self.put(keys::envelope(key, digest), bytes);
    }

    /// Removes a record with its envelopes and its place in the indexes.
    pub fn remove_record(&mut self, key: &RecordKey, record: &Record) {
        self.delete(keys::record(key));
        self.index_expiry(key, record.expires_at(), None);
        for digest in record.envelopes() {
            self.delete(keys::envelope(key, &digest));
        }
        if record.holding().is_some() {
            self.delete(keys::held(key));
        }
    }

    /// Writes an endpoint's horizon, in milliseconds since the Unix epoch.
    pub fn put_horizon(&mut self, tenant: &TenantId, endpoint: &EndpointName, horizon_ms: u64) {
        self.put(keys::horizon(tenant, endpoint), horizon_ms.to_be_bytes().to_vec());
    }

    /// Writes what an endpoint takes up.
    pub fn put_usage(&mut self, tenant: &TenantId, endpoint: &EndpointName, usage: Usage) {
        match usage == Usage::default() {
            true => self.delete(keys::usage(tenant, endpoint)),
            false => self.put(keys::usage(tenant, endpoint), codec::control::encode_usage(usage)),
        }
    }

    /// Adds an entry to the audit; the one that is over the limit goes.
    pub fn put_audit(&mut self, entry: &Entry) {
        self.put(keys::audit(entry.sequence), codec::control::encode_audit(entry));
        if let Some(past) = entry.sequence.checked_sub(limits::MAX_AUDIT_ENTRIES).filter(|past| *past > 0) {
            self.delete(keys::audit(past));
        }
    }

    /// Writes a revision of the policies with its files.
    pub fn put_revision(&mut self, number: u32, revision: &Revision, sources: &[Source]) {
        self.put(keys::revision(number), codec::control::encode_revision(number, revision, sources));
    }

    /// Removes a revision of the policies.
    pub fn remove_revision(&mut self, number: u32) {
        self.delete(keys::revision(number));
    }

    /// Writes a selection.
    pub fn put_selection(&mut self, number: u32, spec: &str) {
        self.put(keys::selection(number), codec::control::encode_selection(number, spec));
    }

    /// Writes a tenant.
    pub fn put_tenant(&mut self, name: &TenantId, tenant: &Tenant) {
        self.put(keys::tenant(name), codec::control::encode_tenant(name, tenant));
    }

    /// Writes the group's state.
    pub fn put_state(&mut self, state: &pb::GroupState) {
        self.put(keys::STATE.to_vec(), codec::seal(state));
    }

    /// About how many bytes are to be written.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl GroupFamily {
    pub(super) fn new(inner: Arc<Inner>, current: Arc<Current>) -> Self {
        Self { inner, current }
    }

    /// Whose state it is.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.current.partition
    }

    fn family(&self) -> Result<Arc<BoundColumnFamily<'_>>, StoreError> {
        self.current.family(&self.inner.db)
    }

    /// Makes a batch visible at once. It is durable after the next flush, and until then by the log.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, batch: GroupBatch) -> Result<(), StoreError> {
        let state = self.family()?;
        let mut writes = WriteBatch::default();
        for (key, value) in batch.changes {
            match value {
                Some(value) => writes.put_cf(&state, key, value),
                None => writes.delete_cf(&state, key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        Ok(self.inner.db.write_opt(writes, &options)?)
    }

    /// A key's record.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn record(&self, key: &RecordKey) -> Result<Option<Record>, StoreError> {
        let Some(bytes) = self.inner.db.get_pinned_cf(&self.family()?, keys::record(key))? else {
            return Ok(None);
        };
        Ok(Some(codec::record::decode(&bytes)?))
    }

    /// A key's record, and what it takes up.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn sized_record(&self, key: &RecordKey) -> Result<Option<(Record, Size)>, StoreError> {
        let Some(bytes) = self.inner.db.get_pinned_cf(&self.family()?, keys::record(key))? else {
            return Ok(None);
        };
        let record = codec::record::decode(&bytes)?;
        let size = size(key, &record, bytes.len());
        Ok(Some((record, size)))
    }

    /// What is known that is the same for all partitions.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn control(&self) -> Result<State, StoreError> {
        let mut state = State::default();
        self.each(keys::Kind::Revisions, |_, value| {
            let (number, revision, sources) = codec::control::decode_revision(value)?;
            state.revisions.insert(number, Arc::new(revision));
            // They come in the order of their numbers, and the last one holds.
            state.sources = sources.into();
            Ok(())
        })?;
        self.each(keys::Kind::Selections, |_, value| {
            let (number, spec) = codec::control::decode_selection(value)?;
            state.selections.insert(number, spec);
            Ok(())
        })?;
        self.each(keys::Kind::Tenants, |_, value| {
            let (name, tenant) = codec::control::decode_tenant(value)?;
            state.tenants.insert(name, tenant);
            Ok(())
        })?;
        Ok(state)
    }

    /// A revision of the policies with its files.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn revision(&self, number: u32) -> Result<Option<(Revision, Vec<Source>)>, StoreError> {
        let Some(bytes) = self.inner.db.get_cf(&self.family()?, keys::revision(number))? else { return Ok(None) };
        let (_, revision, sources) = codec::control::decode_revision(bytes.into())?;
        Ok(Some((revision, sources)))
    }

    /// What keys take up, as it was stored.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn usages(&self) -> Result<Usages, StoreError> {
        let mut usages = Usages::default();
        self.each(keys::Kind::Usages, |key, value| {
            let (tenant, endpoint) = parsed(keys::parse_usage(key))?;
            usages.set(&tenant, &endpoint, codec::control::decode_usage(value)?);
            Ok(())
        })?;
        Ok(usages)
    }

    /// What keys take up, counted from every record.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn count_usages(&self) -> Result<Usages, StoreError> {
        let mut usages = Usages::default();
        self.each(keys::Kind::Records, |key, value| {
            let key = parsed(keys::parse_record(key))?;
            let record = codec::record::decode(&value)?;
            let size = size(&key, &record, value.len());
            usages.replace(&key.tenant, None, Some((&record.endpoint, size)));
            Ok(())
        })?;
        Ok(usages)
    }

    /// Entries of the audit from `from` on, at most `limit`.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn audit(&self, from: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::audit(u64::MAX));
        let (state, start) = (self.family()?, keys::audit(from));
        let mode = IteratorMode::From(&start, Direction::Forward);
        let entries = self.inner.db.iterator_cf_opt(&state, options, mode).take(limit);
        entries.map(|item| Ok(codec::control::decode_audit(item?.1.into())?)).collect()
    }

    fn each(
        &self,
        kind: keys::Kind,
        mut found: impl FnMut(&[u8], Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (start, end) = keys::all(kind);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let state = self.family()?;
        for item in self.inner.db.iterator_cf_opt(&state, options, IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = item?;
            found(&key, value.into())?;
        }
        Ok(())
    }

    /// A stored envelope, checked against its digest.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn envelope(&self, key: &RecordKey, digest: &Digest) -> Result<Option<pb::Envelope>, StoreError> {
        let Some(bytes) = self.inner.db.get_cf(&self.family()?, keys::envelope(key, digest))? else {
            return Ok(None);
        };
        Ok(Some(codec::record::decode_envelope(bytes.into(), digest)?))
    }

    /// An endpoint's horizon, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn horizon(&self, tenant: &TenantId, endpoint: &EndpointName) -> Result<Option<u64>, StoreError> {
        let Some(bytes) = self.inner.db.get_pinned_cf(&self.family()?, keys::horizon(tenant, endpoint))? else {
            return Ok(None);
        };
        let bytes: [u8; 8] =
            bytes.as_ref().try_into().map_err(|_| StoreError::Damaged("a horizon is not 8 bytes".to_owned()))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// The group's state.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn state(&self) -> Result<Option<pb::GroupState>, StoreError> {
        let Some(bytes) = self.inner.db.get_cf(&self.family()?, keys::STATE)? else { return Ok(None) };
        Ok(Some(codec::open("a group's state", bytes)?))
    }

    /// Records whose time in the expiry index is from `from` on and before `until`, earliest first, at most `limit`.
    /// Starting where the last sweep ended spares reading over what it removed.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn expired(
        &self,
        from: LogTime,
        until: LogTime,
        limit: usize,
    ) -> Result<Vec<(LogTime, RecordKey)>, StoreError> {
        if until <= from {
            return Ok(Vec::new());
        }
        let (start, end) = keys::expiries(from, until);
        self.scan(&start, end, limit)?.iter().map(|key| parsed(keys::parse_expiry(key))).collect()
    }

    /// Keys that are held, in their order.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn held(&self) -> Result<Vec<RecordKey>, StoreError> {
        let (start, end) = keys::all_held();
        self.scan(&start, end, usize::MAX)?.iter().map(|key| parsed(keys::parse_held(key))).collect()
    }

    fn scan(&self, start: &[u8], end: Vec<u8>, limit: usize) -> Result<Vec<Box<[u8]>>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let state = self.family()?;
        let mut found = Vec::new();
        for item in
            self.inner.db.iterator_cf_opt(&state, options, IteratorMode::From(start, Direction::Forward)).take(limit)
        {
            found.push(item?.0);
        }
        Ok(found)
    }

    /// How much there is of the group, as far as RocksDB knows without counting.
    ///
    /// # Errors
    /// When the family is not there.
    pub fn sizes(&self) -> Result<GroupSizes, StoreError> {
        let state = self.family()?;
        let of = |name| self.inner.db.property_int_value_cf(&state, name).map(Option::unwrap_or_default);
        Ok(GroupSizes {
            keys: of("rocksdb.estimate-num-keys")?,
            live_bytes: of("rocksdb.estimate-live-data-size")?,
            table_bytes: of("rocksdb.total-sst-files-size")?,
            blob_bytes: of("rocksdb.total-blob-file-size")?,
            memory_bytes: of("rocksdb.cur-size-all-mem-tables")?,
        })
    }

    /// Merges all tables: nothing that was replaced or removed is left.
    #[cfg(test)]
    pub(crate) fn compact(&self) {
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        let family = self.family().expect("a test's family");
        self.inner.db.compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &options);
    }

    /// Bytes of the indexes and filters of all tables.
    #[cfg(test)]
    pub(crate) fn finding_bytes(&self) -> u64 {
        let family = self.family().expect("a test's family");
        let text = self.inner.db.property_value_cf(&family, "rocksdb.aggregated-table-properties").ok().flatten();
        let text = text.unwrap_or_default();
        let of = |name: &str| {
            let value = text.split("; ").find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse::<u64>().ok()).expect("a table's properties have it")
        };
        of("index block size (user-key? 1, delta-value? 1)") + of("filter block size")
    }

    /// How many merges are waiting or under way.
    #[cfg(test)]
    pub(crate) fn merging(&self) -> u64 {
        let of = |name| {
            let family = self.family().expect("a test's family");
            self.inner.db.property_int_value_cf(&family, name).ok().flatten().unwrap_or_default()
        };
        of("rocksdb.compaction-pending") + of("rocksdb.num-running-compactions") + of("rocksdb.num-running-flushes")
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&self) -> Result<(), StoreError> {
        let generation = self.current.generation();
        match self.inner.db.flush_cf(&self.family()?) {
            // A snapshot was installed meanwhile: it is durable, and later than what stood here.
            Err(_) if self.current.generation() != generation => Ok(()),
            flushed => Ok(flushed?),
        }
    }
}

/// What a record takes up: its name, itself, and the envelopes beside it.
fn size(key: &RecordKey, record: &Record, encoded: usize) -> Size {
    let name = key.tenant.as_str().len().saturating_add(key.key.as_str().len());
    let own = u64::try_from(name.saturating_add(encoded)).unwrap_or(u64::MAX);
    Size(own.saturating_add(record.envelope_bytes))
}

fn parsed<T>(key: Option<T>) -> Result<T, StoreError> {
    key.ok_or_else(|| StoreError::Damaged("an index has a key that does not parse".to_owned()))
}
