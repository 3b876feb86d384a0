//! The logs of all groups, in one column family. Only the log thread writes here.

use std::sync::Arc;

use rocksdb::{Direction, IteratorMode, Range, ReadOptions, WriteBatch};

use super::families::family;
use super::{Database, StoreError};
use crate::codec::keys;
use crate::ids::PartitionId;

/// The column family of the logs.
#[derive(Clone)]
pub struct LogFamily {
    db: Arc<Database>,
}

/// Writes that go to the disk together.
#[derive(Default)]
pub struct LogBatch {
    changes: Vec<Change>,
}

enum Change {
    Put(Vec<u8>, Vec<u8>),
    DeleteEntries { partition: PartitionId, from: u64, until: Option<u64> },
}

impl LogBatch {
    /// Puts an entry.
    pub fn put_entry(&mut self, partition: PartitionId, index: u64, bytes: Vec<u8>) {
        self.changes.push(Change::Put(keys::entry(partition, index).to_vec(), bytes));
    }

    /// Puts a group's vote.
    pub fn put_vote(&mut self, partition: PartitionId, bytes: Vec<u8>) {
        self.changes.push(Change::Put(keys::vote(partition).to_vec(), bytes));
    }

    /// Deletes every entry from an index on.
    pub fn truncate(&mut self, partition: PartitionId, from: u64) {
        self.changes.push(Change::DeleteEntries { partition, from, until: None });
    }

    /// Deletes every entry up to and with an index, and remembers the last one's id.
    pub fn purge(&mut self, partition: PartitionId, index: u64, log_id: Vec<u8>) {
        self.changes.push(Change::DeleteEntries { partition, from: 0, until: Some(index.saturating_add(1)) });
        self.changes.push(Change::Put(keys::purged(partition).to_vec(), log_id));
    }
}

impl LogFamily {
    pub(super) fn new(db: Arc<Database>) -> Self {
        Self { db }
    }

    /// Writes a batch, in its order, and syncs it.
    ///
    /// # Errors
    /// When the disk refuses. What is on the disk is then unknown, and the caller stops writing for good.
    pub fn write(&self, batch: LogBatch) -> Result<(), StoreError> {
        let log = family(&self.db, keys::LOG_FAMILY)?;
        let mut writes = WriteBatch::default();
        for change in batch.changes {
            match change {
                Change::Put(key, value) => writes.put_cf(&log, key, value),
                Change::DeleteEntries { partition, from, until } => {
                    let start = keys::entry(partition, from).to_vec();
                    let end = match until {
                        Some(until) => keys::entry(partition, until).to_vec(),
                        None => keys::entries_end(partition).to_vec(),
                    };
                    writes.delete_range_cf(&log, start, end);
                }
            }
        }
        // In two steps: a write that is to be synced keeps every other write of the database waiting for the disk, the groups'
        // state among them, which has no part in this log.
        self.db.write(writes)?;
        Ok(self.db.flush_wal(true)?)
    }

    /// A group's vote.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn vote(&self, partition: PartitionId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(&family(&self.db, keys::LOG_FAMILY)?, keys::vote(partition))?)
    }

    /// The id of a group's last purged entry.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn purged(&self, partition: PartitionId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(&family(&self.db, keys::LOG_FAMILY)?, keys::purged(partition))?)
    }

    /// The entries of a group from `start` up to `end`, exclusive, as far as they are there, each with its index.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn entries(&self, partition: PartitionId, start: u64, end: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::entry(partition, end).to_vec());
        let first = keys::entry(partition, start);
        let log = family(&self.db, keys::LOG_FAMILY)?;
        let mut entries = Vec::new();
        for item in self.db.iterator_cf_opt(&log, options, IteratorMode::From(&first, Direction::Forward)) {
            let (key, value) = item?;
            let index = keys::entry_index(&key)
                .ok_or_else(|| StoreError::Damaged(format!("the log has a key of {} bytes", key.len())))?;
            entries.push((index, value.into_vec()));
        }
        Ok(entries)
    }

    /// About how many bytes a group's entries have on the disk.
    #[must_use]
    pub fn bytes(&self, partition: PartitionId) -> u64 {
        let (start, end) = (keys::entry(partition, 0), keys::entries_end(partition));
        let Ok(log) = family(&self.db, keys::LOG_FAMILY) else { return 0 };
        self.db.get_approximate_sizes_cf(&log, &[Range::new(&start, &end)]).into_iter().sum()
    }

    /// A group's last entry.
    ///
    /// # Errors
    /// When the disk refuses or is damaged.
    pub fn last_entry(&self, partition: PartitionId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(keys::entry(partition, 0).to_vec());
        let last = keys::entry(partition, u64::MAX);
        let log = family(&self.db, keys::LOG_FAMILY)?;
        let mut backwards = self.db.iterator_cf_opt(&log, options, IteratorMode::From(&last, Direction::Reverse));
        Ok(backwards.next().transpose()?.map(|(_, value)| value.into_vec()))
    }

    /// Writes what is in memory to tables.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&self) -> Result<(), StoreError> {
        Ok(self.db.flush_cf(&family(&self.db, keys::LOG_FAMILY)?)?)
    }
}
