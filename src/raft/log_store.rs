//! One group's log: the newest entries in memory, all of them on the disk.
//!
//! An appended entry is readable at once and durable later; replication and apply read from memory. What is not yet
//! durable or not yet applied is never dropped from memory.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::codec::{self, pb};
use crate::ids::PartitionId;
use crate::raft::log_thread::{Done, Durable, LogHandle, Write};
use crate::raft::purge::LogBytes;
use crate::raft::types::{
    EntryId, LogEntry, Types, Vote, entry_from, entry_id_from, entry_id_of, entry_id_to, entry_to, vote_from, vote_to,
};
use crate::store::{LogFamily, StoreError};

/// Bytes of durable and applied entries that stay in memory, for followers that are a little behind.
const TAIL_BYTES: usize = 1024 * 1024;
/// Bytes of entries returned in one limited read: a message to a follower must stay under its transport's limit.
const READ_BYTES: usize = 1024 * 1024;

/// The newest entries.
#[derive(Default)]
struct Tail {
    /// Consecutive entries and their written sizes.
    entries: VecDeque<(LogEntry, usize)>,
    bytes: usize,
    durable: u64,
    applied: u64,
    vote: Option<Vote>,
    purged: Option<EntryId>,
    last: Option<EntryId>,
    size: LogBytes,
}

impl Tail {
    fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.log_id.index)
    }

    fn evict(&mut self) {
        while self.bytes > TAIL_BYTES {
            let droppable = self.durable.min(self.applied);
            match self.entries.front() {
                Some((entry, _)) if entry.log_id.index <= droppable => {}
                Some(_) | None => return,
            }
            if let Some((_, size)) = self.entries.pop_front() {
                self.bytes = self.bytes.saturating_sub(size);
            }
        }
    }

    fn drop_from(&mut self, from: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= from) {
            if let Some((_, size)) = self.entries.pop_back() {
                self.bytes = self.bytes.saturating_sub(size);
            }
        }
    }

    fn drop_until(&mut self, index: u64) {
        while self.entries.front().is_some_and(|(entry, _)| entry.log_id.index <= index) {
            if let Some((_, size)) = self.entries.pop_front() {
                self.bytes = self.bytes.saturating_sub(size);
            }
        }
    }
}

/// One group's log. Cheap to clone: all clones are the same log.
#[derive(Clone)]
pub(super) struct GroupLog {
    partition: PartitionId,
    log: LogHandle,
    tail: Arc<Mutex<Tail>>,
    durable: Durable,
}

