//! A snapshot of another node, taken in: gathered in files, verified, made a column family beside the one that counts, and
//! then the one that counts.
//!
//! One write is the moment of installing: the pointer to the next generation, and the log purged up to the snapshot, in
//! one batch, synced. Everything before it is undone by a restart, everything after it is finished by one. The files are
//! synced before they are linked into the database, and the database's own list of files is synced before that write, so
//! that a power loss leaves the same choice.

#[cfg(test)]
mod soak;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use rocksdb::{IngestExternalFileOptions, WriteBatch, WriteOptions};
use tokio::sync::OwnedSemaphorePermit;

use super::families::family;
use super::snapshots::{self, SnapshotFile, disk};
use super::{GroupFamily, StoreError};
use crate::codec::{self, keys, pb};
use crate::limits;

/// A place in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which file.
    pub file: usize,
    /// Bytes of it that come before.
    pub offset: u64,
}

/// Why a part of a snapshot was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The snapshot as a whole cannot be.
    #[error("the snapshot is not one: {0}")]
    Header(&'static str),
    /// It is not what comes next.
    #[error("the snapshot goes on at {expected:?}, and {found:?} was sent")]
    Place {
        /// What comes next.
        expected: Option<Position>,
        /// What was sent.
        found: Position,
    },
    /// A file is not what it was when it was exported. It is deleted, so that it is sent again.
    #[error("file {file} of the snapshot came as {found:?}, and is {expected:?}: it is to be sent again")]
    Damaged {
        /// Which file.
        file: usize,
        /// What it is.
        expected: SnapshotFile,
        /// What came.
        found: SnapshotFile,
    },
    /// The disk refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A snapshot that is coming in.
pub struct Incoming {
    directory: PathBuf,
    files: Vec<SnapshotFile>,
    /// Which file comes next, and what of it is there.
    number: usize,
    there: SnapshotFile,
    open: Option<File>,
}

/// A snapshot that is there, whole and synced.
#[derive(Debug)]
pub struct Received {
    directory: PathBuf,
    files: Vec<PathBuf>,
}

const NOTHING: SnapshotFile = SnapshotFile { bytes: 0, crc32c: 0 };

impl GroupFamily {
    /// Whether one more snapshot may come into this node now: the permit is kept until it is installed.
    #[must_use]
    pub fn may_install(&self) -> Option<OwnedSemaphorePermit> {
        self.inner.may_install()
    }

    /// Begins to take a snapshot in, or goes on where an earlier call ended: what is there of it is verified. What is there
    /// of others is deleted.
    ///
    /// # Errors
    /// When the snapshot cannot be, or the disk refuses or has no room.
    pub fn receive(&self, id: &str, files: Vec<SnapshotFile>) -> Result<Incoming, Refused> {
        if !snapshots::is_name(id) {
            return Err(Refused::Header("its name is not one"));
        }
        if !(1..=limits::MAX_SNAPSHOT_FILES).contains(&files.len()) || files.iter().any(|file| file.bytes == 0) {
            return Err(Refused::Header("it has no files, empty ones, or too many"));
        }
        let directory = self.inner.snapshots.incoming(self.partition(), id);
        self.inner.snapshots.forget_incoming(self.partition(), Some(&directory))?;
        fs::create_dir_all(&directory).map_err(|error| disk(&directory, &error))?;
        let mut incoming = Incoming { directory, files, number: 0, there: NOTHING, open: None };
        incoming.look()?;
        let missing =
            incoming.files.iter().skip(incoming.number).fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
        self.inner.has_room(missing.saturating_sub(incoming.there.bytes))?;
        Ok(incoming)
    }

    /// Deletes what was received and never installed: a group that goes on without has no use for it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget_received(&self) -> Result<(), StoreError> {
        self.inner.snapshots.forget_incoming(self.partition(), None)
    }

    /// Makes a received snapshot, whose last entry is `last`, the group's state, and purges the log up to it. Nobody may
    /// write to the group meanwhile; whoever reads sees the state before or the one after.
    ///
    /// # Errors
    /// When the disk refuses or is damaged: then the state is what it was, unless a restart finds that it was installed.
    pub fn install(&self, received: Received, last: pb::LogId) -> Result<(), StoreError> {
        let mut install = Install::new(self.clone(), received, last);
        STEPS.iter().try_for_each(|(_, step)| step(&mut install))
    }
}

