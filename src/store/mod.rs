//! The only user of RocksDB: one database a node, a column family for all logs and one a partition for its state.
//! Snapshots of a group leave through [`export`](GroupFamily::pin) and come in through [`install`](GroupFamily::install).
//!
//! [`LogFamily`] writes are synced before they return. [`GroupFamily`] writes bypass the write-ahead log: after a crash a
//! group's state is what was last flushed, and what came after is applied again from the log. A flush precedes every
//! purge of the log.
//!
//! Deliberately absent: what the bytes mean (`codec`), and any retry: an error of the disk is passed up, and whoever
//! gets it stops.

mod closed;
mod export;
mod families;
mod group;
mod identity;
mod install;
mod log;
mod options;
mod snapshots;
mod tail;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{DBWithThreadMode, ErrorKind, MultiThreaded};

use crate::codec::{CodecError, pb};
use crate::ids::{PartitionCount, PartitionId};

pub use export::{Export, Pinned};
pub use group::{GroupBatch, GroupFamily, GroupSizes};
pub use identity::{peek, set_founders};
pub use install::{Incoming, Position, Received, Refused};
pub use log::{LogBatch, LogFamily};
pub use snapshots::SnapshotFile;

use families::Current;
use snapshots::Snapshots;

/// RocksDB, with families that can be made and dropped while it runs.
type Database = DBWithThreadMode<MultiThreaded>;

/// What a store may use of the machine.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Bytes of blocks, indexes and filters kept in memory.
    pub block_cache_bytes: usize,
    /// Bytes of writes kept in memory before they are flushed, all column families together.
    pub write_buffer_bytes: usize,
}

/// Why the disk could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has the data directory open.
    #[error("the data directory {path} is in use by another process: stop it, or name another directory ({detail})")]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// What RocksDB says.
        detail: String,
    },
    /// Stored bytes are damaged.
    #[error("stored data is damaged: {0}: keep the directory for inspection and restore this node from a healthy copy")]
    Damaged(String),
    /// The data directory was made for something else.
    #[error(
        "the data directory {path} was made with {what} = {found}, and this node is started with {what} = {asked}: name another directory, or start it as it was made"
    )]
    Identity {
        /// The data directory.
        path: PathBuf,
        /// Which setting.
        what: &'static str,
        /// As it was made.
        found: String,
        /// As it is started.
        asked: String,
    },
    /// The disk refused.
    #[error("the disk failed: {0}: check free space and the disk's health, then restart")]
    Disk(String),
}

impl From<rocksdb::Error> for StoreError {
    fn from(error: rocksdb::Error) -> Self {
        let text = error.to_string();
        if error.kind() == ErrorKind::Corruption { Self::Damaged(text) } else { Self::Disk(text) }
    }
}

impl From<CodecError> for StoreError {
    fn from(error: CodecError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// One node's database.
pub struct Store {
    inner: Arc<Inner>,
    groups: BTreeMap<PartitionId, Arc<Current>>,
}

/// What every family needs.
struct Inner {
    db: Arc<Database>,
    options: options::Shared,
    path: PathBuf,
    snapshots: Snapshots,
}

impl Store {
    /// Opens a data directory, or makes one for `asked`. Returns the identity that it has.
    ///
    /// # Errors
    /// When it is in use, damaged, of another cluster, or the disk refuses.
    pub fn open(
        path: &Path,
        settings: &StoreSettings,
        partitions: PartitionCount,
        asked: pb::Identity,
    ) -> Result<(Self, pb::Identity), StoreError> {
        let claim = identity::claim(path, asked)?;
        let is_new = !claim.is_made();
        let directory = path.join(identity::DATABASE);
        closed::compare(path, &directory)?;
        let options = options::Shared::new(settings);
        let db = families::open(&directory, &options, partitions)?;
        // Only one process has the database open: nobody writes it down again from here on.
        closed::forget(path)?;
        let identity = identity::confirm(path, &db, claim)?;
        let generations = families::settle(&db, &directory, &options, partitions, is_new)?;
        let snapshots = Snapshots::open(path)?;
        let groups =
            generations.into_iter().map(|(id, generation)| (id, Arc::new(Current::new(id, generation)))).collect();
        let inner = Inner { db: Arc::new(db), options, path: path.to_owned(), snapshots };
        Ok((Self { inner: Arc::new(inner), groups }, identity))
    }

    /// The logs of all groups.
    #[must_use]
    pub fn log(&self) -> LogFamily {
        LogFamily::new(Arc::clone(&self.inner.db))
    }

    /// The state of one group.
    #[must_use]
    pub fn group(&self, partition: PartitionId) -> GroupFamily {
        let current = self.groups.get(&partition).cloned();
        GroupFamily::new(Arc::clone(&self.inner), current.unwrap_or_else(|| Arc::new(Current::new(partition, 0))))
    }

    /// Free bytes on the data disk, for an unprivileged process.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.inner.free_bytes()
    }

    /// Flushes everything and closes, so that the next start has nothing to recover.
    ///
    /// # Errors
    /// When the disk refuses; nothing acknowledged is lost by it.
    pub fn close(&self, partitions: PartitionCount) -> Result<(), StoreError> {
        for partition in partitions.all() {
            self.group(partition).flush()?;
        }
        self.log().flush()?;
        self.inner.db.flush_wal(true)?;
        self.inner.db.cancel_all_background_work(true);
        // Without it the next start knows less, and nothing is lost.
        if let Err(error) = closed::write(&self.inner.path, &self.inner.path.join(identity::DATABASE)) {
            tracing::warn!(%error, "the lengths of the files were not written down");
        }
        Ok(())
    }
}

impl Inner {
    fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(|error| StoreError::Disk(format!("{}: {error}", self.path.display())))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn opening(path: &Path, error: &rocksdb::Error) -> StoreError {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::IOError if text.contains("lock") || text.contains("LOCK") => {
            StoreError::InUse { path: path.to_owned(), detail: text }
        }
        ErrorKind::IOError if !text.contains("No such file") => {
            StoreError::Disk(format!("{} does not open: {text}", path.display()))
        }
        ErrorKind::Unknown
        | ErrorKind::NotFound
        | ErrorKind::Corruption
        | ErrorKind::NotSupported
        | ErrorKind::InvalidArgument
        | ErrorKind::IOError
        | ErrorKind::MergeInProgress
        | ErrorKind::Incomplete
        | ErrorKind::ShutdownInProgress
        | ErrorKind::TimedOut
        | ErrorKind::Aborted
        | ErrorKind::Busy
        | ErrorKind::Expired
        | ErrorKind::TryAgain
        | ErrorKind::CompactionTooLarge
        | ErrorKind::ColumnFamilyDropped => StoreError::Damaged(format!("{} does not open: {text}", path.display())),
    }
}