impl GroupLog {
    /// Reads where the log stands on the disk.
    pub(super) fn open(partition: PartitionId, log: LogHandle) -> Result<Self, StoreError> {
        let family: &LogFamily = &log.family;
        let vote = family.vote(partition)?.map(vote_from).transpose()?;
        let purged = match family.purged(partition)? {
            Some(bytes) => Some(entry_id_from(&codec::open::<pb::LogId>("the last purged entry's id", bytes)?)),
            None => None,
        };
        let last = family.last_entry(partition)?.map(entry_id_of).transpose()?;
        // Entries that a snapshot covers may have been written once more while it was installed: the purge behind it, which
        // would have removed them, did not come.
        let last = last.filter(|last| purged.is_none_or(|purged: EntryId| purged.index < last.index)).or(purged);
        let first = purged.map_or(0, |id| id.index.saturating_add(1));
        let end = last.map_or(0, |id| id.index.saturating_add(1));
        let size = LogBytes::of(first, end, family.bytes(partition));
        let durable = last.map_or(0, |id| id.index);
        let tail = Arc::new(Mutex::new(Tail { vote, purged, last, durable, size, ..Tail::default() }));
        let shared = Arc::clone(&tail);
        Ok(Self {
            partition,
            log,
            tail,
            durable: Arc::new(move |index| {
                let mut tail = shared.lock().unwrap_or_else(PoisonError::into_inner);
                tail.durable = tail.durable.max(index);
                tail.evict();
            }),
        })
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is written any more, if so.
    pub(super) fn broken(&self) -> Option<&str> {
        self.log.broken()
    }

    /// The last entry's id.
    pub(super) fn last(&self) -> Option<EntryId> {
        self.tail().last
    }

    /// The index of the last purged entry.
    pub(super) fn purged_index(&self) -> u64 {
        self.tail().purged.map_or(0, |id| id.index)
    }

    /// How many bytes were appended so far, how many of them the log has, and up to where it may be purged if `keep` are to
    /// stay.
    pub(super) fn bytes(&self, keep: u64) -> (u64, u64, Option<u64>) {
        let tail = self.tail();
        (tail.size.total(), tail.size.kept(), tail.size.purgeable(keep))
    }

    /// Says that entries up to an index were applied.
    pub(super) fn applied(&self, index: u64) {
        let mut tail = self.tail();
        tail.applied = tail.applied.max(index);
        tail.evict();
    }

    async fn write(&self, write: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let (done, told) = oneshot::channel();
        self.log.send(self.partition, write(done)).await?;
        told.await.map_err(|_| io::Error::other("the log thread has stopped"))?
    }

    /// The entries from `start` up to `end`, exclusive, stopping after `most` bytes but never before the first.
    fn read(&self, start: u64, end: u64, most: usize) -> io::Result<Vec<LogEntry>> {
        let (from_memory, memory_start) = {
            let tail = self.tail();
            let memory_start = tail.first_index().unwrap_or(u64::MAX).min(end);
            let found: Vec<(LogEntry, usize)> = tail
                .entries
                .iter()
                .skip(usize::try_from(start.saturating_sub(memory_start)).unwrap_or(usize::MAX))
                .take_while(|(entry, _)| entry.log_id.index < end)
                .cloned()
                .collect();
            (found, memory_start)
        };
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        if start < memory_start {
            let stored = self.log.family.entries(self.partition, start, memory_start).map_err(io::Error::other)?;
            let mut expected = stored.first().map(|(index, _)| *index);
            for (index, stored) in stored {
                if expected != Some(index) {
                    return Err(io::Error::other(format!("the log has a hole before entry {index}")));
                }
                expected = index.checked_add(1);
                if bytes > most {
                    return Ok(entries);
                }
                bytes = bytes.saturating_add(stored.len());
                entries.push(entry_from(stored).map_err(io::Error::other)?);
            }
            if expected.is_some_and(|next| next != memory_start) && !from_memory.is_empty() {
                return Err(io::Error::other(format!("the log has a hole before entry {memory_start}")));
            }
        }
        for (entry, size) in from_memory {
            if bytes > most {
                return Ok(entries);
            }
            bytes = bytes.saturating_add(size);
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        self.read(start, end, READ_BYTES)
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = vote_to(vote);
        self.write(|done| Write::Vote { bytes, done }).await?;
        self.tail().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let mut written = Vec::new();
        {
            let mut tail = self.tail();
            for entry in entries {
                let bytes = entry_to(&entry);
                tail.bytes = tail.bytes.saturating_add(bytes.len());
                tail.size.add(entry.log_id.index, bytes.len());
                tail.last = Some(entry.log_id);
                written.push((entry.log_id.index, bytes));
                let size = written.last().map_or(0, |(_, bytes)| bytes.len());
                tail.entries.push_back((entry, size));
            }
        }
        let durable = Arc::clone(&self.durable);
        self.log.send(self.partition, Write::Entries { entries: written, flushed, durable }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<EntryId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index.saturating_add(1));
        {
            let mut tail = self.tail();
            tail.drop_from(from);
            tail.size.cut(from);
            tail.durable = tail.durable.min(from.saturating_sub(1));
            tail.last = last_log_id.or(tail.purged);
        }
        self.write(|done| Write::Truncate { from, done }).await
    }

    async fn purge(&mut self, log_id: EntryId) -> io::Result<()> {
        let bytes = codec::seal(&entry_id_to(&log_id));
        {
            let mut tail = self.tail();
            tail.purged = Some(log_id);
            tail.size.purge(log_id.index);
            // By index: behind a snapshot the log may end in entries that never were committed.
            if tail.last.is_none_or(|last| last.index <= log_id.index) {
                tail.last = Some(log_id);
            }
        }
        self.write(|done| Write::Purge { index: log_id.index, log_id: bytes, done }).await?;
        self.tail().drop_until(log_id.index);
        Ok(())
    }
}
