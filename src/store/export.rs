//! A group's state at one point in time, written to files that another node can take in.
//!
//! [`GroupFamily::pin`] holds the point in time: a thread of its own keeps RocksDB's snapshot, which borrows the database.
//! Nothing is copied and nothing waits: applying goes on beside it. [`Pinned::export`] then reads everything under that
//! snapshot, in the order of its keys, into tables of bounded size. Large values are read out of their blob files, so
//! that the tables stand for themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rocksdb::{ReadOptions, SstFileWriter};
use tokio::sync::OwnedSemaphorePermit;

use super::snapshots::{self, SnapshotFile};
use super::{GroupFamily, StoreError};
use crate::codec::{self, keys, pb};
use crate::limits;

/// Bytes that an export reads ahead of itself.
const READ_AHEAD_BYTES: usize = 2 * 1024 * 1024;
/// Records after which an export looks whether anybody still wants it.
const LOOK_EVERY: u32 = 1_024;

/// A point in time that is held until this is dropped or exported.
pub struct Pinned {
    state: pb::GroupState,
    family: GroupFamily,
    holder: Holder,
}

/// The thread that holds it. It ends when it has exported, or when nobody can tell it to any more.
struct Holder {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that held a snapshot panicked");
        }
    }
}

struct Order {
    directory: PathBuf,
    done: SyncSender<Result<Vec<SnapshotFile>, StoreError>>,
    abandoned: Arc<AtomicBool>,
}

/// The files of an export. They are deleted when it is dropped.
pub struct Export {
    directory: PathBuf,
    files: Vec<SnapshotFile>,
}

fn gone() -> StoreError {
    StoreError::Disk("the thread that holds a snapshot has ended".to_owned())
}

impl GroupFamily {
    /// Holds the state as it is now; none before the first entry was applied. Quick, whatever the group's size.
    ///
    /// # Errors
    /// When the disk refuses or is damaged, or the machine gives no thread.
    pub fn pin(&self) -> Result<Option<Pinned>, StoreError> {
        let (tell, told) = sync_channel(1);
        let (orders, queue) = sync_channel(1);
        let family = self.clone();
        let thread = std::thread::Builder::new()
            .name("holdfast-pin".to_owned())
            .spawn(move || hold(&family, &tell, &queue))
            .map_err(|error| StoreError::Disk(format!("no thread for a snapshot: {error}")))?;
        let holder = Holder { orders: Some(orders), thread: Some(thread) };
        let state = told.recv().map_err(|_| gone())??;
        Ok(state.map(|state| Pinned { state, family: self.clone(), holder }))
    }

    /// Waits for its turn to write an export: each reads a whole group. None at the node's end.
    pub async fn may_export(&self) -> Option<OwnedSemaphorePermit> {
        self.inner.may_export().await
    }
}

impl Pinned {
    /// The group's state at that time.
    #[must_use]
    pub fn state(&self) -> &pb::GroupState {
        &self.state
    }

    /// Writes the files. Takes seconds for each gigabyte; ends early once `abandoned` is true.
    ///
    /// # Errors
    /// When the disk refuses, is damaged or has no room.
    pub fn export(self, abandoned: Arc<AtomicBool>) -> Result<Export, StoreError> {
        let directory = self.family.inner.snapshots.new_export(self.family.partition())?;
        // From here on the directory goes with it.
        let mut export = Export { directory: directory.clone(), files: Vec::new() };
        let (done, written) = sync_channel(1);
        let orders = self.holder.orders.as_ref().ok_or_else(gone)?;
        orders.send(Order { directory, done, abandoned }).map_err(|_| gone())?;
        export.files = written.recv().map_err(|_| gone())??;
        Ok(export)
    }
}

impl Export {
    /// Its files, in their order.
    #[must_use]
    pub fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    /// Where the n-th file lies.
    #[must_use]
    pub fn path(&self, number: usize) -> PathBuf {
        snapshots::file(&self.directory, number)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Err(error) = snapshots::remove(&self.directory) {
            tracing::warn!(%error, "an export was not deleted: the next start deletes it");
        }
    }
}

/// Holds a snapshot until it is told to export it, or nobody can tell it any more.
fn hold(family: &GroupFamily, tell: &SyncSender<Result<Option<pb::GroupState>, StoreError>>, orders: &Receiver<Order>) {
    let db = &family.inner.db;
    let handle = match family.current.family(db) {
        Ok(handle) => handle,
        // Whoever asked has gone if this does not arrive: nobody is left to tell.
        Err(error) => return tell.send(Err(error)).unwrap_or_default(),
    };
    let snapshot = db.snapshot();
    let state = snapshot.get_cf(&handle, keys::STATE).map_err(StoreError::from).and_then(|bytes| {
        let state = bytes.map(|bytes| codec::open("a group's state", bytes)).transpose();
        Ok(state?)
    });
    if tell.send(state).is_err() {
        return;
    }
    let Ok(Order { directory, done, abandoned }) = orders.recv() else { return };
    let mut options = ReadOptions::default();
    options.set_snapshot(&snapshot);
    options.fill_cache(false);
    options.set_readahead_size(READ_AHEAD_BYTES);
    let mut entries = db.raw_iterator_cf_opt(&handle, options);
    entries.seek_to_first();
    let mut files = Vec::new();
    let written = loop {
        match write(family, &directory, files.len(), &mut entries, &abandoned) {
            Ok(Some(file)) => files.push(file),
            Ok(None) => break Ok(files),
            Err(error) => break Err(error),
        }
    };
    let _ = done.send(written);
}

type Entries<'a> = rocksdb::DBRawIteratorWithThreadMode<'a, super::Database>;

/// Writes the next file, up to its bound; none when everything is written.
fn write(
    family: &GroupFamily,
    directory: &Path,
    number: usize,
    entries: &mut Entries<'_>,
    abandoned: &AtomicBool,
) -> Result<Option<SnapshotFile>, StoreError> {
    if !entries.valid() {
        entries.status()?;
        return Ok(None);
    }
    if number >= limits::MAX_SNAPSHOT_FILES {
        let most = limits::SNAPSHOT_FILE_BYTES.saturating_mul(limits::MAX_SNAPSHOT_FILES as u64);
        return Err(StoreError::Disk(format!("the group is larger than a snapshot may be, which is {most} bytes")));
    }
    family.inner.has_room(limits::SNAPSHOT_FILE_BYTES)?;
    let path = snapshots::file(directory, number);
    let options = family.inner.options.state();
    let mut writer = SstFileWriter::create(&options);
    writer.open(&path)?;
    let mut written = 0_u32;
    while let (Some(key), Some(value)) = (entries.key(), entries.value()) {
        writer.put(key, value)?;
        entries.next();
        written = written.wrapping_add(1);
        if writer.file_size() >= limits::SNAPSHOT_FILE_BYTES {
            break;
        }
        if written.is_multiple_of(LOOK_EVERY) && abandoned.load(Ordering::Relaxed) {
            return Err(StoreError::Disk("the export was given up".to_owned()));
        }
    }
    entries.status()?;
    writer.finish()?;
    snapshots::measure(&path, u64::MAX).map(Some)
}
