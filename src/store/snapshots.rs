//! Where snapshots lie while they travel: `snapshots/out` has exports, which die with the process, and `snapshots/in` has
//! what was received so far, which a later process goes on with.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Inner, StoreError};
use crate::ids::PartitionId;
use crate::limits;

/// How much of a file is read at a time for its checksum.
const READ_BYTES: usize = 256 * 1024;

/// One file of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its length.
    pub bytes: u64,
    /// The CRC-32C of its bytes.
    pub crc32c: u32,
}

/// The directories, and how many snapshots may travel at a time.
pub(super) struct Snapshots {
    out: PathBuf,
    incoming: PathBuf,
    exports: AtomicU64,
    exporting: Arc<Semaphore>,
    installing: Arc<Semaphore>,
}

pub(super) fn disk(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk(format!("{}: {error}", path.display()))
}

impl Snapshots {
    /// Makes the directories, and deletes the exports of an earlier process: nobody remembers what is in them.
    pub(super) fn open(data: &Path) -> Result<Self, StoreError> {
        let (out, incoming) = (data.join("snapshots/out"), data.join("snapshots/in"));
        remove(&out)?;
        for directory in [&out, &incoming] {
            fs::create_dir_all(directory).map_err(|error| disk(directory, &error))?;
        }
        Ok(Self {
            out,
            incoming,
            exports: AtomicU64::new(0),
            exporting: Arc::new(Semaphore::new(limits::MAX_EXPORTS)),
            installing: Arc::new(Semaphore::new(limits::MAX_INSTALLS)),
        })
    }

    /// Makes the directory of a new export.
    pub(super) fn new_export(&self, partition: PartitionId) -> Result<PathBuf, StoreError> {
        let number = self.exports.fetch_add(1, Ordering::Relaxed);
        let directory = self.out.join(format!("{partition}-{number}"));
        fs::create_dir(&directory).map_err(|error| disk(&directory, &error))?;
        Ok(directory)
    }

    /// Where a snapshot that comes in is gathered. `id` is a name by [`is_name`].
    pub(super) fn incoming(&self, partition: PartitionId, id: &str) -> PathBuf {
        self.incoming.join(format!("{partition}-{id}"))
    }

    /// Deletes what was received for a partition, but `keep`.
    pub(super) fn forget_incoming(&self, partition: PartitionId, keep: Option<&Path>) -> Result<(), StoreError> {
        let prefix = format!("{partition}-");
        for entry in fs::read_dir(&self.incoming).map_err(|error| disk(&self.incoming, &error))? {
            let entry = entry.map_err(|error| disk(&self.incoming, &error))?;
            let is_its = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
            if is_its && keep != Some(entry.path().as_path()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Waits for its turn to write an export.
    pub(super) async fn may_export(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.snapshots.exporting).acquire_owned().await.ok()
    }

    /// Whether one more snapshot may come in now.
    pub(super) fn may_install(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.snapshots.installing).try_acquire_owned().ok()
    }

    /// Refuses what would fill the disk.
    pub(super) fn has_room(&self, bytes: u64) -> Result<(), StoreError> {
        let (free, needed) = (self.free_bytes()?, bytes.saturating_add(limits::SNAPSHOT_FREE_DISK_BYTES));
        match free >= needed {
            true => Ok(()),
            false => Err(StoreError::Disk(format!(
                "{} has {free} bytes free, and a snapshot needs {needed}",
                self.path.display()
            ))),
        }
    }
}

/// Whether a name that another node chose may be part of a path.
#[must_use]
pub(super) fn is_name(id: &str) -> bool {
    (1..=limits::MAX_SNAPSHOT_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Deletes a directory with its files, if it is there.
pub(super) fn remove(directory: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(directory, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where the n-th file of a snapshot lies.
pub(super) fn file(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number:06}.sst"))
}

/// Reads the first `most` bytes of a file, fewer if it is shorter: how many they are, and their CRC-32C.
pub(super) fn measure(path: &Path, most: u64) -> Result<SnapshotFile, StoreError> {
    let mut file = File::open(path).map_err(|error| disk(path, &error))?.take(most);
    let mut buffer = vec![0; READ_BYTES];
    let mut found = SnapshotFile { bytes: 0, crc32c: 0 };
    loop {
        let read = file.read(&mut buffer).map_err(|error| disk(path, &error))?;
        let part = buffer.get(..read).unwrap_or_default();
        if part.is_empty() {
            return Ok(found);
        }
        found.crc32c = crc32c::crc32c_append(found.crc32c, part);
        found.bytes = found.bytes.saturating_add(u64::try_from(read).unwrap_or_default());
    }
}