impl Incoming {
    /// What comes next; none when everything is there.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        (self.number < self.files.len()).then_some(Position { file: self.number, offset: self.there.bytes })
    }

    /// Verifies what is there, up to the first file that is not whole, and deletes what is not of this snapshot.
    fn look(&mut self) -> Result<(), StoreError> {
        while let Some(expected) = self.files.get(self.number).copied() {
            let path = snapshots::file(&self.directory, self.number);
            if !path.exists() {
                break;
            }
            let found = snapshots::measure(&path, expected.bytes.saturating_add(1))?;
            if found.bytes < expected.bytes {
                self.there = found;
                break;
            }
            if found != expected {
                fs::remove_file(&path).map_err(|error| disk(&path, &error))?;
                break;
            }
            // It may have been written by a process that did not live to sync it.
            File::open(&path).and_then(|file| file.sync_all()).map_err(|error| disk(&path, &error))?;
            self.number = self.number.saturating_add(1);
        }
        Ok(())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are not the next ones, a file that they complete is damaged, or the disk refuses.
    pub fn take(&mut self, at: Position, data: &[u8]) -> Result<(), Refused> {
        let expected = self.position();
        let (true, Some(whole)) = (expected == Some(at), self.files.get(self.number).copied()) else {
            return Err(Refused::Place { expected, found: at });
        };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let bytes = self.there.bytes.saturating_add(length);
        if length == 0 || bytes > whole.bytes {
            return Err(Refused::Header("a part of it is empty, or goes beyond its file"));
        }
        let path = snapshots::file(&self.directory, self.number);
        let mut file = match self.open.take() {
            Some(file) => file,
            None => OpenOptions::new().create(true).append(true).open(&path).map_err(|error| disk(&path, &error))?,
        };
        file.write_all(data).map_err(|error| disk(&path, &error))?;
        self.there = SnapshotFile { bytes, crc32c: crc32c::crc32c_append(self.there.crc32c, data) };
        if bytes < whole.bytes {
            self.open = Some(file);
            return Ok(());
        }
        let found = std::mem::replace(&mut self.there, NOTHING);
        if found != whole {
            fs::remove_file(&path).map_err(|error| disk(&path, &error))?;
            return Err(Refused::Damaged { file: self.number, expected: whole, found });
        }
        file.sync_all().map_err(|error| disk(&path, &error))?;
        self.number = self.number.saturating_add(1);
        Ok(())
    }

    /// The snapshot, once everything is there.
    ///
    /// # Errors
    /// When something is missing, or the disk refuses.
    pub fn finish(self) -> Result<Received, Refused> {
        if self.position().is_some() {
            return Err(Refused::Header("it is not all there"));
        }
        let sync = File::open(&self.directory).and_then(|directory| directory.sync_all());
        sync.map_err(|error| disk(&self.directory, &error))?;
        let files = (0..self.files.len()).map(|number| snapshots::file(&self.directory, number)).collect();
        Ok(Received { directory: self.directory, files })
    }
}

impl Received {
    /// Deletes it: it is installed, or not needed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn delete(&self) -> Result<(), StoreError> {
        snapshots::remove(&self.directory)
    }
}

/// An install on its way.
struct Install {
    group: GroupFamily,
    received: Received,
    last: pb::LogId,
    generation: u64,
    next: String,
    before: String,
}

/// A step of an install.
type Step = fn(&mut Install) -> Result<(), StoreError>;

/// What an install does, in its order. The process may end after any of them, or in the middle of one.
const STEPS: [(&str, Step); 7] = [
    ("create the next family", Install::create),
    ("ingest", Install::ingest),
    ("look at what came", Install::look),
    ("commit", Install::commit),
    ("switch", Install::switch),
    ("drop the family before", Install::drop_before),
    ("delete the files", Install::delete_files),
];

impl Install {
    fn new(group: GroupFamily, received: Received, last: pb::LogId) -> Self {
        let (partition, before) = (group.partition(), group.current.generation());
        let generation = before.saturating_add(1);
        let (next, before) = (keys::family(partition, generation), keys::family(partition, before));
        Self { group, received, last, generation, next, before }
    }

    fn create(&mut self) -> Result<(), StoreError> {
        let inner = &self.group.inner;
        if inner.db.cf_handle(&self.next).is_some() {
            // Of an attempt that failed in this process.
            inner.db.drop_cf(&self.next)?;
        }
        Ok(inner.db.create_cf(&self.next, &inner.options.state())?)
    }

    fn ingest(&mut self) -> Result<(), StoreError> {
        let db = &self.group.inner.db;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        Ok(db.ingest_external_file_cf_opts(&family(db, &self.next)?, &options, self.received.files.clone())?)
    }

    /// The files are what was sent, by their checksums. That they are what was meant says the state in them.
    fn look(&mut self) -> Result<(), StoreError> {
        let db = &self.group.inner.db;
        let bytes = db.get_cf(&family(db, &self.next)?, keys::STATE)?;
        let state: Option<pb::GroupState> = bytes.map(|bytes| codec::open("a snapshot's state", bytes)).transpose()?;
        let found = state.and_then(|state| state.applied);
        match found == Some(self.last) {
            true => Ok(()),
            false => Err(StoreError::Damaged(format!("a snapshot up to {:?} has the state of {found:?}", self.last))),
        }
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let (db, partition) = (&self.group.inner.db, self.group.partition());
        let log = family(db, keys::LOG_FAMILY)?;
        let mut batch = WriteBatch::default();
        let pointer = pb::Generation { number: self.generation, snapshot: Some(self.last) };
        batch.put(keys::generation(partition), codec::seal(&pointer));
        let after = self.last.index.saturating_add(1);
        batch.delete_range_cf(&log, keys::entry(partition, 0), keys::entry(partition, after));
        batch.put_cf(&log, keys::purged(partition), codec::seal(&self.last));
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(db.write_opt(batch, &options)?)
    }

    fn switch(&mut self) -> Result<(), StoreError> {
        self.group.current.switch(self.generation);
        Ok(())
    }

    fn drop_before(&mut self) -> Result<(), StoreError> {
        Ok(self.group.inner.db.drop_cf(&self.before)?)
    }

    fn delete_files(&mut self) -> Result<(), StoreError> {
        self.received.delete()
    }
}
